"""A main thread that does not react to a signal: the job ends, and the log shows its stack."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import traceback

from mpidask._lifecycle.signals import FATAL, Interrupt
from mpidask._mpi import job_exit
from mpidask._threads import current_frame, raise_in_main_thread

#: Seconds between reminders of a signal to the main thread.
_REMINDER_PAUSE = 1.0


class StuckMainWatch:
    """Makes sure that the main thread reacts to a signal, or ends the job and shows its stack.

    The system may deliver a signal to any thread. Python's handler runs in the main thread, which
    may sleep on in that case: so the signal is sent to it again and again. If the main thread stays
    in a call outside Python, the job ends. `finally` blocks may take their time.

    Create it in the event loop that is to watch. The timeout is in seconds from the first signal.
    """

    def __init__(self, interrupt: Interrupt, rank: int, timeout: float) -> None:
        self._interrupt = interrupt
        self._rank = rank
        self._timeout = timeout
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        if interrupt.wakeup is not None:
            self._loop.add_reader(interrupt.wakeup, self._read)

    def _read(self) -> None:
        if self._interrupt.wakeup is not None:
            for signum in self._interrupt.wakeup.recv(4096):
                self.expect(signum)

    def expect(self, signum: int) -> None:
        """Watch for the reaction to a signal."""
        if signum in FATAL and self._timer is None:
            self._check_later(signum, self._loop.time() + self._timeout)

    def _check_later(self, signum: int, due: float) -> None:
        pause = min(_REMINDER_PAUSE, max(0, due - self._loop.time()))
        self._timer = self._loop.call_later(pause, self._check, signum, due)

    def _check(self, signum: int, due: float) -> None:
        self._timer = None
        if not self._interrupt.awaits(signum):
            return
        if self._loop.time() < due:
            self._check_later(signum, due)  # before the reminder, which is a signal, too
            raise_in_main_thread(signum)
            return
        job_exit.end_job(
            f"main() on rank {self._rank} has not reacted to {signal.Signals(signum).name} for "
            f"{self._timeout:g} s (shutdown_timeout). It is in\n{_stack_of_main_thread()}",
            128 + signum,
        )


def _stack_of_main_thread() -> str:
    """Format its stack without the frames of mpidask that lead to the user's code."""
    frames = traceback.extract_stack(current_frame(threading.main_thread()))
    package = os.path.dirname(os.path.dirname(__file__)) + os.sep
    ours = [n for n, frame in enumerate(frames) if frame.filename.startswith(package)]
    own = frames[ours[-1] + 1 :] if ours else frames
    return "".join(traceback.format_list(own or frames)).rstrip()
