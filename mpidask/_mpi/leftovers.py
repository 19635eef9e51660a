"""What tasks leave behind when their rank leaves: threads, pools of them, child processes.

Python waits at its end for all threads that are not daemons, and `multiprocessing` for its
processes; launchers wait for every process that holds the output. A rank that has only served
waits no longer than `shutdown_timeout`, as a nanny does for its worker. One that runs the user's
program waits as any Python program, and says for what.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mpidask._compat.python import call_before_threads_are_joined
from mpidask._log import WORD_INTERVAL, logger, logging_to_stderr
from mpidask._mpi.deadline import Deadline

if TYPE_CHECKING:
    import psutil

#: Interrupts the main thread. Ignored by default, and hardly used, so it does no harm elsewhere.
_WAKE = signal.SIGURG
#: Seconds until the first word of a wait for the program's own threads.
_FIRST_WORD = 10
#: Seconds that leftovers have at least, and child processes from SIGTERM to SIGKILL.
_LEAST, _TERMINATED = 1, 2
#: How often, one second apart, the main thread is interrupted while it waits for threads.
_ATTEMPTS = 10
#: So many leftovers of a rank are named, with so many of the calls that a thread is in.
_NAMED, _CALLS = 5, 3
#: The modules whose pools Python waits for at its end.
_POOLS = ("concurrent.futures.thread", "concurrent.futures.process")
#: Processes of multiprocessing's, and joblib's, that end with the one that started them.
_HELPERS = ("resource_tracker", "multiprocessing.forkserver")


class _LeftBehind(BaseException):
    """Ends the main thread's wait for threads; Python goes on with its end."""


class _Watch:
    """What this process knows of its end."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.place = ""
        self.timeout = 0.0
        self.deadline: Deadline | None = None
        self.program_ended = threading.Event()
        self.threads_ended = threading.Event()
        self.process = os.getpid()


_watch = _Watch()


def allow_leaving_behind() -> None:
    """Let `leave_behind` interrupt the main thread, if this is it and nobody uses the signal."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(_WAKE) is signal.SIG_DFL:
        signal.signal(_WAKE, _stop_waiting)


def tell_of_threads(place: str) -> None:
    """Say what this process waits for if threads of the program hold up its end."""
    _watch.place = place
    if _watch.thread is None:
        call_before_threads_are_joined(_watch.program_ended.set)
        atexit.register(_watch.threads_ended.set)  # Python calls it when it has waited for threads
        _watch.thread = threading.Thread(target=_see_to_the_end, name="mpidask-end", daemon=True)
        _watch.thread.start()


def leave_behind(place: str, timeout: float) -> None:
    """Let this process end in time, whatever tasks have left.

    Parameters
    ----------
    place : str
        Its rank and host.
    timeout : float
        Seconds from now that leftovers have to end.
    """
    _watch.timeout, _watch.deadline = timeout, Deadline(timeout)
    tell_of_threads(place)


def wait_until_left_behind() -> None:
    """Wait at the end of this process until child processes have ended, too."""
    if _watch.deadline is not None and _watch.thread is not None:
        _watch.threads_ended.set()
        _watch.thread.join()


def _see_to_the_end() -> None:
    _watch.program_ended.wait()
    if _watch.deadline is None:
        _tell_what_runs()
    else:
        _end_in_time(_watch.deadline)


def _tell_what_runs() -> None:
    pause, waited = _FIRST_WORD, 0
    while not _watch.threads_ended.wait(pause):
        waited += pause
        with logging_to_stderr():
            logger.info(
                "%s waits for the program's own threads to end, as Python does, for %d s now: %s",
                _watch.place,
                waited,
                _listed(_threads()),
            )
        pause = WORD_INTERVAL


def _end_in_time(deadline: Deadline) -> None:
    import psutil

    ended = _watch.threads_ended.wait(max(deadline.left, _LEAST))
    _, children = psutil.wait_procs(_children(), max(deadline.left, _LEAST if ended else 0))
    left = [*([] if ended else _threads()), *map(_described, children)]
    if left:
        with logging_to_stderr():
            logger.warning(
                "left behind on %s after %g s (shutdown_timeout), still running: %s",
                _watch.place,
                _watch.timeout,
                _listed(left),
            )
    _end_processes(children)
    _go_on_without_threads()


def _end_processes(processes: list[psutil.Process]) -> None:
    import psutil

    for end in psutil.Process.terminate, psutil.Process.kill:
        for process in processes:
            with contextlib.suppress(psutil.Error):
                end(process)
        _, processes = psutil.wait_procs(processes, _TERMINATED)


def _go_on_without_threads() -> None:
    for _ in range(_ATTEMPTS):
        # The end of processes may have been the end of threads that wait for them.
        if _watch.threads_ended.wait(1) or signal.getsignal(_WAKE) is not _stop_waiting:
            return
        sys.unraisablehook = _other_than_ours
        signal.pthread_kill(threading.main_thread().ident or 0, _WAKE)


def _stop_waiting(signum: int, frame: object) -> None:
    ours = _watch.deadline is not None and not _watch.deadline.left
    if ours and _watch.program_ended.is_set() and not _watch.threads_ended.is_set():
        raise _LeftBehind


def _other_than_ours(unraisable: Any) -> None:
    if unraisable.exc_type is not _LeftBehind:
        sys.__unraisablehook__(unraisable)


def _children() -> list[psutil.Process]:
    import psutil

    return [
        child
        for child in psutil.Process().children(recursive=True)
        if not any(helper in _command(child) for helper in _HELPERS)
    ]


def _described(process: psutil.Process) -> str:
    return f"process {process.pid} ({_command(process)[:100]})"


def _command(process: psutil.Process) -> str:
    import psutil

    try:
        return " ".join(process.cmdline()) or str(process.name())
    except psutil.Error:  # it has ended
        return "?"


def _threads() -> list[str]:
    """Describe the threads that Python waits for."""
    current = sys._current_frames()
    described = []
    for thread in threading.enumerate():
        frames = list(_outwards(current.get(thread.ident or 0)))
        # Pools wait for their threads, also for daemons, as all threads of tasks are.
        waited_for = not thread.daemon or any(_module(frame) in _POOLS for frame in frames)
        if waited_for and thread is not threading.main_thread():
            described.append(f"thread {thread.name}, in {_calls(frames)}")
    return described


def _calls(frames: list[Any]) -> str:
    """Name the innermost calls of a thread, without those of the standard library around them."""
    calls = [
        f"{frame.f_code.co_name}() ({os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno})"
        for frame in frames
        if _module(frame) not in ("threading", *_POOLS)
    ]
    return ", called by ".join(calls[:_CALLS]) or "Python's own code"


def _module(frame: Any) -> str:
    return str(frame.f_globals.get("__name__"))


def _outwards(frame: Any) -> Iterator[Any]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _listed(leftovers: list[str]) -> str:
    more = len(leftovers) - _NAMED
    return "; ".join(leftovers[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
