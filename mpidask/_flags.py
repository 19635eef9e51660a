"""Command-line flags, generated from the declaration of the options."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from collections.abc import Collection, Mapping
from typing import Any

import click

from mpidask._errors import MPIDaskError
from mpidask._lifecycle.front_end import COMMAND, raise_once
from mpidask._mpi import launcher
from mpidask._options import Options

#: Options that have no flag, as commands set them or have no use for them.
_NO_FLAG = {"comm", "exit"}


class Json(click.ParamType):  # type: ignore[type-arg]
    """A dict, written as JSON."""

    name = "json"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Parse the JSON."""
        if isinstance(value, dict):
            return value
        try:
            return json.loads(value)
        except ValueError as error:
            self.fail(f"{value!r} is not JSON: {error}", param, ctx)


#: Click's parameter types by metavar; all others are strings.
_PARAMETER_TYPES = {"INT": click.INT, "PORT": click.INT, "JSON": Json(), "PATH": click.Path()}


class RankedCommand(click.Command):
    """A command that runs on all ranks, and prints help and usage errors on one of them.

    Its help shows the options in groups, as declared.
    """

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the command line; only one rank reports usage errors."""
        quiet = contextlib.redirect_stdout(io.StringIO())
        try:
            with quiet if launcher.rank() else contextlib.nullcontext():  # --help, --version
                return super().make_context(*args, **kwargs)
        except click.ClickException as error:
            if launcher.size() == 1:
                raise
            try:  # all leave together: some launchers end the job with the first rank that exits
                raise_once(error, {}, COMMAND)
            except MPIDaskError as other:
                raise click.ClickException(str(other)) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group."""
        groups: dict[str, list[tuple[str, str]]] = {
            "Arguments": [
                (param.human_readable_name, param.text)
                for param in self.get_params(ctx)
                if isinstance(param, Positional)
            ]
        }
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                groups.setdefault(getattr(param, "group", "Other"), []).append(record)
        for name, records in groups.items():
            if not records:
                continue
            with formatter.section(name):
                formatter.write_dl(records)


class Positional(click.Argument):
    """An argument with a help text, which Click's lack."""

    def __init__(self, *args: Any, text: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.text = text


class Flag(click.Option):
    """An option with a group."""

    def __init__(self, *args: Any, group: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


#: Print a description of the job instead of running it.
DIAGNOSE = click.Option(
    ["--diagnose"],
    is_flag=True,
    is_eager=True,
    help="print versions, MPI, nodes, network and options, as text to paste into a report",
)


def flags(
    leave_out: Collection[str] = (), defaults: Mapping[str, Any] | None = None
) -> list[click.Parameter]:
    """Return the flags of all options that make sense for a command, with its own defaults."""
    return [
        _flag(field, (defaults or {}).get(field.name, field.metadata["default"]))
        for field in dataclasses.fields(Options)
        if field.name not in _NO_FLAG | set(leave_out)
    ]


def _flag(field: dataclasses.Field[Any], default: Any) -> Flag:
    data, flag = field.metadata, field.name.replace("_", "-")
    metavar = data["kind"].metavar
    declaration = f"--{flag}"
    if field.name == "exclusive_workers":
        declaration = "--exclusive-workers/--inclusive-workers"
    elif not metavar:
        declaration = f"--{flag}/--no-{flag}"
    if not metavar:
        yes, no = declaration.replace("--", "").split("/")
        default = yes if default else no
    shown = f"  [default: {default}]" if default not in (None, {}) else ""
    return Flag(
        [declaration],
        type=_PARAMETER_TYPES.get(metavar),
        metavar=metavar or None,
        default=None,
        help=data["help"] + shown,
        group=data["group"],
    )


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Return the options given on the command line, with the types that `Options` expects."""
    found = {name: value for name, value in values.items() if value is not None}
    for name in ("nthreads", "wait_for_workers"):
        if name in found:
            found[name] = _literal(found[name])
    return found


def _literal(text: str) -> Any:
    words = {"true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    return int(text) if text.isdecimal() else text
