"""Files around the package agree with it and with each other, and with what they refer to."""

from __future__ import annotations

import configparser
import importlib.util
import itertools
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(scope="module")
def project():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def addresses():
    pytest.importorskip("tomllib")
    spec = importlib.util.spec_from_file_location("addresses", ROOT / "docs" / "addresses.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expanded(text):
    """Spell out the ``{a,b}`` of tox.

    >>> expanded("py-{mpich,openmpi}")
    ['py-mpich', 'py-openmpi']
    """
    choices = [part.split(",") for part in re.split(r"[{}]", text)]
    odd = [(",".join(part),) if number % 2 == 0 else part for number, part in enumerate(choices)]
    return ["".join(parts) for parts in itertools.product(*odd)]


@pytest.fixture(scope="module")
def environments():
    """Give all environments that tox.ini declares."""
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    listed = re.split(r",\s*(?![^{]*})", tox["tox"]["env_list"])
    sections = [name.removeprefix("testenv:") for name in tox.sections()]
    return {*itertools.chain(*map(expanded, [*listed, *sections]))}


# -- The address. -----------------------------------------------------------------------


def test_texts_have_the_address(addresses):
    for path in addresses.texts():
        text = path.read_text()
        assert text == addresses.filled(text, addresses.repository()), "python docs/addresses.py"


def test_every_mark_is_closed_and_known(addresses):
    for path in addresses.texts():
        text = path.read_text()
        # Not those before a block of code, which say how the tests run it.
        opened = re.findall(r"<!-- (\w+) -->(?!\n+```)", text)
        assert [found[1] for found in addresses.MARKED.findall(text)] == opened, path
        assert set(opened) <= set(addresses.PHRASES), path
        # What follows would be no Markdown.
        assert not re.search(r"^<!-- (?!badges)\w+ -->\S", text, re.MULTILINE), path


def test_an_address_appears_and_goes_everywhere(addresses):
    url = "https://code.example/Ana/mpidask"
    texts = {path.name: path.read_text() for path in addresses.texts()}
    with_address = {name: addresses.filled(text, url) for name, text in texts.items()}
    readme = with_address["README.md"]
    assert f"after `git clone {url}` and `cd mpidask`" in readme
    assert f"({url}/actions/workflows/tests.yml/badge.svg)" in readme
    assert "[a website](https://ana.github.io/mpidask/)" in readme
    for name in ("README.md", "CONTRIBUTING.md", "support.md"):
        assert f"]({url}/issues/new/choose)" in with_address[name], name
    for name in ("SECURITY.md", "CODE_OF_CONDUCT.md", "support.md", "security.md"):
        assert f"]({url}/security/advisories/new)" in with_address[name], name
    without = {name: addresses.filled(text, None) for name, text in with_address.items()}
    assert "code.example" not in "".join(without.values())


# -- What is tested, where and with what. -------------------------------------------------


def environments_of(job):
    """Give the environments of tox that a job names, but for those that another job lists."""
    matrix = job.get("strategy", {}).get("matrix", {}).get("environment", [])
    of_matrix = [] if isinstance(matrix, str) else matrix
    named = [re.findall(r"tox run .*?-e (\S+)", step.get("run", "")) for step in job["steps"]]
    return {*of_matrix, *itertools.chain(*named)}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_jobs_run_what_exists(path, environments):
    jobs = yaml.safe_load(path.read_text())["jobs"]
    assert jobs
    for job in jobs.values():
        needed = job.get("needs", [])
        assert {*([needed] if isinstance(needed, str) else needed)} <= {*jobs}
        if "uses" in job:
            assert (ROOT / job["uses"]).exists()
            continue
        assert environments_of(job) <= environments
        for step in job["steps"]:
            for script in re.findall(r"(?<!\S)\.ci/\S+", step.get("run", "")):
                assert os.access(ROOT / script, os.X_OK), script
            if "tox run" in step.get("run", "") and "-e" not in step["run"]:
                assert step["env"]["TOXENV"] == "${{ matrix.environment }}"


@pytest.mark.skipif(not WORKFLOWS, reason="no workflows here")
def test_a_job_runs_each_default_environment():
    tests = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    listed = tests["jobs"]["environment"]["strategy"]["matrix"]["environment"]
    assert listed == "${{ fromJSON(needs.list.outputs.environments) }}"
    assert any("tox list" in step.get("run", "") for step in tests["jobs"]["list"]["steps"])


@pytest.mark.skipif(not WORKFLOWS, reason="no workflows here")
def test_classifiers_name_the_pythons_that_are_tested(project):
    tests = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    pythons = tests["jobs"]["python"]["strategy"]["matrix"]["python"]
    minor = "Programming Language :: Python :: 3."
    classified = [name for name in project["classifiers"] if name.startswith(minor)]
    assert classified == [f"Programming Language :: Python :: {python}" for python in pythons]
    assert project["requires-python"] == f">={pythons[0]}"
    assert f"| {pythons[0]} to {pythons[-1]} |" in (ROOT / "docs" / "support.md").read_text()


@pytest.mark.parametrize(
    "number, told", [("", ["label", "issue create"]), ("7", ["issue comment 7"])]
)
def test_a_nightly_failure_is_one_issue(tmp_path, number, told):
    gh = tmp_path / "gh"
    gh.write_text(
        f'#!/bin/sh\n[ "$2" = list ] && {{ echo {number}; exit; }}\necho "$@" >> {tmp_path}/told\n'
    )
    gh.chmod(0o755)
    names = ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")
    environ = os.environ | dict(zip(names, ("https://code.example", "ana/mpidask", "12")))
    environ["PATH"] = f"{tmp_path}:{environ['PATH']}"
    subprocess.run([ROOT / ".ci" / "report-nightly"], env=environ, check=True)
    lines = (tmp_path / "told").read_text().splitlines()
    assert len(lines) == len(told)
    assert all(line.startswith(start) for line, start in zip(lines, told)), lines
    assert "https://code.example/ana/mpidask/actions/runs/12" in lines[-1]


# -- The recipe for conda-forge. ----------------------------------------------------------


def test_recipe_has_what_the_package_declares(project):
    from jinja2 import Template

    from mpidask import __version__

    text = Template((ROOT / "recipe" / "meta.yaml").read_text()).render(PYTHON="python")
    recipe = yaml.safe_load(text)
    assert recipe["package"] == {"name": project["name"], "version": __version__}
    run = {
        line.replace(" ", "").replace("dask-core", "dask") for line in recipe["requirements"]["run"]
    }
    assert run == {f"python{project['requires-python']}", *project["dependencies"]}
    assert recipe["requirements"]["run_constrained"] == [
        line.replace(">=", " >=") for line in project["optional-dependencies"]["dashboard"]
    ]
    entry_points = [f"{name} = {where}" for name, where in project["scripts"].items()]
    assert recipe["build"]["entry_points"] == entry_points
    assert recipe["about"]["summary"] == project["description"]
    assert recipe["about"]["license"] == project["license"]
