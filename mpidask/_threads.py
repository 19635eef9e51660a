"""Threads and tasks: how mpidask starts them, and what the main thread does.

All threads are daemons. `asyncio.to_thread` and executors are unsuitable for calls that may
never return, such as into a file system that hangs: Python joins their threads when it exits.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from types import FrameType
from typing import Any, TypeVar

from mpidask._text import call_in

Result = TypeVar("Result")

#: Tasks of `start_task`.
_tasks: set[asyncio.Task[Any]] = set()
#: Seconds that a blocked event loop may delay the end of its thread.
_STOP_TIMEOUT = 2


def start_daemon_thread(
    function: Callable[..., object], *args: Any, name: str | None = None
) -> threading.Thread:
    """Call a function in a daemon thread; `threading.excepthook` prints what it raises."""
    name = name or f"mpidask-{getattr(function, '__name__', 'call')}"
    thread = threading.Thread(target=function, args=args, name=name, daemon=True)
    thread.start()
    return thread


def in_daemon_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    """Call a function in a daemon thread, and return the future of its result or exception."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()  # cancelling a wait must not cancel the future

    def call() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    start_daemon_thread(call, name=f"mpidask-{getattr(function, '__name__', 'call')}")
    return future


async def to_daemon_thread(
    function: Callable[..., Any], *args: Any, timeout: float | None = None
) -> Any:
    """Call a function in a daemon thread, and await its result.

    Raises `asyncio.TimeoutError` after `timeout` seconds, and leaves the thread running.
    """
    return await asyncio.wait_for(asyncio.wrap_future(in_daemon_thread(function, *args)), timeout)


def start_task(work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
    """Run a coroutine in a task that is kept; the event loop itself has a weak reference only."""
    task = asyncio.create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return task


def current_frame(thread: threading.Thread) -> FrameType | None:
    """Return the innermost frame of a thread that runs."""
    return sys._current_frames().get(thread.ident or 0)


def raise_in_main_thread(signum: int) -> None:
    """Send a signal to the main thread, which also wakes it from a blocking call."""
    ident = threading.main_thread().ident
    if ident is not None:
        signal.pthread_kill(ident, signum)


class LoopThread:
    """An event loop in a daemon thread, which survives a SystemExit raised in it."""

    def __init__(self) -> None:
        #: Called in the loop after something there has raised SystemExit or KeyboardInterrupt.
        self.on_exit: Callable[[], object] = lambda: None
        self._stopping = False
        self._loop = asyncio.new_event_loop()
        self._thread = start_daemon_thread(self._run, name="mpidask")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        while not self._stopping:
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                # asyncio lets these through when a Dask task raises them.
                self._loop.call_soon(self.on_exit)
        self._loop.close()

    def submit(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, function: Any, *args: Any) -> None:
        self._loop.call_soon_threadsafe(function, *args)

    def innermost_call(self) -> str:
        """Return the function that the loop is executing, with file and line."""
        frame = current_frame(self._thread)
        return call_in(frame) if frame is not None else "no call"

    def stop(self) -> None:
        """Stop the loop, or leave its thread running if something blocks it."""
        self._stopping = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_TIMEOUT)
