"""What the scheduler knows of a run."""

from __future__ import annotations

from mpidask._gang.scheduler_plugin import Assignment, Run


def test_a_run_starts_when_all_are_there_and_none_has_left():
    run = Run(1, [Assignment("x", 2, "a", token="2.0"), Assignment("y", 3, "b")])
    assert not run.can_start
    run.assignments[1].token = "3.0"
    assert run.can_start
    run.assignments[0].outcome = "stopped"  # its worker closes
    assert not run.can_start
