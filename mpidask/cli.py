"""The command ``mpidask``, also ``dask mpi``: a cluster without a script."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import click

from mpidask import __version__
from mpidask import _diagnosis as diagnosis
from mpidask._errors import MPIDaskError, StartupError
from mpidask._flags import DIAGNOSE, Flag, Positional, RankedCommand, flags, given
from mpidask._lifecycle.front_end import COMMAND, JOIN, is_usage_error, serve

_JOIN = dataclasses.replace(JOIN, error_status=2)


def run(scheduler_address: str | None, scheduler: bool, diagnose: bool, **values: Any) -> None:
    """Run a Dask cluster on the ranks of an MPI job.

    The scheduler runs on rank 0, workers on all other ranks:

    \b
        mpirun -n 8 mpidask --security --scheduler-file ~/scheduler.json

    Connect with Client(**mpidask.connection("~/scheduler.json")). The cluster runs until
    one of its processes gets SIGINT or SIGTERM, or a client calls shutdown(). Without
    --security, anyone who can reach the scheduler's port can run code as you.

    With --no-scheduler, or with the address of a scheduler, all ranks become workers of
    a cluster that runs already. To run a script: python -m mpidask SCRIPT.
    """  # noqa: D301
    options = given(values)
    if diagnose:
        raise SystemExit(diagnosis.diagnose(options, COMMAND.defaults))
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
        if not is_usage_error(error):
            raise
        raise click.UsageError(str(error)) from None


def _check_address(
    context: click.Context, parameter: click.Parameter, address: str | None
) -> str | None:
    if address is not None and (address.endswith(".py") or os.path.exists(address)):
        raise click.UsageError(
            f"{address!r} is a file, not the address of a scheduler. To run a script: "
            f"python -m mpidask {address}. To join the cluster of a scheduler file: "
            "mpidask --no-scheduler --scheduler-file FILE"
        )
    return address


main = RankedCommand(
    "mpi",
    callback=run,
    help=run.__doc__,
    params=[
        Positional(
            ["scheduler_address"],
            required=False,
            callback=_check_address,
            text="join the cluster of this scheduler, such as tcp://10.0.0.7:8786",
        ),
        Flag(
            ["--scheduler/--no-scheduler"],
            default=True,
            help="start a scheduler, or join a cluster that runs already  [default: scheduler]",
            group="Roles",
        ),
        *flags({"client_rank", "performance_report", "address"}, COMMAND.defaults),
        DIAGNOSE,
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
click.version_option(__version__, prog_name="mpidask", message="%(prog)s %(version)s")(main)

if __name__ == "__main__":
    main(prog_name="mpidask")
