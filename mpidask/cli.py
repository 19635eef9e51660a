"""The command ``mpidask``, also ``dask mpi``: a cluster without a script."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from mpidask import __version__
from mpidask._cluster import COMMAND, JOIN, serve
from mpidask._errors import MPIDaskError, StartupError
from mpidask._flags import Flag, RankedCommand, flags, given

_JOIN = dataclasses.replace(JOIN, error_status=2)


def run(scheduler_address: str | None, scheduler: bool, **values: Any) -> None:
    """Run a Dask cluster on the ranks of an MPI job.

    The scheduler runs on rank 0, workers on all other ranks:

    \b
        mpirun -n 8 mpidask --scheduler-file ~/scheduler.json

    Connect with Client(scheduler_file=...) until one of its processes gets SIGINT or
    SIGTERM, or a client calls shutdown(). Without --security, anyone who can reach the
    scheduler's port can run code as you.

    With --no-scheduler, or with the address of a scheduler, all ranks become workers of
    a cluster that runs already.
    """  # noqa: D301
    options = given(values)
    try:
        if scheduler and scheduler_address is None:
            serve(options, COMMAND)
        else:
            if scheduler_address is not None:
                options |= {"address": scheduler_address, "scheduler_file": None}
            serve(options, _JOIN)
    except StartupError as error:
        raise click.ClickException(str(error)) from None
    except (MPIDaskError, TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None


main = RankedCommand(
    "mpi",
    callback=run,
    help=run.__doc__,
    params=[
        click.Argument(["scheduler_address"], required=False),
        Flag(
            ["--scheduler/--no-scheduler"],
            default=True,
            help="whether to start a scheduler, or to join a cluster  [default: scheduler]",
            group="Roles",
        ),
        *flags({"client_rank", "performance_report", "address"}, COMMAND.defaults),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
click.version_option(__version__, prog_name="mpidask", message="%(prog)s %(version)s")(main)

if __name__ == "__main__":
    main(prog_name="mpidask")
