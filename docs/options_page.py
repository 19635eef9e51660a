"""The reference of the options, made from their declaration: an extension of Sphinx.

Each option says which functions and commands take it, and the API has a table of all options.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import mpidask.__main__
import mpidask.cli
from mpidask._options import JoinOptions, Options, ProgramOptions

#: The line of options.md that the reference takes the place of.
OPTIONS_MARK = "<!-- all options -->"
#: The line of api.md that the table takes the place of.
TABLE_MARK = "<!-- options of functions -->"

COMMANDS = {"mpidask": mpidask.cli.main, "python -m mpidask": mpidask.__main__.main}


def _groups() -> dict[str, list[dataclasses.Field[Any]]]:
    groups: dict[str, list[dataclasses.Field[Any]]] = {}
    for field in dataclasses.fields(Options):
        groups.setdefault(field.metadata["group"], []).append(field)
    return groups


def options_reference() -> str:
    """Write a section for each group of options, with an entry for each option."""
    return "\n".join(
        f"## {name}\n\n" + "\n".join(map(_entry, fields)) for name, fields in _groups().items()
    )


def _entry(field: dataclasses.Field[Any]) -> str:
    data = field.metadata
    return (
        f"```{{confval}} {field.name}\n"
        f"*{data['kind'].description}; default:* `{data['default']!r}`\n\n"
        f"{data['help'][0].upper()}{data['help'][1:]}.\n\n"
        f"*Taken by* {', '.join([*_functions(field.name), *_flag(field.name)])}\n"
        "```\n"
    )


def _functions(option: str) -> list[str]:
    """Name the functions that take an option."""
    names = []
    if option == "exit" or option in ProgramOptions.__annotations__:
        names += ["mpi_dask_main", "mpi_dask"]
    if option in JoinOptions.__annotations__ or option in ("scheduler_file", "address"):
        names.append("join_existing")
    return [f"{{py:func}}`~mpidask.{name}`" for name in names]


def _flag(option: str) -> list[str]:
    """Name the flag of an option, and the command that has it if it is one alone."""
    flags = {
        command: param.opts[0]
        for command, main in COMMANDS.items()
        for param in main.params
        if param.name == option
    }
    one = f" of `{next(iter(flags))}`" if len(flags) == 1 else ""
    return [f"`{next(iter(flags.values()))}`{one}"] if flags else []


def options_table() -> str:
    """Write a table of all options by groups, with links to their entries."""
    rows = [
        f"| {name} | {', '.join(f'{{confval}}`{field.name}`' for field in fields)} |"
        for name, fields in _groups().items()
    ]
    return "\n".join(["| group | options |", "| --- | --- |", *rows])


def _fill_in_options(app: Any, document: str, source: list[str]) -> None:
    if document == "options":
        source[0] = source[0].replace(OPTIONS_MARK, options_reference())
    if document == "api":
        source[0] = source[0].replace(TABLE_MARK, options_table())


def setup(app: Any) -> dict[str, Any]:
    """Give each option an anchor of its own name, as in ``options.html#scheduler_rank``."""
    from sphinx.domains.std import ConfigurationValue

    class Option(ConfigurationValue):
        index_template = "%s; option"

        def add_target_and_index(self, name: str, sig: str, signode: Any) -> None:
            signode["ids"].append(name)
            super().add_target_and_index(name, sig, signode)

    app.add_directive_to_domain("std", "confval", Option, override=True)
    app.connect("source-read", _fill_in_options)
    return {"parallel_read_safe": True}
