"""Calls that may never return, in threads that nobody waits for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


def in_daemon_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    """Call a function in a thread of its own, and give the future of its result.

    Python joins the threads of its executors when it ends, that of `asyncio.to_thread`
    among them; this one it leaves behind.
    """
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()  # who stops waiting for it can't cancel it

    def call() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    name = f"mpidask-{getattr(function, '__name__', 'call')}"
    threading.Thread(target=call, name=name, daemon=True).start()
    return future


async def in_time(timeout: float, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in this way, and await its result.

    Raises
    ------
    asyncio.TimeoutError
        If it takes longer than these seconds.
    """
    return await asyncio.wait_for(asyncio.wrap_future(in_daemon_thread(function, *args)), timeout)
