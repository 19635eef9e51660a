"""What keeps a rank from exiting: threads and child processes of tasks, MPI calls of the program.

When Python exits it joins all threads that are not daemons, and `multiprocessing` its processes;
launchers wait for every process that holds the output. A rank that has only served waits for them
for `shutdown_timeout` at most, as a nanny does for its worker. The rank of the user's program waits
as any Python program does, but logs what for.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import inspect
import linecache
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from mpidask._compat.python import HELPER_PROCESSES, POOL_MODULES, call_before_threads_are_joined
from mpidask._log import logger, logging_to_stderr
from mpidask._text import and_more, call_in, line_in
from mpidask._threads import current_frame, raise_in_main_thread, start_daemon_thread
from mpidask._waiting import FIRST_NOTICE, Deadline, WaitNotice

if TYPE_CHECKING:
    import psutil
    from mpi4py import MPI

#: Interrupts the main thread. Ignored by default and rarely used, so harmless elsewhere.
_WAKE = signal.SIGURG
#: Seconds that threads and processes have at least, and processes from SIGTERM to SIGKILL.
_MINIMUM, _TERMINATION = 1, 2
#: How often, one second apart, the main thread is interrupted while it joins threads.
_ATTEMPTS = 10
#: How many threads and processes of a rank are listed, and how many calls of each thread.
_LISTED, _CALLS = 5, 3
#: Seconds between looks at the main thread's call, and how many in a row must find the same one.
_INTERVAL, _LOOKS = 1.5, 3


class _StopJoining(BaseException):
    """Ends the main thread's wait for threads; Python goes on with its exit."""


class _Exit:
    """The exit of this process."""

    def __init__(self) -> None:
        self.supervision: threading.Thread | None = None
        self.place = ""
        self.timeout = 0.0
        self.deadline: Deadline | None = None
        self.begun = threading.Event()
        self.threads_joined = threading.Event()


_exit = _Exit()


def allow_interrupting_exit() -> None:
    """Let `limit_exit` interrupt the main thread, if this is it and the signal is unused."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(_WAKE) is signal.SIG_DFL:
        signal.signal(_WAKE, _stop_joining)


def report_threads_at_exit(place: str) -> None:
    """Log the program's threads if they delay the exit of this process on `place`."""
    _exit.place = place
    if _exit.supervision is None:
        call_before_threads_are_joined(_exit.begun.set)
        atexit.register(_exit.threads_joined.set)  # called after threads are joined
        _exit.supervision = start_daemon_thread(_supervise_exit)


def limit_exit(place: str, timeout: float) -> None:
    """Limit the exit of this process: what tasks have left must end `timeout` seconds from now."""
    _exit.timeout, _exit.deadline = timeout, Deadline(timeout)
    report_threads_at_exit(place)


def wait_for_processes() -> None:
    """Wait, late in the exit of this process, until its child processes have ended, too."""
    if _exit.deadline is not None and _exit.supervision is not None:
        _exit.threads_joined.set()
        _exit.supervision.join()


def _supervise_exit() -> None:
    _exit.begun.wait()
    if _exit.deadline is None:
        notice = WaitNotice(_threads_notice, first=FIRST_NOTICE)
        notice.repeat_until(_exit.threads_joined)
    else:
        _end_by(_exit.deadline)


def _threads_notice(waited: int) -> str:
    return (
        f"{_exit.place} waits for the program's own threads to end, as Python does, for {waited} s "
        f"now: {_listed(_joined_threads())}"
    )


def _end_by(deadline: Deadline) -> None:
    import psutil

    joined = _exit.threads_joined.wait(max(deadline.left, _MINIMUM))
    _, children = psutil.wait_procs(_children(), max(deadline.left, _MINIMUM if joined else 0))
    left = [*([] if joined else _joined_threads()), *map(_described, children)]
    if left:
        with logging_to_stderr():
            logger.warning(
                "left behind on %s after %g s (shutdown_timeout), still running: %s",
                _exit.place,
                _exit.timeout,
                _listed(left),
            )
    _end_processes(children)
    _interrupt_joining()


def _end_processes(processes: list[psutil.Process]) -> None:
    import psutil

    for end in psutil.Process.terminate, psutil.Process.kill:
        for process in processes:
            with contextlib.suppress(psutil.Error):
                end(process)
        _, processes = psutil.wait_procs(processes, _TERMINATION)


def _interrupt_joining() -> None:
    for _ in range(_ATTEMPTS):
        # Threads that wait for processes may have ended with those.
        if _exit.threads_joined.wait(1) or signal.getsignal(_WAKE) is not _stop_joining:
            return
        sys.unraisablehook = _hide_stop_joining
        raise_in_main_thread(_WAKE)


