"""Configuration of the documentation, and the generator of its page of options."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import mpidask
from mpidask.__main__ import main as script
from mpidask._flags import Flag
from mpidask._options import Options
from mpidask.cli import main as command

project = "mpidask"
author = "the mpidask developers"
version = release = mpidask.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "numpydoc",
    "sphinx_click",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "benchmarks/*"]
default_role = "code"
highlight_language = "none"
myst_heading_anchors = 3
numpydoc_show_class_members = False
autosummary_generate = False
autodoc_typehints = "none"
html_theme = "dask_sphinx_theme" if importlib.util.find_spec("dask_sphinx_theme") else "furo"
html_title = "mpidask"

#: The line of options.md that the tables take the place of.
OPTIONS_MARK = "<!-- tables of options -->"


def options_tables() -> str:
    """Write one table of options for each of their groups, from their declaration."""
    groups: dict[str, list[dataclasses.Field[Any]]] = {}
    for field in dataclasses.fields(Options):
        groups.setdefault(field.metadata["group"], []).append(field)
    return "\n".join(line for name, fields in groups.items() for line in _table(name, fields))


def _table(name: str, fields: list[dataclasses.Field[Any]]) -> list[str]:
    flag_of = {
        param.name: "/".join(param.opts + param.secondary_opts)
        for param in [*command.params, *script.params]
        if isinstance(param, Flag)
    }
    lines = [f"## {name}", "", "| option | kind | default | meaning | flag |", "|" + " --- |" * 5]
    for field in fields:
        data, flag = field.metadata, flag_of.get(field.name)
        cells = [
            f"`{field.name}`",
            data["kind"],
            f"`{data['default']!r}`",
            data["help"].replace("|", "\\|"),
            f"`{flag}`" if flag else "none",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _fill_in_options(app: Any, document: str, source: list[str]) -> None:
    if document == "options":
        source[0] = source[0].replace(OPTIONS_MARK, options_tables())


def setup(app: Any) -> None:
    """Connect the generator."""
    app.connect("source-read", _fill_in_options)
