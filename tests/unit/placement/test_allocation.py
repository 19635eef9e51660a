"""When the batch system will end the job."""

from __future__ import annotations

import os
import time

import psutil
import pytest

from mpidask._placement.allocation import _start_on_this_node, end_of_allocation


@pytest.mark.parametrize(
    "environ, end",
    [
        ({}, None),
        ({"SLURM_JOB_END_TIME": "1700003600"}, 1700003600),
        ({"SLURM_JOB_END_TIME": "soon"}, None),
        ({"SLURM_JOB_END_TIME": ""}, None),
        ({"SLURM_JOB_END_TIME": "1700003600000"}, None),
        ({"PBS_WALLTIME": "9" * 20}, None),
        ({"PBS_WALLTIME": "3600"}, 1000 + 3600),
        ({"PBS_WALLTIME": "01:00:00"}, None),
        ({"PBS_WALLTIME": "3600", "MPIDASK_JOB_END_TIME": "1700000000"}, 1700000000),
        ({"SLURM_JOB_END_TIME": "5", "MPIDASK_JOB_END_TIME": "7"}, 7),
    ],
)
def test_end(environ, end):
    assert end_of_allocation(environ, started=lambda: 1000) == end


def test_the_job_began_before_this_process_and_after_the_machine():
    start = _start_on_this_node()
    assert psutil.boot_time() - 1 <= start <= psutil.Process(os.getpid()).create_time()
    assert start < time.time()
