"""The memory and the time that a job is granted."""

from __future__ import annotations

import os
import time

import psutil
import pytest

from mpidask._placement.limits import _start_on_this_node, end_of_allocation, granted_memory

GIB = 2**30


@pytest.fixture
def limit_of(tmp_path):
    """Give the lowest limit of a process in certain cgroups, of which some have limits."""

    def limit_of(groups="", limits=(), **environ):
        (tmp_path / "cgroup").write_text(groups)
        for path, text in dict(limits).items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        found = granted_memory(environ, tmp_path / "cgroup", tmp_path)
        return min(found, default=None)

    return limit_of


def test_nothing_may_limit(limit_of, tmp_path):
    assert limit_of() is None
    assert list(granted_memory({}, tmp_path / "none", tmp_path / "none")) == []


@pytest.mark.parametrize("limited", ["job_1", "job_1/step_0", "job_1/step_0/task_3"])
def test_cgroups_version_2(limit_of, limited):
    groups = "0::/job_1/step_0/task_3\n"
    limits = {"job_1/step_0/task_3/memory.max": "max\n", f"{limited}/memory.max": f"{GIB}\n"}
    assert limit_of(groups, limits) == GIB


def test_cgroups_version_1(limit_of):
    groups = "11:cpuset,cpu:/other\n9:memory:/slurm/job_1/step_0\n1:name=systemd:/x\n0::/\n"
    limits = {
        "memory/slurm/memory.limit_in_bytes": f"{2 * GIB}\n",
        "memory/slurm/job_1/memory.limit_in_bytes": f"{GIB}\n",
        "memory/slurm/job_1/step_0/memory.limit_in_bytes": f"{2**63 - 4096}\n",
        "other/memory.max": "1\n",
    }
    assert limit_of(groups, limits) == GIB


def test_what_slurm_has_granted(limit_of):
    assert limit_of(SLURM_MEM_PER_NODE="1024") == GIB
    assert limit_of(SLURM_MEM_PER_CPU="256", SLURM_CPUS_ON_NODE="4") == GIB
    assert limit_of(SLURM_MEM_PER_CPU="256") is None
    assert limit_of(SLURM_MEM_PER_NODE="0") is None


# -- Time. ---------------------------------------------------------------------------


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
