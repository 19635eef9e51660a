"""Run an unmodified Dask script, whose own ``Client()`` finds the cluster.

::

    mpirun -n 8 python -m mpidask [options] script.py [args]
    mpirun -n 8 python -m mpidask [options] -m module [args]
    mpirun -n 8 python -m mpidask [options] -c code [args]

The script runs on the client rank alone, as plain ``python script.py`` would run it.
"""

from __future__ import annotations

import os
import pkgutil
import runpy
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import click
import wrapt

from mpidask import __version__
from mpidask import _diagnosis as diagnosis
from mpidask._api import mpi_dask
from mpidask._dask.client import local_scripts_use_the_job
from mpidask._errors import MPIDaskError, trace_beyond, without_internal_frames
from mpidask._flags import DIAGNOSE, Positional, RankedCommand, flags, given
from mpidask._lifecycle.front_end import is_usage_error


def run(
    module: str | None, code: str | None, program: tuple[str, ...], diagnose: bool, **values: Any
) -> None:
    """Run an unmodified Dask script on the ranks of an MPI job.

    The script runs on rank 1 alone; its own Client() finds the cluster. The scheduler
    runs on rank 0, workers on all other ranks. Options of mpidask go before the
    script's name.
    """
    if diagnose:
        raise SystemExit(diagnosis.diagnose(given(values)))
    execute, argv = _program(module, code, program)
    if not getattr(sys.flags, "safe_path", False):  # since Python 3.11
        # On all ranks, as tasks import modules from the script's directory.
        sys.path[0] = _folder_of(argv[0]) if execute is _run_path else ""
    sys.argv[:] = argv
    _refuse_dask_mpi()
    try:
        # exit=True: no other rank may run the script.
        with mpi_dask(**given(values), exit=True), local_scripts_use_the_job():
            _run_as_python_would(execute, module or code or argv[0])
    except (MPIDaskError, TypeError, ValueError) as error:
        if not is_usage_error(error):
            raise
        raise click.ClickException(str(error)) from None


def _refuse_dask_mpi() -> None:
    """Make dask-mpi's functions raise: they would wait forever for the other ranks.

    Those do not run the script.
    """

    def refuse(*args: object, **kwargs: object) -> None:
        with without_internal_frames():
            raise MPIDaskError(
                "dask-mpi's initialize() and execute() can't be used under python -m mpidask, "
                "which has made the cluster already: leave the call out, or run the script "
                "without -m mpidask"
            )

    def replace(module: Any) -> None:
        for name in {"initialize", "execute"} & vars(module).keys():
            setattr(module, name, refuse)

    for name in ("dask_mpi.initialize", "dask_mpi.execute", "dask_mpi.core"):
        wrapt.register_post_import_hook(replace, name)


def _folder_of(script: str) -> str:
    """Return the entry of `sys.path` for a script, a directory, or a zip file."""
    script = os.path.realpath(script)
    return script if pkgutil.get_importer(script) else os.path.dirname(script)


def _check_program(
    context: click.Context, parameter: click.Parameter, program: tuple[str, ...]
) -> tuple[str, ...]:
    if not any(context.params.get(name) for name in ("module", "code", "diagnose")):
        if not program:
            raise click.UsageError("no script, -m module or -c code to run")
        if not os.path.exists(program[0]):
            raise click.UsageError(f"can't open {program[0]!r}: no such file")
    return program


def _program(
    module: str | None, code: str | None, program: tuple[str, ...]
) -> tuple[Callable[[str], object], list[str]]:
    """Return the function that runs the program, and its `sys.argv`."""
    if module is not None:
        return _run_module, ["-m", *program]
    if code is not None:
        return _run_code, ["-c", *program]
    return _run_path, list(program)


def _run_path(path: str) -> object:
    return runpy.run_path(path, run_name="__main__")


def _run_module(name: str) -> object:
    return runpy.run_module(name, run_name="__main__", alter_sys=True)


def _run_code(code: str) -> object:
    # In a new module, without the names of this one.
    module = sys.modules["__main__"] = ModuleType("__main__")
    exec(compile(code, "<string>", "exec", dont_inherit=True), module.__dict__)
    return module


def _run_as_python_would(execute: Callable[[str], object], what: str) -> None:
    """Run the program; a traceback does not show mpidask's frames."""
    try:
        execute(what)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        ours = {__file__, runpy.__file__, "<frozen runpy>"}
        error = error.with_traceback(trace_beyond(error.__traceback__, ours))
        sys.excepthook(type(error), error, error.__traceback__)
        raise SystemExit(1) from None


class _ProgramCommand(RankedCommand):
    """A command whose options end where the program begins, as Python's own do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Pass on to the program what follows it."""
        taking_values = {
            name
            for param in self.get_params(ctx)
            if isinstance(param, click.Option) and not param.is_flag
            for name in param.opts
        }
        words = iter(enumerate(args, 1))
        for end, word in words:
            if word in taking_values:
                end, _ = next(words, (end, ""))
            if word.startswith(("-m", "-c")):
                own, others = args[:end], args[end:]
                return super().parse_args(ctx, [*own, "--", *others] if others else own)
            if word == "--" or not word.startswith("-"):
                break
        return super().parse_args(ctx, args)


main = _ProgramCommand(
    "python -m mpidask",
    callback=run,
    help=run.__doc__,
    params=[
        click.Option(
            ["-m", "module"], metavar="MODULE", is_eager=True, help="run a module as a script"
        ),
        click.Option(["-c", "code"], metavar="CODE", is_eager=True, help="run the code given"),
        Positional(
            ["program"],
            nargs=-1,
            type=click.UNPROCESSED,
            metavar="SCRIPT [ARGS]...",
            callback=_check_program,
            text="the script, a directory or zip file with __main__.py, and its arguments",
        ),
        *flags({"address", "death_timeout", "reconnect", "trust_scheduler_file"}),
        DIAGNOSE,
    ],
    context_settings={
        "help_option_names": ["-h", "--help"],
        "allow_interspersed_args": False,
    },
)
click.version_option(__version__, prog_name="mpidask", message="%(prog)s %(version)s")(main)

if __name__ == "__main__":
    main(prog_name="python -m mpidask")
