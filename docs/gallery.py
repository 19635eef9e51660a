"""The gallery, made from the programs in examples/ and their README.md: an extension of Sphinx.

Each program gets a page, and a card on the page of all examples. Its docstring has its title and
says what it does, the README in which group it is, what it prints and what its picture shows.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
EXAMPLES = DOCS.parent / "examples"
README = EXAMPLES / "README.md"
#: Where the pages go, for the time of a build.
PAGES = DOCS / "gallery"

#: The line of examples.md that the cards take the place of.
MARK = "<!-- all examples -->"
#: Lines of output that fit on a card.
ON_CARD = 9


@dataclasses.dataclass(frozen=True)
class Example:
    """A program of the gallery.

    Attributes
    ----------
    file : str
        Its name in examples/.
    title, subtitle : str
        What stands before and behind the colon in the first line of its docstring.
    commands : str
        How to run it.
    about : str
        What it does.
    results : str
        Its picture and its output.
    start : int
        The line behind its docstring.
    more : tuple of str
        Other files in examples/ that it uses.
    """

    file: str
    title: str
    subtitle: str
    commands: str
    about: str
    results: str
    start: int
    more: tuple[str, ...]


def read_example(file: str) -> Example:
    """Read a program, and what the README says about it."""
    docstring = ast.parse((EXAMPLES / file).read_text()).body[0]
    assert isinstance(docstring, ast.Expr), file
    assert isinstance(docstring.value, ast.Constant), file
    first, *paragraphs = str(docstring.value.value).strip().split("\n\n")
    title, subtitle = first.split(": ", 1)
    commands = [text for text in paragraphs if text.startswith("    ")]
    about = [text for text in paragraphs if not text.startswith("    ")]
    return Example(
        file,
        title,
        f"{subtitle[0].upper()}{subtitle[1:]}",
        re.sub("^    ", "", "\n".join(commands), flags=re.MULTILINE),
        re.sub(r"(?<!`)\b[\w.]+\(\)", r"`\g<0>`", "\n\n".join(about).replace("``", "`")),
        _section(file),
        (docstring.end_lineno or 0) + 1,
        _other_files(file),
    )


def _other_files(file: str) -> tuple[str, ...]:
    """Give the other files that the README's entry for a program links to."""
    entry = re.search(rf"^- \[{file}\]\({file}\)(.*)$", README.read_text(), re.M)
    return tuple(re.findall(r"\]\((.*?)\)", entry[1])) if entry else ()


def _section(file: str) -> str:
    """Give the section of the README on what a program prints."""
    found = re.search(rf"^### {file}\n+(.*?)(?=^### |\Z)", README.read_text(), re.DOTALL | re.M)
    section = found[1] if found else ""
    return re.sub(r"^```\n(.*?)^```", r"```output\n\1```", section, flags=re.DOTALL | re.M)


def groups() -> dict[str, list[str]]:
    """Give the files of each group in the README."""
    sections = re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", README.read_text(), re.DOTALL | re.M)
    listed = {name: re.findall(r"^- \[(\w+\.py)\]", text, re.M) for name, text in sections}
    return {name: files for name, files in listed.items() if files}


def page(example: Example) -> str:
    """Write the page of a program: what comes out of it, what it does, and the program."""
    results = example.results.replace("(../docs/", "(../")
    run = f"```bash\n{example.commands}\n```\n\n" if example.commands else ""
    return (
        f"# {example.title}\n\n{example.subtitle}\n\n{results}\n\n{example.about}\n\n{run}"
        + _source(example.file, f":lines: {example.start + 1}-\n")
        + "".join(map(_source, example.more))
    )


def _source(file: str, which: str = "") -> str:
    language = {"py": "python"}.get(suffix := Path(file).suffix[1:], suffix)
    return (
        f"Download {{download}}`{file} <../../examples/{file}>`\n\n"
        f"```{{literalinclude}} ../../examples/{file}\n:language: {language}\n{which}```\n\n"
    )


def cards() -> str:
    """Write the cards of all programs, by groups, and put their pages into the menu."""
    grids = [
        f"## {name}\n\n:::::{{grid}} 1 2 2 2\n:gutter: 3\n\n{''.join(map(_card, files))}:::::\n"
        for name, files in groups().items()
    ]
    pages = [f"gallery/{Path(file).stem}" for files in groups().values() for file in files]
    return "\n".join([*grids, "```{toctree}\n:hidden:\n", *pages, "```\n"])


def _card(file: str) -> str:
    example = read_example(file)
    return (
        f"::::{{grid-item-card}}\n:link: gallery/{Path(file).stem}\n:link-type: doc\n\n"
        f":::{{div}} thumbnail\n{_thumbnail(example.results)}:::\n\n"
        f"**{example.title}**\n\n{example.subtitle}\n::::\n\n"
    )


def _thumbnail(results: str) -> str:
    """Give the picture of a program, or else the beginning of what it prints."""
    if picture := re.search(r"!\[.*?\]\(\.\./docs/(.*?)\)", results):
        return f"![]({picture[1]})\n"
    output = re.search(r"^```output\n(.*?)^```", results, re.DOTALL | re.M)
    lines = output[1].splitlines()[:ON_CARD] if output else []
    return "\n".join(["```output", *lines, "```\n"])


def _write_pages(app: Any) -> None:
    PAGES.mkdir(exist_ok=True)
    files = {file for listed in groups().values() for file in listed}
    texts = {Path(file).stem: page(read_example(file)) for file in files}
    for old in PAGES.glob("*.md"):
        if old.stem not in texts:
            old.unlink()
    for name, text in texts.items():
        path = PAGES / f"{name}.md"
        if not path.exists() or path.read_text() != text:  # else it would be built again
            path.write_text(text)


def _fill_in_cards(app: Any, document: str, source: list[str]) -> None:
    if document == "examples":
        source[0] = source[0].replace(MARK, cards())


def setup(app: Any) -> dict[str, Any]:
    """Write the pages before Sphinx looks for them."""
    app.connect("builder-inited", _write_pages)
    app.connect("source-read", _fill_in_cards)
    return {"parallel_read_safe": True}
