"""The parts of the pages that are made from the code.

A page says where: ``<!-- generated: options -->``.
"""

import dataclasses
import re
from typing import Any

import click

MARK = re.compile(r"^<!-- generated: (.+) -->$", re.MULTILINE)


def options() -> str:
    """Make a table for each group of options, from their declaration."""
    from mpidask._options import Options

    groups: dict[str, list[Any]] = {}
    for field in dataclasses.fields(Options):
        groups.setdefault(field.metadata["group"], []).append(field)
    parts = []
    for group, fields in groups.items():
        parts.append(f"## {group}\n")
        parts.append("| option | type | default | meaning |\n| --- | --- | --- | --- |")
        for field in fields:
            data = field.metadata
            help = data["help"].replace("|", r"\|")
            parts.append(f"| `{field.name}` | {data['kind']} | `{data['default']!r}` | {help} |")
        parts.append("")
    return "\n".join(parts)


def command(name: str) -> str:
    """Show the help of a command as the command shows it."""
    from mpidask import __main__, cli

    found = {"mpidask": cli.main, "python -m mpidask": __main__.main}[name]
    context = click.Context(found, info_name=name, terminal_width=88, max_content_width=88)
    return f"```text\n{found.get_help(context)}\n```"


def fill(text: str) -> str:
    """Replace the marks of a page by what they stand for."""
    return MARK.sub(lambda mark: options() if mark[1] == "options" else command(mark[1]), text)


def _read(app: Any, name: str, source: list[str]) -> None:
    source[0] = fill(source[0])


def setup(app: Any) -> dict[str, Any]:
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}
