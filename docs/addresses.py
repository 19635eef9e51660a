"""Write the project's address into the texts that depend on it.

The address is ``Repository`` in ``[project.urls]`` of pyproject.toml, and nowhere else. Texts mark
what depends on it: ``<!-- tracker -->in the project's issue tracker<!-- /tracker -->``. After a
change of the address:

    python docs/addresses.py
"""

from __future__ import annotations

import re
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"(<!-- (\w+) -->)(.*?)(<!-- /\2 -->)", re.DOTALL)

#: What stands between the marks: without an address, and with one. A mark that begins a line would
#: make all of that line HTML.
PHRASES = {
    "badges": (
        "\n",
        "\n[![Tests]({url}/actions/workflows/tests.yml/badge.svg)]"
        "({url}/actions/workflows/tests.yml)\n"
        "[![Nightly]({url}/actions/workflows/nightly.yml/badge.svg)]"
        "({url}/actions/workflows/nightly.yml)\n",
    ),
    "clone": (
        "in a clone of the repository",
        "after `git clone {url}` and `cd mpidask`",
    ),
    "website": (
        "is also a website: `tox -e docs` builds it, in `docs/_build/html`",
        "is also [a website]({site})",
    ),
    "tracker": (
        "in the project's issue tracker",
        "in [the project's issue tracker]({url}/issues/new/choose)",
    ),
    "private": (
        "write to the maintainers (in a clone, `git log -5 --format=%ae` shows addresses)",
        "[report it in private]({url}/security/advisories/new)",
    ),
}


def repository() -> str | None:
    """Return the address of the repository, if one is declared."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    url = project.get("urls", {}).get("Repository")
    return url and url.rstrip("/")


def website(url: str) -> str:
    """Return the address of the pages that GitHub publishes for a repository."""
    owner, name = url.split("/")[-2:]
    return f"https://{owner.lower()}.github.io/{name}/"


def texts() -> list[Path]:
    """Return the files that may have marks."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def filled(text: str, url: str | None) -> str:
    """Return a text with what belongs between its marks."""

    def fill(found: re.Match[str]) -> str:
        without, with_address = PHRASES[found[2]]
        phrase = with_address.format(url=url, site=website(url)) if url else without
        return found[1] + phrase + found[4]

    return MARKED.sub(fill, text)


if __name__ == "__main__":
    for path in texts():
        path.write_text(filled(path.read_text(), repository()))