def _stop_joining(signum: int, frame: object) -> None:
    overdue = _exit.deadline is not None and not _exit.deadline.left
    if overdue and _exit.begun.is_set() and not _exit.threads_joined.is_set():
        raise _StopJoining


def _hide_stop_joining(unraisable: Any) -> None:
    if unraisable.exc_type is not _StopJoining:
        sys.__unraisablehook__(unraisable)


def _children() -> list[psutil.Process]:
    import psutil

    return [
        child
        for child in psutil.Process().children(recursive=True)
        if not any(helper in _command(child) for helper in HELPER_PROCESSES)
    ]


def _described(process: psutil.Process) -> str:
    return f"process {process.pid} ({_command(process)[:100]})"


def _command(process: psutil.Process) -> str:
    import psutil

    try:
        return " ".join(process.cmdline()) or str(process.name())
    except psutil.Error:  # it has ended
        return "?"


def _joined_threads() -> list[str]:
    """Describe the threads that Python joins when it exits."""
    described = []
    for thread in threading.enumerate():
        innermost = current_frame(thread)
        frames = [frame for frame, _ in traceback.walk_stack(innermost)] if innermost else []
        # Pools join their threads even if these are daemons, as all threads of tasks are.
        joined = not thread.daemon or any(_module(frame) in POOL_MODULES for frame in frames)
        if joined and thread is not threading.main_thread():
            described.append(f"thread {thread.name}, in {_calls(frames)}")
    return described


def _calls(frames: list[Any]) -> str:
    """List the innermost calls of a thread, without the standard library's around them."""
    around = ("threading", *POOL_MODULES)
    calls = [call_in(frame) for frame in frames if _module(frame) not in around]
    return ", called by ".join(calls[:_CALLS]) or "Python's own code"


def _module(frame: Any) -> str:
    return str(frame.f_globals.get("__name__"))


def _listed(items: list[str]) -> str:
    return and_more(items[:_LISTED], len(items), "; ")


# -- MPI calls that wait for ranks which have left. ------------------------------------


class CallWatch:
    """Watches for an MPI call in which the main thread waits for ranks that have left.

    It looks once `others_exit` returns whether all other ranks of `comm` have come to their exit:
    a rank that has caught its `SystemExit` may still make the call. `on_call` is called with the
    source of the call, in a thread.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        others_exit: Callable[[], bool],
        on_call: Callable[[str], object],
    ) -> None:
        self._comm = comm
        self._others_exit = others_exit
        self._on_call = on_call
        self._stopped = threading.Event()
        self._watching = start_daemon_thread(self._watch)

    def stop(self) -> None:
        """Stop, before the main thread waits for the other ranks itself."""
        self._stopped.set()
        self._watching.join()

    def _watch(self) -> None:
        seen, looks = None, 0
        while not self._stopped.wait(_INTERVAL):
            if not self._others_exit():
                continue
            frame: Any = current_frame(threading.main_thread())
            now = (frame.f_code, frame.f_lasti)
            seen, looks = now, looks + 1 if now == seen else 1
            if looks >= _LOOKS and (call := _call_without_partners(frame, self._comm)):
                self._on_call(call)
                return


def _call_without_partners(frame: Any, left: MPI.Intracomm) -> str | None:
    """Return the call of a communicator that a frame is in, if its other ranks have left."""
    from mpi4py import MPI

    for call in _current_calls(frame):
        comm = _value(call.func.value, frame) if isinstance(call.func, ast.Attribute) else None
        if isinstance(comm, MPI.Intracomm) and comm and comm.Get_size() > 1:
            others = MPI.Group.Difference(comm.Get_group(), left.Get_group())
            if others.Get_size() == 0:
                return f"{ast.unparse(call)} ({line_in(frame)})"
    return None


def _current_calls(frame: Any) -> Iterator[ast.Call]:
    """Yield the call that a frame is in, from its source; before Python 3.11, all of the line."""
    lines = linecache.getlines(frame.f_code.co_filename, frame.f_globals)
    try:
        tree = ast.parse("".join(lines))
    except (SyntaxError, ValueError):
        return
    where: tuple[Any, ...] = (frame.f_lineno, None, None, None)
    if sys.version_info >= (3, 11):
        where = next(islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), where)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found = (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset)
            if all(want in (None, is_) for want, is_ in zip(where, found, strict=True)):
                yield node


def _value(expression: ast.expr, frame: Any) -> object:
    """Look up a name, or an attribute of one, in a frame, without running any code."""
    match expression:
        case ast.Name(name):
            return frame.f_locals.get(name, frame.f_globals.get(name))
        case ast.Attribute(value, name):
            return inspect.getattr_static(_value(value, frame), name, None)
        case _:
            return None
