"""The text of a diagnosis, made from what ranks know."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from types import SimpleNamespace

import dask
import pytest

from mpidask._diagnosis import Facts, facts_of_this_process, file_system, of_job, of_process
from mpidask._placement.node import Node


def facts(host, address, *, cpus=range(8), quota=None, imports=1.0, **software):
    return Facts(
        node=Node(host, frozenset(cpus), quota, addresses=(address,)),
        memory=16 * 2**30,
        networks=(f"ib0 {address}",),
        software={"versions": "dask 1", "python": "/bin/python"} | software,
        launched="PMI_SIZE=4",
        tuning="none",
        import_time=imports,
    )


def report(*ranks, size=None):
    return of_job(dict(enumerate(ranks)), size or len(ranks), "MPICH 5.0.2").splitlines()


A, B = facts("a", "10.0.0.1/24"), facts("b", "10.0.0.2/24")


def test_nodes_are_listed_with_their_ranks():
    lines = report(A, A, B, A)
    assert lines[:2] == ["MPI          MPICH 5.0.2", "ranks        4 on 2 nodes"]
    of_a, of_b = lines[2:4]
    assert of_a == (
        "a            ranks 0-1, 3; 8 CPUs, 8 for each rank; memory 16.0 GiB; ib0 10.0.0.1/24; "
        "imports 1.0 s"
    )
    assert of_b.startswith("b            ranks 2; ")
    assert lines[4] == "scheduler    listens on 10.0.0.1, unless interface or host are given"
    assert len(lines) == 5


def test_ranks_that_gave_no_answer_are_named():
    line = of_job({0: A, 1: A, 4: B}, 6, "MPICH").splitlines()[1]
    assert line == "ranks        6 on 2 nodes; no answer from ranks 2-3, 5"


def test_binding_and_limits_are_shown():
    bound = [facts("a", "10.0.0.1/24", cpus=cpus, quota=3) for cpus in ([0], [1], [2, 3])]
    assert "; 4 CPUs (a cgroup allows the use of 3), 1-2 for each rank; " in report(*bound)[2]


def test_other_software_is_told_once_a_node():
    old = facts("b", "10.0.0.2/24", versions="dask 0")
    lines = report(A, A, old, old)
    assert [line for line in lines if "differs" in line] == ["differs      rank 2: versions dask 0"]


def test_the_time_that_imports_took_is_shown_for_each_node():
    slow = [facts("b", "10.0.0.2/24", imports=seconds) for seconds in (2.04, 31.27)]
    of_a, of_b = report(A, *slow)[2:4]
    assert of_a.endswith("; imports 1.0 s")
    assert of_b.endswith("; imports 2.0-31.3 s")


def test_nodes_without_a_common_network():
    stranger = facts("b", "192.168.1.1/24")
    assert any("set interface or host" in line for line in report(A, stranger))


def test_this_process():
    with dask.config.set({"mpidask": {"nthreads": 3}}):
        own = facts_of_this_process({"interface": "lo"})
    assert own.problem is None
    assert own.startup_timeout == 300
    lines = of_process(own).splitlines()
    assert lines[0].startswith("versions     Python 3.")
    assert f"dask {dask.__version__}" in lines[0]
    assert "options      interface=lo; in Dask's configuration: {'nthreads': 3}" in lines
    assert sum(own.node.host in line for line in lines if line.startswith("this node")) == 1


def test_the_file_systems_of_the_environment_are_named(monkeypatch):
    mounts = {"/": "ext4", "/home": "nfs4", "/home/ana/scratch": "lustre", "/apps": "gpfs"}
    partitions = [SimpleNamespace(mountpoint=place, fstype=kind) for place, kind in mounts.items()]
    monkeypatch.setattr("psutil.disk_partitions", lambda all: partitions)
    monkeypatch.setattr("sys.executable", "/home/ana/env/bin/python")
    monkeypatch.setattr("sys.prefix", "/home/ana/env")
    monkeypatch.setattr("sys.base_prefix", "/apps/python")
    python = facts_of_this_process({}).software["python"]
    assert python == "/home/ana/env/bin/python on nfs4; standard library on gpfs"
    assert file_system("/home/ana/scratch/env") == "lustre"
    assert file_system("/home/ana/scratches") == "nfs4"
    monkeypatch.setattr("sys.base_prefix", "/home/python")
    assert facts_of_this_process({}).software["python"] == "/home/ana/env/bin/python on nfs4"


def test_the_time_that_imports_took():
    program = """
import time
start = time.monotonic()
from mpidask._diagnosis import facts_of_this_process
took = facts_of_this_process({}).import_time
print(took, time.monotonic() - start)
"""
    start = time.monotonic()
    output = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True)
    outside = time.monotonic() - start
    took, inside = map(float, output.stdout.split())
    assert 0 < took < outside
    assert abs(took - inside) < outside - inside + 0.02  # the clock of the start ticks slowly


@pytest.mark.parametrize("given", [{"nthreads": 0}, {"interface": "ib0", "host": "node1"}])
def test_wrong_options_are_a_problem(given):
    assert "ValueError: " in facts_of_this_process(given).problem


def test_what_tunes_mpi_is_shown_and_nothing_else(monkeypatch):
    shown = ("UCX_TLS", "OMPI_MCA_btl", "PRTE_MCA_rmaps_default_mapping_policy", "FI_PROVIDER")
    hidden = (
        *("OMPI_MCA_num_procs", "OMPI_MCA_orte_precondition_transports", "OMPI_MCA_ess_base_jobid"),
        *("OMPI_MCA_shmem_RUNTIME_QUERY_hint", "OMPI_MCA_mpi_oversubscribe", "PMIX_SERVER_URI41"),
        *("MPIR_CVAR_CH3_INTERFACE_HOSTNAME", "FI_PSM3_UUID", "AWS_SECRET"),
    )
    for name in shown + hidden:
        monkeypatch.setenv(name, f"value-of-{name}")
    own = facts_of_this_process({})
    for name in shown:
        assert f"{name}=value-of-{name}" in own.tuning
    for text in map(str, dataclasses.astuple(own)):
        assert not [name for name in hidden if f"value-of-{name}" in text]


def test_an_interface_that_is_not_there_is_named():
    problem = facts_of_this_process({"interface": "no-such"}).problem
    assert "'no-such' is not a valid network interface" in problem


def test_a_problem_is_told_once_by_the_first_rank_that_has_it():
    bad = dataclasses.replace(B, problem="ValueError: no ib1")
    assert report(A, bad, A, bad)[-1] == "problem      rank 1 on b: ValueError: no ib1"
    assert len(report(A, bad, A, bad)) == 6
