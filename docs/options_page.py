"""The reference of the options, made from their declaration: an extension of Sphinx."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from mpidask._options import Options

#: The line of options.md that the reference takes the place of.
OPTIONS_MARK = "<!-- all options -->"


def options_reference() -> str:
    """Write a section for each group of options, with an entry for each option."""
    groups: dict[str, list[dataclasses.Field[Any]]] = {}
    for field in dataclasses.fields(Options):
        groups.setdefault(field.metadata["group"], []).append(field)
    return "\n".join(
        f"## {name}\n\n" + "\n".join(map(_entry, fields)) for name, fields in groups.items()
    )


def _entry(field: dataclasses.Field[Any]) -> str:
    data = field.metadata
    return (
        f"```{{confval}} {field.name}\n"
        f"*{data['kind'].words}; default:* `{data['default']!r}`\n\n"
        f"{data['help'][0].upper()}{data['help'][1:]}.\n"
        "```\n"
    )


def _fill_in_options(app: Any, document: str, source: list[str]) -> None:
    if document == "options":
        source[0] = source[0].replace(OPTIONS_MARK, options_reference())


def setup(app: Any) -> dict[str, Any]:
    """Give each option an anchor of its own name, as in ``options.html#scheduler_rank``."""
    from sphinx.domains.std import ConfigurationValue

    class Option(ConfigurationValue):
        def add_target_and_index(self, name: str, sig: str, signode: Any) -> None:
            signode["ids"].append(name)
            super().add_target_and_index(name, sig, signode)

    app.add_directive_to_domain("std", "confval", Option, override=True)
    app.connect("source-read", _fill_in_options)
    return {"parallel_read_safe": True}
