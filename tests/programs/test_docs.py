"""The documentation: its programs run, and its references are complete.

Every block of Python in *.md and docs/*.md is a program, and is run on 4 ranks. A block
marked ``output`` behind it is what the program prints. A comment before it says what is special:

- ``<!-- not run: ... -->``: it can't be run, and why;
- ``<!-- needs: ... -->``: it is run where there is such a package;
- ``<!-- fails -->``: it ends with an error, and the output is what stands on stderr, where
  ``...`` is anything.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mpidask
from mpidask._options import Options

pytestmark = pytest.mark.any_mpi

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md"))]

BLOCK = re.compile(
    r"(?:<!-- (?P<word>not run|needs|fails)(?:: (?P<what>[^>]+))? -->\n+)?"
    r"^```(?:python|\{code-block\} python\n(?::[\w-]+:[^\n]*\n)*)\n(?P<program>.*?)^```$"
    r"(?:\n+^```output\n(?P<output>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)


def programs(fails=False):
    for page in PAGES:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            if match["word"] != "not run" and (match["word"] == "fails") == fails:
                line = text.count("\n", 0, match.start("program"))
                name = f"{page.name}-{line}"
                needs = match["what"] if match["word"] == "needs" else None
                yield pytest.param(match["program"], match["output"], needs, id=name)


@pytest.mark.parametrize("program, output, needs", list(programs()))
def test_programs(run, program, output, needs):
    if needs is not None:
        pytest.importorskip(needs)
    result = run(program, limit=60)
    assert result.status == 0, result.stderr
    assert len(result.messages) == len(result.said), result.stderr
    # More than the one line only for those who ask, and where h5py is not parallel.
    more = "progress=" in program or "to_hdf5(" in program
    assert len(result.said) == 1 or more, result.stderr
    if output is not None:
        assert result.stdout == output


@pytest.mark.parametrize("program, output, needs", list(programs(fails=True)))
def test_programs_that_fail(run, program, output, needs):
    result = run(program, limit=60)
    assert result.status == 1, result.stderr
    parts = map(re.escape, output.rstrip("\n").split("..."))
    assert re.search(".*".join(parts), result.stderr, re.DOTALL), result.stderr


@pytest.fixture
def fortran_compiler():
    """Find the compiler of the MPI that the tests run under, if it has one."""
    launcher = os.environ.get("MPIDASK_TEST_LAUNCHER")
    name = launcher.replace("mpirun", "mpifort") if launcher else None
    beside = Path(sys.executable).with_name("mpifort")
    compiler = shutil.which(name) if name else str(beside) if beside.exists() else None
    return compiler or pytest.skip("this MPI has no compiler for Fortran here")


def test_fortran(run, fortran_compiler, tmp_path):
    text = (DOCS / "faq.md").read_text()
    (source,) = re.findall(r"^```fortran\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (program,) = (match for match in BLOCK.finditer(text) if "libtotal.so" in match["program"])
    (tmp_path / "total.f90").write_text(source)
    command = re.search(r"^! mpifort (.*)$", source, re.MULTILINE)[1].split()
    subprocess.run([fortran_compiler, *command], cwd=tmp_path, check=True)
    result = run(program["program"])
    assert (result.status, result.stdout) == (0, program["output"]), result.stderr


def test_calls_of_the_cheat_sheet(run):
    text = (DOCS / "cheat-sheet.md").read_text()
    table = text[text.index("\n## Calls\n") : text.index("\n## Commands\n")]
    calls = re.findall(r"^\|[^|]+\| `([^`]+)`", table, re.MULTILINE)
    assert len(calls) > 10
    program = [
        "import os",
        "from distributed import as_completed, wait",
        "from mpidask import PerRank, mpi_dask_main, submit_mpi",
        "f, step = abs, lambda comm, piece=1: comm.allreduce(1)",
        "@mpi_dask_main",
        "def main(client):",
        "    x, numbers = 1, range(10)",
        *(f"    {call}" for call in calls),
        "    print(values, total.result(), len(client.gather(parts)))",
        "main()",
    ]
    result = run("\n".join(program))
    expected = f"{list(range(10))} 45 2\n"
    assert (result.status, result.stdout) == (0, expected), result.stderr


def test_options_of_the_cheat_sheet_exist():
    text = (DOCS / "cheat-sheet.md").read_text()
    named = re.findall(r"{confval}`(\w+)`", text)
    assert named
    assert set(named) <= {field.name for field in dataclasses.fields(Options)}


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
