"""Configuration of the documentation."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

from addresses import repository

import mpidask

project = "mpidask"
author = copyright = "the mpidask developers"
version = release = mpidask.__version__

extensions = [
    "appearance",
    "benchmark_tables",
    "command_page",
    "gallery",
    "myst_parser",
    "numpydoc",
    "options_page",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
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
numpydoc_xref_param_type = True
numpydoc_xref_aliases = {
    "bool": "python:bool",
    "callable": "collections.abc.Callable",
    "context manager": "contextlib.AbstractContextManager",
    "iterable": "collections.abc.Iterable",
    "path": "os.PathLike",
    "sequence": "collections.abc.Sequence",
}
numpydoc_xref_ignore = {"of", "optional", "or"}
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


html_theme = "furo"
html_title = f"mpidask {release}"
html_static_path = ["static"]
html_css_files = ["mpidask.css"]
html_logo = "static/logo.svg"
html_favicon = "static/favicon.svg"
html_theme_options: dict[str, Any] = {"navigation_with_keys": True}
if url := repository():
    html_theme_options |= {
        "source_repository": url,
        "source_branch": "main",
        "source_directory": "docs/",
        "footer_icons": [{"name": "Repository", "url": url, "html": "Repository", "class": ""}],
    }


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


def _module_of_class(app: Any, module: str, attribute: str) -> str | None:
    """Find the source of a class, whose ``__module__`` is that from which users import it."""
    definition = re.compile(rf"^class {attribute.partition('.')[0]}\b", re.MULTILINE)
    for name, loaded in sys.modules.items():
        file = loaded.__file__ if name.startswith("mpidask.") else None
        if file and definition.search(Path(file).read_text()):
            return name
    return None


def setup(app: Any) -> None:
    """Connect what mends the pages of functions."""
    app.connect("viewcode-follow-imported", _module_of_class)
    app.connect("autodoc-process-signature", _own_signature, priority=400)
    app.connect("autodoc-process-docstring", _leave_out_options, priority=400)  # before numpydoc
