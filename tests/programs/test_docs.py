"""The documentation: its programs run, and its references are complete.

Every block of Python in README.md and docs/*.md is a program, and is run on 4 ranks. One
that can't be, says so and why in a comment before it: ``<!-- not run: ... -->``. A block
marked ``output`` behind it is what the program prints.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path

import pytest

import mpidask
from mpidask._options import Options

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]

BLOCK = re.compile(
    r"(?P<not_run><!-- not run: [^>]+ -->\n+)?"
    r"^```python\n(?P<program>.*?)^```$"
    r"(?:\n+^```output\n(?P<output>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)


def programs():
    for page in PAGES:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            if not match["not_run"]:
                line = text.count("\n", 0, match.start("program"))
                name = f"{page.name}-{line}"
                yield pytest.param(match["program"], match["output"], id=name)


@pytest.mark.parametrize("program, output", list(programs()))
def test_programs(run, program, output):
    result = run(program, limit=60)
    assert result.status == 0, result.stderr
    assert len(result.messages) == len(result.said), result.stderr
    # More than the one line only for those who ask, and where h5py is not parallel.
    more = "progress=" in program or "to_hdf5(" in program
    assert len(result.said) == 1 or more, result.stderr
    if output is not None:
        assert result.stdout == output


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_of_python_compile(page):
    for match in BLOCK.finditer(page.read_text()):
        compile(match["program"], page.name, "exec")


def test_examples_of_the_reference(run):
    result = run(
        """
        import doctest
        import mpidask

        finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
        for name in set(mpidask.__all__) - {"__version__"}:
            for test in finder.find(getattr(mpidask, name), name, module=False):
                assert test.examples, name
                runner.run(test)
        raise SystemExit(runner.failures)
        """,
        ranks=None,
        limit=150,
    )
    assert (result.status, result.stdout) == (0, "")


def test_all_options_are_on_their_page():
    spec = importlib.util.spec_from_file_location("options_page", DOCS / "options_page.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    entries = re.findall(r"^```{confval} (\w+)$", page.options_reference(), re.MULTILINE)
    assert sorted(entries) == sorted(field.name for field in dataclasses.fields(Options))
    assert (DOCS / "options.md").read_text().count(page.OPTIONS_MARK) == 1


def test_the_reference_has_all_public_names():
    text = (DOCS / "api.md").read_text()
    names = re.findall(r"^\.\. auto\w+:: mpidask\.(\w+)$", text, re.MULTILINE)
    assert sorted(names) == sorted(mpidask.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_every_page_is_in_the_table_of_contents():
    text = (DOCS / "index.md").read_text()
    tables = "".join(re.findall(r"^```{toctree}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    listed = {name for name in tables.splitlines() if re.fullmatch(r"[a-z0-9-]+", name)}
    assert listed == {page.stem for page in DOCS.glob("*.md")} - {"index"}


def test_the_citation_has_this_version():
    text = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {mpidask.__version__}\n" in text
