"""Deadlines, polling with back-off, notices."""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import threading

import pytest

from mpidask import _waiting
from mpidask._waiting import Changes, backoff, poll


def test_pauses_double_up_to_the_longest():
    found = list(itertools.islice(backoff(0.03), 8))
    assert found == pytest.approx([0.001, 0.002, 0.004, 0.008, 0.016, 0.03, 0.03, 0.03])


def test_pauses_never_end_and_never_overflow():
    assert next(itertools.islice(backoff(0.1), 5000, None)) == 0.1
    assert next(iter(backoff(0.0001))) == 0.0001


def test_poll_gives_the_first_true_result():
    results = iter([None, 0, "", "here", "late"])
    assert asyncio.run(poll(lambda: next(results))) == "here"
    assert next(results) == "late"


def test_poll_leaves_the_loop_to_others():
    async def test():
        event = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, event.set)
        return await asyncio.wait_for(poll(event.is_set), 5)

    assert asyncio.run(test()) is True


def test_slower_growth_means_more_polls():
    found = list(itertools.islice(backoff(0.5, growth=1.1), 60))
    assert found[:2] == pytest.approx([0.001, 0.0011])
    assert found[59] == pytest.approx(0.1 * sum(found[:59]), rel=0.05)


def test_a_pause_can_be_ended(monkeypatch):
    monkeypatch.setattr(_waiting, "backoff", lambda longest: iter([600, 600]))

    async def test():
        changes, there = Changes(), asyncio.Event()
        waiting = [asyncio.create_task(poll(there.is_set, changes=changes)) for _ in "ab"]
        await asyncio.sleep(0)
        there.set()
        changes.notify()
        return await asyncio.wait_for(asyncio.gather(*waiting), 20)

    assert asyncio.run(test()) == [True, True]


class Request:
    """One of MPI that completes when it is tested for the n-th time."""

    def __init__(self, completes_after):
        self.tests = itertools.count(1)
        self.completes_after = completes_after

    def Test(self):
        return next(self.tests) >= self.completes_after


@pytest.mark.parametrize(
    "interval, text, words",
    [
        (-1, "rank 1 waits", 4 * ["rank 1 waits, for 0 s now"]),
        (60, "rank 1 waits", []),
        (-1, None, []),
    ],
)
def test_a_long_wait_is_told_now_and_then(monkeypatch, caplog, interval, text, words):
    monkeypatch.setattr(_waiting, "NOTICE_INTERVAL", interval)
    with caplog.at_level(logging.INFO, logger="mpidask"):
        _waiting.wait(Request(5), text, itertools.repeat(0))
    assert caplog.messages == words


def test_a_wait_can_be_ended():
    looks = itertools.count(1)
    request = Request(5)
    assert not _waiting.wait(request, None, itertools.repeat(0), unless=lambda: next(looks) == 3)
    assert next(request.tests) == 4
    assert _waiting.wait(request, None, itertools.repeat(0), unless=lambda: False)


def test_changes_wake_all_that_wait():
    changes, found = Changes(), []

    async def wait_for(number):
        await changes.until(lambda: len(found) >= number)
        return number

    async def test():
        waiting = [asyncio.create_task(wait_for(number)) for number in (0, 1, 2)]
        for number in range(3):
            done, _ = await asyncio.wait(waiting, timeout=0.05)
            assert {task.result() for task in done} == set(range(number + 1))
            found.append(number)
            changes.notify()
        return await asyncio.gather(*waiting)

    assert asyncio.run(test()) == [0, 1, 2]


def test_an_error_in_the_thread_of_a_notice_is_shown(monkeypatch):
    shown = queue.SimpleQueue()
    monkeypatch.setattr(threading, "excepthook", shown.put)

    def message(waited):
        raise ValueError("no message")

    with _waiting.WaitNotice(message, first=0):
        assert str(shown.get(timeout=20).exc_value) == "no message"
