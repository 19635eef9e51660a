"""What is built has all that it needs, and works outside the checkout."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = {
    str(path.relative_to(ROOT))
    for path in (ROOT / "mpidask").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}

HELLO = """
import mpidask

@mpidask.mpi_dask_main
def main(client):
    print(client.submit(sum, [1, 2]).result(), mpidask.__file__)

main()
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build the source distribution and, from it, the wheel."""
    directory = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory), ROOT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.mark.any_mpi
def test_source_has_the_tests_and_what_they_read(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    folders = ("mpidask", "tests", "examples", "docs", "recipe", ".ci", ".github")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    generated = {"__pycache__", "_build", "gallery"}
    wanted = {path.relative_to(ROOT) for path in files if not generated & {*path.parts}}
    assert {str(path) for path in wanted} <= names
    assert {path.name for path in ROOT.glob("*.md")} <= names
    assert {"LICENSE", "CITATION.cff", "pyproject.toml", "tox.ini"} <= names


@pytest.mark.any_mpi
def test_wheel_has_the_package_alone(built):
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    about = {name for name in names if ".dist-info/" in name}
    assert names - about == PACKAGE
    assert "mpidask/py.typed" in PACKAGE
    assert {name.split("/", 1)[1] for name in about} == {
        *("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    }


def test_wheel_works_outside_the_checkout(built, run, launch, tmp_path):
    (wheel,) = built.glob("*.whl")
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", site, wheel], check=True)

    result = run(HELLO, env={"PYTHONPATH": str(site)})
    assert result.status == 0, result.stderr
    assert result.stdout == f"3 {site / 'mpidask' / '__init__.py'}\n"

    command = launch(
        [str(site / "bin" / "mpidask"), "--version"], None, env={"PYTHONPATH": str(site)}
    )
    assert command.result().stdout.startswith("mpidask 0.")
