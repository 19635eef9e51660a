"""Executions of gangs, where MPI has no communicator left."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from mpi4py import MPI

from mpidask._gang import execution

pytestmark = pytest.mark.loads_mpi


def exhausted():
    def create(group, tag):
        raise MPI.Exception(MPI.ERR_OTHER)

    return SimpleNamespace(Get_group=MPI.COMM_SELF.Get_group, Create_group=create)


def test_failures_that_used_them_up_are_named(monkeypatch):
    monkeypatch.setattr(execution, "_leaked", [MPI.COMM_SELF] * 3)
    with pytest.raises(RuntimeError, match="3 are in use by functions of submit_mpi that failed"):
        execution.create_communicator(exhausted(), [0], 1)


def test_other_errors_are_those_of_mpi(monkeypatch):
    monkeypatch.setattr(execution, "_leaked", [])
    with pytest.raises(MPI.Exception):
        execution.create_communicator(exhausted(), [0], 1)
