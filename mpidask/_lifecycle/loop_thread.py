"""An event loop in a thread of its own, which outlives what tasks of Dask's may raise."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")

#: Seconds that what runs in the loop may hold up its end.
_STOP_TIMEOUT = 2


class LoopThread:
    """An event loop in a thread of its own.

    Attributes
    ----------
    on_exit : callable
        Called in the loop when something that ran there has raised SystemExit.
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
                # asyncio lets these through when a task of Dask's raises them.
                self._loop.call_soon(self.on_exit)
        self._loop.close()

    def submit(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, function: Any, *args: Any) -> None:
        self._loop.call_soon_threadsafe(function, *args)

    def innermost_call(self) -> str:
        """Name the function that the loop is in."""
        frame = sys._current_frames()[self._thread.ident or 0]
        file = os.path.basename(frame.f_code.co_filename)
        return f"{frame.f_code.co_name}() ({file}:{frame.f_lineno})"

    def stop(self) -> None:
        """Stop the loop, or leave it behind if something blocks it."""
        self._stopping = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_TIMEOUT)
