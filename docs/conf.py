"""Configuration of the documentation."""

from __future__ import annotations

import importlib.metadata
import inspect
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

import mpidask

project = "mpidask"
author = copyright = "the mpidask developers"
version = release = mpidask.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "options_page",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "benchmarks/*", "inventories/*"]
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [("py:obj", ".*")]  # single backticks in docstrings may be anything
highlight_language = "none"
smartquotes = False  # what stands in quotes is often to be typed
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
numpydoc_show_class_members = False
autosummary_generate = False
autodoc_typehints = "none"
copybutton_selector = "div.highlight:not(.highlight-output *) > pre"

# A build asks the network for nothing: the names are in files of ours.
intersphinx_mapping = {
    name: (url, f"inventories/{name}.inv")
    for name, url in {
        "dask": "https://docs.dask.org/en/stable",
        "distributed": "https://distributed.dask.org/en/stable",
        "mpi4py": "https://mpi4py.readthedocs.io/en/stable",
        "numpy": "https://numpy.org/doc/stable",
        "python": "https://docs.python.org/3",
    }.items()
}


def repository() -> str | None:
    """Give the "Repository" of pyproject.toml's urls, if one is declared there."""
    urls = importlib.metadata.metadata("mpidask").get_all("Project-URL") or []
    named = dict(entry.split(", ", 1) for entry in urls)
    return named.get("Repository")


html_theme = "furo"
html_title = f"mpidask {release}"
html_static_path = ["static"]
html_css_files = ["mpidask.css"]
html_theme_options: dict[str, Any] = {"navigation_with_keys": True}
if url := repository():
    html_theme_options |= {
        "source_repository": url,
        "source_branch": "main",
        "source_directory": "docs/",
        "footer_icons": [{"name": "Repository", "url": url, "html": "Repository", "class": ""}],
    }


# -- Tables of benchmarks stand on their page as soon as they have been measured. -----

HERE = Path(__file__).parent
MEASURED = re.compile(r"<!-- measured: ([\w-]+) -->")
MPIS = {"mpich": "MPICH", "openmpi": "Open MPI"}
MEASURES = {
    "transport": "bulk data",
    "workloads": "workloads",
    "larger-than-memory": "more data than memory",
    "gangs": "MPI functions",
    "broadcast": "large data for all tasks",
}


def _measured(found: re.Match[str]) -> str:
    files = {mpi: f"benchmarks/{found[1]}-{mpi}" for mpi in MPIS}
    there = {mpi: name for mpi, name in files.items() if (HERE / f"{name}.md").exists()}
    parts = [
        f"### {MPIS[mpi]}: {MEASURES[found[1]]}\n\n```{{include}} {name}.md\n```\n\n"
        + (f"![The table as a plot]({name}.svg)\n" if (HERE / f"{name}.svg").exists() else "")
        for mpi, name in there.items()
    ]
    return "\n".join(parts) or "*Not measured yet.*"


def _fill_in_benchmarks(app: Any, document: str, source: list[str]) -> None:
    if document == "benchmarks":
        source[0] = MEASURED.sub(_measured, source[0])


# -- The options have a page of their own: elsewhere they are only referred to. -----


def _own_signature(app: Any, what: str, name: str, function: Any, *rest: Any) -> Any:
    """Show a function that takes all options as ``(..., **options)``."""
    code = getattr(function, "__code__", None)
    if code is None or not code.co_flags & inspect.CO_VARKEYWORDS:
        return None
    own = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    all_of_them = inspect.signature(function).parameters
    parameters = [all_of_them[name].replace(annotation=inspect.Parameter.empty) for name in own]
    options = inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD)
    return str(inspect.Signature([*parameters, options])), None


def _leave_out_options(
    app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    text = "\n".join(lines)
    text = re.sub(r"^Other Parameters\n-+\n(.*?)\n\n", "", text, flags=re.DOTALL | re.MULTILINE)
    lines[:] = text.replace("``options.html#nthreads``", ":doc:`options`").split("\n")


#: Flags, calls and addresses.
CODE = re.compile(r"--[\w-]+|[\w.]+\(\S*\)|\w+://\S+")


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
        name = line.removeprefix(".. option:: ")
        if name in meanings:
            lines[number + 2] = f"    {_with_code(meanings[name])}"


def setup(app: Any) -> None:
    """Connect what mends the pages of benchmarks, functions and commands."""
    app.connect("source-read", _fill_in_benchmarks)
    app.connect("autodoc-process-signature", _own_signature, priority=400)
    app.connect("autodoc-process-docstring", _leave_out_options, priority=400)  # before numpydoc
    app.connect("sphinx-click-process-description", _as_text)
    app.connect("sphinx-click-process-arguments", _say_what_arguments_are)
