"""A rank whose Python does not run is named, and so is its return."""

from __future__ import annotations

import asyncio

import pytest

from mpidask._lifecycle import silence
from mpidask._lifecycle.silence import SilenceWatch


@pytest.fixture
def look(monkeypatch):
    """Let the watch look, once a call."""
    looks = asyncio.Queue()

    async def sleep(seconds):
        assert seconds == silence.INTERVAL
        await looks.get()
        looks.task_done()

    async def look():
        await looks.put(None)
        await looks.join()
        await real(0)

    real = asyncio.sleep
    monkeypatch.setattr(silence.asyncio, "sleep", sleep)
    return look


def run(scene):
    asyncio.run(asyncio.wait_for(scene(), 60))


def test_a_rank_that_falls_silent_is_named_once_and_so_is_its_return(look, caplog):
    async def scene():
        async with SilenceWatch("rank 1 on n7 (client)") as watch:
            for _ in range(silence._LOOKS - 1):
                await look()
            assert not caplog.messages
            for _ in range(silence._LOOKS):
                await look()
            (line,) = caplog.messages
            assert line.startswith("no sign of life from rank 1 on n7 (client) for ")
            watch.hear()
            watch.hear()
            assert caplog.messages[1].startswith("rank 1 on n7 (client) answers again, after ")
            assert len(caplog.messages) == 2

    run(scene)


def test_a_rank_that_is_heard_now_and_then_is_not_silent(look, caplog):
    async def scene():
        async with SilenceWatch("rank 1") as watch:
            for _ in range(3):
                for _ in range(silence._LOOKS - 1):
                    await look()
                watch.hear()

    run(scene)
    assert not caplog.messages


def test_nobody_looks_after_the_end_or_for_nobody(monkeypatch):
    monkeypatch.setattr(silence, "INTERVAL", 0)

    async def scene():
        before = asyncio.all_tasks()
        async with SilenceWatch("rank 1"):
            (watching,) = asyncio.all_tasks() - before
        await asyncio.wait([watching])
        assert watching.cancelled()
        async with SilenceWatch(None):
            assert asyncio.all_tasks() == before

    run(scene)
