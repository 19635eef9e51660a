"""What launchers tell, and who may hear it."""

from __future__ import annotations

import os

from mpidask._mpi import launcher


def test_launcher_is_hidden_for_a_while(monkeypatch):
    monkeypatch.setenv("PMI_RANK", "3")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    before = dict(os.environ)
    with launcher.hidden_from_children():
        assert "PMI_RANK" not in os.environ
        assert "OMPI_COMM_WORLD_SIZE" not in os.environ
        assert os.environ["SLURM_JOB_ID"] == "7"  # the job is no secret, the launcher is
    assert dict(os.environ) == before
