"""What type checkers and editors see: the options, and decorated functions."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import mpidask
from mpidask._options import AllOptions, Options

PROJECT = Path(mpidask.__file__).parents[1]
OPTIONS = set(Options.__dataclass_fields__)
FRONT_ENDS = [mpidask.mpi_dask, mpidask.mpi_dask_main, mpidask.join_existing]


# -- At run time, and in editors. -----------------------------------------------------


@pytest.mark.parametrize("function", FRONT_ENDS, ids=lambda function: function.__name__)
def test_signature_and_docstring_show_every_option(function):
    parameters = inspect.signature(function).parameters
    assert set(parameters) >= OPTIONS
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in OPTIONS - {"scheduler_file", "address"}:
        assert f"\n{name} : " in function.__doc__
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
    assert "seconds, or text such as '5 min'; default '30 s'" in function.__doc__


def test_signature_shows_types_and_defaults():
    text = str(inspect.signature(mpidask.mpi_dask))
    assert "nthreads: int | Literal[\"auto\"] = 'auto'," in text
    assert "startup_timeout: float | str = '5 min'," in text
    assert "security: bool | Security = True," in text
    assert "security: bool | Security = False," in str(inspect.signature(mpidask.join_existing))
    assert "scheduler_file: str | os.PathLike[str] | None = None, *, address" in str(
        inspect.signature(mpidask.join_existing)
    )


@pytest.fixture(scope="module")
def jedi(tmp_path_factory):
    """Jedi, with a cache that no other process writes to at the same time."""
    jedi = pytest.importorskip("jedi")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jedi.settings, "cache_directory", tmp_path_factory.mktemp("jedi"))
        yield jedi


@pytest.mark.parametrize("call", ["mpi_dask(", "mpi_dask_main(", "join_existing("])
def test_completion_offers_the_options(jedi, call):
    script = jedi.Interpreter(f"mpidask.{call}", [{"mpidask": mpidask}])  # as IPython does
    names = {completion.name for completion in script.complete()}
    assert {f"{name}=" for name in OPTIONS} <= names
    signatures = script.get_signatures()
    assert any({p.name for p in signature.params} >= OPTIONS for signature in signatures)


def test_completion_of_a_client(jedi):
    code = "import mpidask\n\nwith mpidask.mpi_dask() as client:\n    client.sub"
    names = {found.name for found in jedi.Script(code, project=jedi.Project(PROJECT)).complete()}
    assert "submit" in names


# -- Types and declaration agree. --------------------------------------------------------


def test_type_checkers_know_the_options_that_are_declared():
    assert AllOptions.__annotations__.keys() == OPTIONS


# -- Type checkers. ----------------------------------------------------------------------

RIGHT = """
from __future__ import annotations

import click
from distributed import Client
from mpidask import MPIDaskError, connection, join_existing, mpi_dask, mpi_dask_main

with mpi_dask() as client:
    client.submit(sum, [1, 2])
with mpi_dask(nthreads=2, dashboard_address=8787, startup_timeout="5 min") as client:
    client.submit(sum, [1, 2])
with mpi_dask(exit=False) as maybe:
    if maybe is not None:
        maybe.submit(sum, [1, 2])

def decide(leave: bool) -> None:
    with mpi_dask(exit=leave) as maybe:
        assert maybe is not None

async def block() -> None:
    async with mpi_dask(memory_limit=0.5) as client:
        await client.submit(sum, [1, 2])

join_existing("scheduler.json", death_timeout=60, nthreads="auto")

@mpi_dask_main
def bare(client):
    return 1

bare()

@mpi_dask_main
def alone(client: Client) -> int:
    return 1

n: int = alone()

@mpi_dask_main(nthreads=2)
def behind(numbers: list[int], client: Client) -> int:
    return 1

n = behind([1]) + behind(numbers=[1])

@mpi_dask_main()
def keyword(a: int, b: str = "", c: int = 1, *, client: Client) -> int:
    return 1

n = keyword(1) + keyword(1, "") + keyword(1, c=3) + keyword(1, "", 3) + keyword(a=1)

@mpi_dask_main
def four(a: int, b: int, c: int, d: int, client: Client | None = None) -> int:
    return 1

n = four(1, 2, 3, d=4) + four(1, 2, 3, 4)

@mpi_dask_main
def first(client: Client, a: int, b: int = 1) -> int:
    return 1

n = first(a=1, b=2)

@mpi_dask_main
def many(*args: int, client: Client, **kwargs: int) -> int:
    return 1

