"""The tables of benchmarks: on their page as soon as they have been measured, ratios in front."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.transforms import SphinxTransform

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

#: The bar of a ratio reaches from 1, in the middle, to this or its reciprocal at most.
FULL_BAR = 4
#: What differs by less than this has the colour of neither better nor worse.
EVEN = 0.05


def _measured(found: re.Match[str]) -> str:
    files = {mpi: f"benchmarks/{found[1]}-{mpi}.md" for mpi in MPIS}
    parts = [
        f"### {MPIS[mpi]}: {MEASURES[found[1]]}\n\n```{{include}} {file}\n```\n"
        for mpi, file in files.items()
        if (HERE / file).exists()
    ]
    return "\n".join(parts) or "*Not measured yet.*"


def _fill_in(app: Any, document: str, source: list[str]) -> None:
    if document == "benchmarks":
        source[0] = MEASURED.sub(_measured, source[0])


def bar(ratio: float, more_is_better: bool) -> str:
    """Draw a ratio as a bar that begins at 1, on a logarithmic scale."""
    length = max(-1.0, min(1.0, math.log(max(ratio, 0.001), FULL_BAR))) / 2
    better = (ratio > 1) == more_is_better
    kind = "even" if abs(ratio - 1) < EVEN else "better" if better else "worse"
    place = f"left: {50 + 100 * min(length, 0):.0f}%; width: {100 * abs(length):.0f}%"
    return f' <span class="ratio" aria-hidden="true"><i class="{kind}" style="{place}"></i></span>'


class Ratios(SphinxTransform):
    """Move the columns of ratios, "a : b", in front of what they are made from, and draw them."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        """Change the tables of the pages on benchmarks."""
        if self.env.docname in ("benchmarks", "scale"):
            for table in self.document.findall(nodes.table):
                self._change(table)

    def _change(self, table: nodes.table) -> None:
        head, *body = table.findall(nodes.row)
        titles = [entry.astext() for entry in head]
        ratios = [n for n, title in enumerate(titles) if " : " in title]
        labels = [n for n, title in enumerate(titles) if n == 0 or title == "ranks"]
        order = sorted(range(len(titles)), key=lambda n: (n not in labels, n not in ratios, n))
        for row in (head, *body):
            row[:] = [row[n] for n in order]
        for row in body:
            for entry in row[len(labels) :][: len(ratios)]:
                if number := entry.astext():
                    drawn = bar(float(number), more_is_better=titles[0] == "GB/s")
                    entry[0].append(nodes.raw("", drawn, format="html"))


def setup(app: Any) -> dict[str, Any]:
    """Connect both."""
    app.connect("source-read", _fill_in)
    app.add_transform(Ratios)
    return {"parallel_read_safe": True}
