"""The threads mpidask starts: one for an event loop, one for each call that may block.

The transport has two of its own. All are daemon threads. `asyncio.to_thread` and executors are no
alternative for calls that may never return, such as into a file system that hangs: Python joins
their threads when it exits.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")

#: Seconds that a blocked event loop may delay the end of its thread.
_STOP_TIMEOUT = 2


def in_daemon_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    """Call a function in a daemon thread of its own, and return the future of its result."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()  # cancelling a wait must not cancel the future

    def call() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    name = f"mpidask-{getattr(function, '__name__', 'call')}"
    threading.Thread(target=call, name=name, daemon=True).start()
    return future


async def to_daemon_thread(
    function: Callable[..., Any], *args: Any, timeout: float | None = None
) -> Any:
    """Call a function in a daemon thread, and await its result.

    Raises
    ------
    asyncio.TimeoutError
        If it takes longer than `timeout` seconds. The thread is left running.
    """
    return await asyncio.wait_for(asyncio.wrap_future(in_daemon_thread(function, *args)), timeout)


class LoopThread:
    """An event loop in a daemon thread, which survives a SystemExit raised in it.

    Attributes
    ----------
    on_exit : callable
        Called in the loop after something there has raised SystemExit or KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.on_exit: Callable[[], object] = lambda: None
        self._stopping = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="mpidask", daemon=True)
        self._thread.start()

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
        frame = sys._current_frames()[self._thread.ident or 0]
        file = os.path.basename(frame.f_code.co_filename)
        return f"{frame.f_code.co_name}() ({file}:{frame.f_lineno})"

    def stop(self) -> None:
        """Stop the loop, or leave its thread running if something blocks it."""
        self._stopping = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_TIMEOUT)
