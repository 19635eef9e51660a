"""Threads and tasks that nobody waits for."""

from __future__ import annotations

import asyncio
import gc

from mpidask._threads import start_task


def test_a_task_that_nobody_awaits_is_not_collected():
    """The event loop refers to it weakly, and it may wait for what only it refers to."""
    ended = []

    async def wait() -> None:
        try:
            await asyncio.Future()
        finally:
            ended.append(True)

    async def main() -> None:
        start_task(wait())
        await asyncio.sleep(0)
        gc.collect()
        assert not ended

    asyncio.run(main())
    assert ended  # cancelled at the end, as all tasks
