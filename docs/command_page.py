"""The reference of the commands, from their own help: mends what sphinx-click makes of it."""

from __future__ import annotations

import re
from typing import Any

#: Flags, calls and addresses.
CODE = re.compile(r"--[\w-]+|[\w.]+\(\S*\)|\w+://\S+")

OPTION = ".. option:: "


def _with_code(text: str) -> str:
    return CODE.sub(r"``\g<0>``", text)


def _as_text(app: Any, context: Any, lines: list[str]) -> None:
    """Show a command's help as it was meant, with what is code as code."""
    lines[:] = [
        f"``{line.lstrip('| ')}``" if line.startswith("|") else _with_code(line) for line in lines
    ]


def _say_what_arguments_are(app: Any, context: Any, lines: list[str]) -> None:
    meanings = {
        param.human_readable_name: getattr(param, "text", "") for param in context.command.params
    }
    for number, line in enumerate(lines):
        name = line.removeprefix(OPTION)
        if name in meanings:
            lines[number + 2] = f"    {_with_code(meanings[name])}"


def _group_flags(app: Any, context: Any, lines: list[str]) -> None:
    """Show the flags in the groups of ``--help``."""
    group_of = {
        flag: getattr(param, "group", "Other")
        for param in context.command.params
        for flag in param.opts
    }
    groups: dict[str, list[str]] = {}
    for entry in re.split(rf"^(?={re.escape(OPTION)})", "\n".join(lines), flags=re.MULTILINE):
        if flag := re.match(rf"{re.escape(OPTION)}(--?[\w-]+)", entry):
            groups.setdefault(group_of.get(flag[1], "Other"), []).append(entry)
    lines.clear()
    for name, entries in groups.items():
        lines += [f".. rubric:: {name}", "", *"".join(entries).splitlines(), ""]


def setup(app: Any) -> dict[str, Any]:
    """Connect all of this."""
    app.setup_extension("sphinx_click")
    app.connect("sphinx-click-process-description", _as_text)
    app.connect("sphinx-click-process-arguments", _say_what_arguments_are)
    app.connect("sphinx-click-process-options", _group_flags)
    return {"parallel_read_safe": True}