n = many() + many(1, 2, 3, 4, 5, 6, 7, more=1)

@mpi_dask_main
def none(a: int, b: str = "") -> int:
    return 1

n = none(1, b="")

@mpi_dask_main(exit=False)
def all_ranks(a: int, client: Client) -> int:
    return 1

value: int | None = all_ranks(1)

@mpi_dask_main
async def wait(a: int, client: Client) -> int:
    return await client.submit(abs, a)

@mpi_dask_main(exit=False)
async def wait_on_all_ranks(client: Client) -> int:
    return 1

async def main() -> None:
    value: int = await wait(1)
    maybe: int | None = await wait_on_all_ranks()

class Analysis:
    @mpi_dask_main
    def run(self, a: int, client: Client) -> int:
        return 1

    @mpi_dask_main
    def run_bare(self, a: int) -> int:
        return 1

n = Analysis().run(1) + Analysis().run_bare(1)

@mpi_dask_main
@click.command()
@click.option("--number", type=int)
def command(number: int) -> None: ...

command()
"""

FUNCTIONS = """
from distributed import Client
from mpidask import join_existing, mpi_dask, mpi_dask_main

@mpi_dask_main
def alone(client: Client) -> int:
    return 1

@mpi_dask_main(nthreads=2)
def behind(numbers: list[int], client: Client) -> int:
    return 1

@mpi_dask_main
def first(client: Client, a: int) -> int:
    return 1

@mpi_dask_main
def none(a: int) -> int:
    return 1

@mpi_dask_main(exit=False)
def all_ranks(client: Client) -> int:
    return 1

"""

#: One line each that is wrong, behind these functions.
WRONG = [
    "mpi_dask(nthread=2)",
    "mpi_dask(nthreads='many')",
    "mpi_dask(dashboard='no')",
    "mpi_dask(4)",
    "mpi_dask_main(nthread=2)",
    "mpi_dask_main(4)",
    "join_existing('scheduler.json', nthread=2)",
    "mpi_dask().submit(sum, [1])",
    "with mpi_dask(exit=False) as client: client.submit(sum, [1])",
    "with mpi_dask() as client: client.submitt(sum, [1])",
    "alone(3)",
    "alone(nonsense=3)",
    "text: str = alone()",
    "behind('x')",
    "behind([1], nonsense=3)",
    "text: str = behind([1])",
    "first(a='x')",
    "first(nonsense=1)",
    "none('x')",
    "none(1, nonsense=3)",
    "n: int = all_ranks()",
]


#: Without the insides of other packages, which take mypy minutes.
MYPY_INI = """
[mypy]
[mypy-numpy.*,pandas.*,pyarrow.*,bokeh.*,tornado.*,dask.*,yaml.*,fsspec.*,tlz.*,toolz.*,jinja2.*]
follow_imports = skip
[mypy-distributed.*]
follow_imports = silent
"""


def mypy(directory):
    (directory / "mypy.ini").write_text(MYPY_INI)
    command = ["-m", "mypy", "--no-error-summary", "--cache-dir", directory / "mypy", "."]
    done = subprocess.run(
        [sys.executable, *command], cwd=directory, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = re.findall(r"^(\w+)\.py:(\d+): error: (.*)", done.stdout, re.MULTILINE)
    return {(name, int(line)): message for name, line, message in found}


def pyright(directory):
    command = ["-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "."]
    done = subprocess.run(
        [sys.executable, *command], cwd=directory, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return {
        (Path(found["file"]).stem, found["range"]["start"]["line"] + 1): found["message"]
        for found in json.loads(done.stdout)["generalDiagnostics"]
        if found["severity"] == "error"
    }


@pytest.mark.parametrize("checker", [mypy, pyright], ids=lambda checker: checker.__name__)
def test_right_programs_pass_and_wrong_ones_do_not(checker, tmp_path):
    pytest.importorskip(checker.__name__)
    (tmp_path / "right.py").write_text(textwrap.dedent(RIGHT))
    wrong = FUNCTIONS + "\n".join(f"def f{n}() -> None:\n    {w}" for n, w in enumerate(WRONG))
    (tmp_path / "wrong.py").write_text(wrong)
    found = checker(tmp_path)
    lines = wrong.splitlines()
    assert {lines[line - 1].strip() for name, line in found if name == "wrong"} == set(WRONG)
    assert {place: message for place, message in found.items() if place[0] == "right"} == {}
