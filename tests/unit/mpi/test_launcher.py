"""What launchers tell, and who may hear it."""

from __future__ import annotations

import os

import psutil
import pytest

from mpidask._mpi import launcher

#: What launchers set for a rank, and what a user had set before.
LAUNCHERS = (
    *("PMI_RANK", "PMI_FD", "HYDI_CONTROL_FD", "MPI_LOCALRANKID"),
    *("OMPI_COMM_WORLD_SIZE", "PMIX_NAMESPACE", "PMIX_SERVER_URI41", "PRTE_LAUNCHED"),
    *("OMPI_MCA_ess", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_pmix", "OMPI_MCA_orte_hnp_uri"),
    "OMPI_MCA_orte_precondition_transports",
    *("SLURM_STEP_ID", "SLURM_PROCID", "SLURM_PMIX_MAPPING_SERV", "SLURM_SRUN_COMM_PORT"),
)
USERS = (
    *("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_JOB_NODELIST", "OMP_NUM_THREADS"),
    *("OMPI_MCA_btl", "OMPI_MCA_pml", "OMPI_MCA_orte_base_help_aggregate", "OMPI_MCA_pmix_verbose"),
    *("OPAL_PREFIX", "PMIX_PREFIX", "PMIX_MCA_gds", "PRTE_MCA_rmaps_default_mapping_policy"),
    *("MPICH_ASYNC_PROGRESS", "I_MPI_FABRICS", "UCX_TLS"),
)


def test_launcher_is_hidden_for_a_while(monkeypatch):
    for name in LAUNCHERS + USERS:
        monkeypatch.setenv(name, "3")
    before = dict(os.environ)
    with launcher.hidden_from_children():
        assert not os.environ.keys() & set(LAUNCHERS)
        assert os.environ.keys() >= set(USERS)  # the job is no secret, the launcher is
        assert launcher.rank() == 3  # and this process may go on asking
    assert dict(os.environ) == before


class Process:
    """A process that has others as its parents."""

    def __init__(self, path, *parents):
        self._path, self._parents = path, parents

    def name(self):
        return self._path.rpartition("/")[2]

    def exe(self):
        if self._path.startswith("/root"):
            raise psutil.AccessDenied
        return self._path

    def parents(self):
        return [Process(path) for path in self._parents]


@pytest.mark.parametrize(
    ["parents", "command"],
    [
        (
            ["/opt/bin/hydra_pmi_proxy", "/opt/bin/mpiexec.hydra", "/bin/bash"],
            "/opt/bin/mpiexec.hydra",
        ),
        (["/bin/bash", "/usr/bin/orterun", "/usr/bin/mpirun"], "/usr/bin/orterun"),
        (["/root/slurmstepd", "/sbin/init"], "slurmstepd"),
        (["/bin/bash", "/sbin/init"], None),
    ],
)
def test_the_launcher_is_the_one_that_did_it(monkeypatch, parents, command):
    monkeypatch.setattr(psutil, "Process", lambda: Process("/bin/python", *parents))
    assert launcher.command() == command
