"""The same block without an MPI job: a LocalCluster."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from mpidask import _scheduler_file, _usage
from mpidask._agreement import Cluster
from mpidask._log import logger
from mpidask._options import Options
from mpidask._signals import Interrupt, raise_as_python_would


@contextlib.contextmanager
def local_cluster(options: Options, interrupt: Interrupt) -> Iterator[Cluster]:
    """Start a `distributed.LocalCluster` with the options that apply to one machine."""
    from distributed import LocalCluster

    from mpidask._servers import hide_script_from_nannies

    _usage.entered()
    _usage.warn_if_only_local()
    interrupt.act(raise_as_python_would)
    try:
        hide_script_from_nannies()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"\s*Port \d+ is already in use")
            cluster = LocalCluster(**_arguments(options))
        with cluster:
            link = cluster.dashboard_link if options.dashboard else None
            logger.info(
                "no MPI job, %d workers on this machine, scheduler %s%s",
                len(cluster.workers),
                cluster.scheduler_address,
                f", dashboard {link}" if link else "",
            )
            found = Cluster(cluster.scheduler_address, cluster.security, link)
            assert cluster.scheduler is not None
            with _scheduler_file.written(options.scheduler_file, cluster.scheduler, found):
                yield found
    finally:
        _usage.ended_locally(would_leave=options.exit)


def _arguments(options: Options) -> dict[str, Any]:
    """Translate the options into those of `LocalCluster`."""
    from distributed import Worker

    from mpidask._quiet import QuietNanny
    from mpidask._servers import make_security, worker_class

    # A process for each worker is what LocalCluster is for; a class of one's own may differ.
    cls = worker_class(options)
    cls = QuietNanny if cls is Worker else cls
    given = {
        "host": options.host,
        "interface": options.interface,
        "protocol": options.protocol,
        "local_directory": options.local_directory,
        "threads_per_worker": None if options.nthreads == "auto" else options.nthreads,
        "log_level": options.log_level if issubclass(cls, QuietNanny) else None,
    }
    return {
        "scheduler_port": options.scheduler_port,
        "worker_class": cls,
        "silence_logs": options.log_level,
        "dashboard_address": options.dashboard_address if options.dashboard else None,
        "memory_limit": options.memory_limit,
        "security": make_security(options.security),
        "scheduler_kwargs": dict(options.scheduler_options),
        **{name: value for name, value in given.items() if value is not None},
        **options.worker_options,
    }
