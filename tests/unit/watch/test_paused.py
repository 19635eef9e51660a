"""Workers that stay paused are named, with what their memory is made of and what helps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from distributed.core import Status
from distributed.scheduler import MemoryState

from mpidask._dask.memory import METRICS
from mpidask._watch import paused
from mpidask._watch.paused import PauseWatch

MIB = 2**20


def worker(name, process=500, managed=0, spilled=0, pool=0, pause=0.8):
    memory = MemoryState(
        process=process * MIB,
        managed=managed * MIB,
        spilled=spilled * MIB,
        unmanaged_old=100 * MIB,
    )
    metrics = {} if pause is None else {METRICS: {"pool": pool * MIB, "pause": pause}}
    return SimpleNamespace(
        name=name, status=Status.paused, memory=memory, memory_limit=600 * MIB, metrics=metrics
    )


def cluster(*workers):
    return SimpleNamespace(workers={f"tcp://{one.name}": one for one in workers})


def looks(watch, number):
    return [watch.look() for _ in range(number)]


def test_if_all_are_paused_they_are_named_at_the_second_look_and_once():
    watch = PauseWatch(cluster(worker("a"), worker("b")))
    first, second, *others = looks(watch, 20)
    assert first is None and others == [None] * 18
    assert second.startswith("all workers are paused")
    assert "a uses 500.00 MiB of 600.00 MiB" in second and "b uses" in second


def test_if_some_are_they_are_named_when_they_stay_so_and_again_in_their_next_pause():
    one, other = worker("a"), worker("b")
    other.status = Status.running
    watch = PauseWatch(cluster(one, other))
    said = looks(watch, 20)
    assert said[:5] == [None] * 5 and said[6:] == [None] * 14
    assert said[5].startswith("1 of the workers stay paused for 25 s and more")
    assert "a uses" in said[5] and "b uses" not in said[5]
    one.status = Status.running
    assert watch.look() is None
    one.status = Status.paused
    assert [bool(line) for line in looks(watch, 7)] == [False] * 5 + [True, False]


def test_short_pauses_are_nobodys_concern():
    one = worker("a")
    watch = PauseWatch(cluster(one, worker("b")))
    for _ in range(5):
        for status in Status.paused, Status.running:
            one.status = status
            assert watch.look() is None or status == Status.running


def test_of_many_the_first_ten_are_named():
    watch = PauseWatch(cluster(*[worker(f"w{n}") for n in range(10_000)]))
    _, line = looks(watch, 2)
    assert line.count(" uses ") == 10
    assert "w9 uses" in line and "and 9990 more" in line
    assert line.count("It helps") == 1


@pytest.mark.parametrize(
    ("contents", "advice"),
    [
        ({"managed": 400}, "local_directory"),
        ({"managed": 10, "spilled": 900}, "smaller pieces"),
        ({"process": 81, "pause": 0}, "distributed.worker.memory.pause: 0,"),
        ({"process": 200, "pause": 0.3}, "distributed.worker.memory.pause: 0.3,"),
        ({"pause": None}, "smaller pieces"),
    ],
)
def test_the_advice_looks_at_the_cause(contents, advice):
    _, line = looks(PauseWatch(cluster(worker("a", **contents))), 2)
    hints = {"local_directory", "smaller pieces", paused._PAUSE}
    assert advice in line
    assert [hint for hint in hints if hint in line] == [
        hint for hint in hints if advice.startswith(hint)
    ]


def test_the_parts_of_the_memory_add_up():
    one = worker("a", managed=120, spilled=900, pool=60)
    _, line = looks(PauseWatch(cluster(one)), 2)
    assert (
        "a uses 500.00 MiB of 600.00 MiB (120.00 MiB are results, 900.00 MiB more on disk, "
        "60.00 MiB free buffers of the transport, 320.00 MiB of tasks and libraries, 280.00 MiB "
        "of them recent)"
    ) in line


def test_no_workers_are_not_all_workers():
    assert looks(PauseWatch(cluster()), 5) == [None] * 5
