"""The options of mpidask as flags of a command line, made from their declaration."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from collections.abc import Collection, Mapping
from typing import Any

import click

from mpidask._options import Options
from mpidask._world import was_launched

#: Options that a command line can't give, or gives in another way.
_NO_FLAG = {"comm", "exit"}


class Json(click.ParamType):  # type: ignore[type-arg]
    """A dict, written as JSON."""

    name = "json"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Parse what the user wrote."""
        if isinstance(value, dict):
            return value
        try:
            return json.loads(value)
        except ValueError as error:
            self.fail(f"{value!r} is not JSON: {error}", param, ctx)


class RankedCommand(click.Command):
    """A command that runs on every rank, and speaks of its usage on one.

    Its help shows the options in the groups they are declared in.
    """

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the command line; only rank 0 says what is wrong with it."""
        if _rank() == 0:
            return super().make_context(*args, **kwargs)
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                return super().make_context(*args, **kwargs)
            except click.ClickException as error:
                raise SystemExit(error.exit_code) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                groups.setdefault(getattr(param, "group", "Other"), []).append(record)
        for name, records in groups.items():
            with formatter.section(name):
                formatter.write_dl(records)


def _rank() -> int:
    if not was_launched():  # MPI may not start where no launcher is: on login nodes
        return 0
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):
        return 0
    return int(MPI.COMM_WORLD.Get_rank())


class Flag(click.Option):
    """An option that knows its group."""

    def __init__(self, *args: Any, group: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


def flags(
    leave_out: Collection[str] = (), defaults: Mapping[str, Any] | None = None
) -> list[click.Parameter]:
    """Make the flags of all options, but for those left out.

    Parameters
    ----------
    leave_out : collection of str
        Options that make no sense for a command.
    defaults : mapping, optional
        Defaults of the command that differ from those declared.
    """
    return [
        _flag(field, (defaults or {}).get(field.name, field.metadata["default"]))
        for field in dataclasses.fields(Options)
        if field.name not in _NO_FLAG | set(leave_out)
    ]


def _flag(field: dataclasses.Field[Any], default: Any) -> Flag:
    data, flag = field.metadata, field.name.replace("_", "-")
    declaration = f"--{flag}"
    kind: Any = None
    if field.name == "exclusive_workers":
        declaration = "--exclusive-workers/--inclusive-workers"
    elif data["kind"].startswith("bool") and field.name != "wait_for_workers":
        declaration = f"--{flag}/--no-{flag}"
    elif data["kind"] == "dict":
        kind = Json()
    elif data["kind"] == "int" and data["default"] != "auto":
        kind = click.INT
    if "/" in declaration:
        yes, no = declaration.replace("--", "").split("/")
        default = yes if default else no
    shown = f"  [default: {default}]" if default not in (None, {}) else ""
    return Flag(
        [declaration],
        type=kind,
        default=None,
        help=data["help"] + shown,
        group=data["group"],
    )


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Keep the options that were given, with the types that `Options` expects."""
    found = {name: value for name, value in values.items() if value is not None}
    for name in ("nthreads", "wait_for_workers"):
        if name in found:
            found[name] = _literal(found[name])
    return found


def _literal(text: str) -> Any:
    words = {"true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    return int(text) if text.isdigit() else text
