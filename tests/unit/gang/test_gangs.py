"""What the scheduler knows of a run."""

from __future__ import annotations

import pytest

from mpidask._gang import gangs
from mpidask._gang.gangs import Assignment, Run


@pytest.fixture(autouse=True)
def no_ulfm(monkeypatch):
    monkeypatch.setattr(gangs, "can_be_revoked", lambda: False)


@pytest.fixture
def run():
    return Run(1, [Assignment("x", 2, "a", token="2.0"), Assignment("y", 3, "b")])


def test_a_run_starts_when_all_are_there_and_none_has_left(run):
    assert not run.can_start
    run.assignments[1].token = "3.0"
    assert run.can_start
    run.assignments[0].outcome = "stopped"  # its worker closes
    assert not run.can_start


@pytest.mark.parametrize(
    "state, breakage",
    [
        ("processing", ""),
        ("memory", ""),
        ("erred", "one of its tasks failed"),
        ("no-worker", "a worker was lost"),
        ("", "it was cancelled"),
    ],
)
def test_a_run_breaks_by_the_states_of_its_tasks(run, state, breakage):
    assert run.find_breakage({"x": "processing", "y": state}) == breakage


def test_a_run_breaks_by_the_loss_of_a_worker(run):
    run.assignments[1].outcome = "lost"
    assert (
        run.find_breakage({"x": "processing", "y": "released"}) == "the worker of rank 3 was lost"
    )


def test_a_run_that_was_cancelled_ends_by_itself_if_it_can(run):
    run.started = True
    assert run.find_breakage({"x": "processing", "y": ""}) == ""
    run.assignments[1].failed = True
    assert run.find_breakage({"x": "processing", "y": ""}) == "it was cancelled"


def test_a_run_that_broke_is_over_when_no_thread_is_in_it(run):
    run.broken = "why"
    assert not run.is_over
    run.assignments[0].outcome = "stopped"
    assert run.is_over
