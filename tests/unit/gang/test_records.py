"""What the scheduler knows of a run."""

from __future__ import annotations

from mpidask._gang.records import Member, Run


def test_a_run_starts_when_all_are_there_and_none_has_left():
    run = Run(1, (2, 3), [Member("a", token="2.0"), Member("b")])
    assert not run.can_start
    run.members[1].token = "3.0"
    assert run.can_start
    run.members[0].left = "stopped"  # its worker closes
    assert not run.can_start
