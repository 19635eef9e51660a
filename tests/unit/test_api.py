"""The public surface, and the decorator."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import subprocess
import sys
import types

import dask
import pytest

import mpidask
from mpidask import (
    MPIDaskError,
    MPITaskError,
    NotEnoughRanksError,
    SchedulerFileError,
    StartupError,
    _api,
    _errors,
    mpi_dask_main,
)
from mpidask._api import _with_client
from mpidask._mpi.job_exit import exit_status

pytestmark = pytest.mark.loads_mpi

# -- The public surface. -------------------------------------------------------------


def test_public_names():
    """Whoever adds a public name says so here."""
    assert mpidask.__all__ == [
        "Broadcast",
        "DistributedArray",
        "MPIDaskError",
        "MPITaskError",
        "NotEnoughRanksError",
        "PerRank",
        "SchedulerFileError",
        "Shared",
        "StartupError",
        "__version__",
        "broadcast",
        "connection",
        "join_existing",
        "mpi_dask",
        "mpi_dask_main",
        "submit_mpi",
        "to_hdf5",
    ]


def test_nothing_of_ours_is_public_by_accident():
    ours = {
        name
        for name, value in vars(mpidask).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and value.__module__.startswith("mpidask")
    }
    assert ours | {"__version__"} == set(mpidask.__all__)


def test_modules_are_private():
    modules = {name for name, value in vars(mpidask).items() if isinstance(value, types.ModuleType)}
    assert {name for name in modules if not name.startswith("_")} <= {"cli", "comm"}


@pytest.mark.parametrize("name", sorted(set(mpidask.__all__) - {"__version__"}))
def test_public_names_are_documented(name):
    value = getattr(mpidask, name)
    assert value.__doc__ and value.__doc__.splitlines()[0].endswith(".")


def test_version():
    assert mpidask.__version__[0].isdigit()


def test_errors_are_one_tree():
    assert issubclass(MPIDaskError, RuntimeError)
    for error in (MPITaskError, NotEnoughRanksError, SchedulerFileError, StartupError):
        assert issubclass(error, MPIDaskError)
        assert error.__name__ in _errors.__doc__
        assert f"{error.__module__}.{error.__name__}" == f"mpidask.{error.__qualname__}"


@pytest.mark.parametrize("kind", [StartupError, MPITaskError])
def test_errors_say_where(kind):
    error = kind("message", rank=3, host="node7")
    copied = pickle.loads(pickle.dumps(error))
    for one in error, copied:
        assert (str(one), one.rank, one.host) == ("message", 3, "node7")
    error = kind("message")
    assert (error.rank, error.host) == (None, None)


def python(code):
    """Run code in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    ).stdout


@pytest.mark.parametrize(
    "code",
    [
        "import mpidask",
        "from mpidask import *\n@mpi_dask_main\ndef main(client): pass",
        "from mpidask import *\n@mpi_dask_main(exit=False)\nasync def main(client): pass",
        "from mpidask import *\nblock = mpi_dask(nthreads=2)",
    ],
)
def test_importing_starts_nothing(code):
    """No MPI, no Dask, no thread, no signal handler."""
    found = python(
        "import signal, sys, threading\n"
        "def handlers(): return [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]\n"
        "before = handlers()\n"
        f"{code}\n"
        "print({'mpi4py.MPI', 'dask', 'distributed', 'bokeh', 'click'} & {*sys.modules} or [])\n"
        "print(threading.active_count(), handlers() == before)\n"
    )
    assert found.splitlines() == ["[]", "1 True"]


def test_an_interrupted_import_ends_the_program_without_a_word():
    code = """\
import sys

class Interrupted:
    def find_spec(self, name, path, target=None):
        if name == "mpidask._lifecycle.leader":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
import mpidask
"""
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (process.returncode, process.stderr) == (130, "")
    at_a_prompt = [sys.executable, "-c", f"import sys; sys.ps1 = '>>> '\n{code}"]
    process = subprocess.run(at_a_prompt, check=False, capture_output=True, text=True, timeout=60)
    assert "KeyboardInterrupt" in process.stderr


# -- Wrong options are said before anything starts. ----------------------------------


def decorate(*args, **options):
    mpi_dask_main(*args, **options)


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((), {"nthread": 2}, TypeError, "did you mean 'nthreads'"),
        ((), {"nthreads": 0}, ValueError, "option nthreads=0 must be 1 or more"),
        ((len,), {"dashboard": "no"}, TypeError, "option dashboard='no' must be True or False"),
        ((4,), {}, TypeError, "decorates a function, not 4; options need their names"),
        (("x",), {}, TypeError, "options need their names"),
        ((lambda: (yield),), {}, TypeError, "a generator can't be the function"),
    ],
)
def test_errors_where_the_decorator_stands(args, options, error, message):
    with pytest.raises(error, match=message):
        decorate(*args, **options)


def test_a_generator_below_classmethod():
    with pytest.raises(TypeError, match="a generator can't be the function"):
        mpi_dask_main(classmethod(lambda cls: (yield)))


def test_a_generator_behind_options():
    with pytest.raises(TypeError, match="a generator can't be the function"):
        mpi_dask_main(nthreads=2)(lambda: (yield))


def test_configuration_is_read_at_the_call(uses):
    with dask.config.set({"mpidask.nthreads": 0}):

        @mpi_dask_main
        def main():
            return "value"

    assert main() == "value"


#: A program in which functions of ours enter `without_internal_frames`.
OURS = """\
from mpidask._errors import MPIDaskError, StartupError, without_internal_frames
import mpidask._log

source = 'def inside(call):\\n with without_internal_frames():\\n  call()\\n'
source += 'def fail(error):\\n raise error\\n'
exec(compile(source, mpidask._log.__file__, "exec"))
"""


def shown(code):
    """Give what Python shows when a program has failed, but for the program's own lines."""
    code = OURS + code
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60
    )
    own = [line.strip() for line in code.splitlines()]
    return [
        line for line in done.stderr.splitlines() if line.strip() not in own and line.strip(" ~^")
    ]


@pytest.mark.parametrize("kind", [MPIDaskError, StartupError, TypeError, ValueError])
def test_our_errors_are_shown_without_our_frames(kind):
    name = kind.__name__ if kind in (TypeError, ValueError) else f"mpidask.{kind.__name__}"
    assert shown(f"inside(lambda: fail({kind.__name__}('mine')))\n") == [
        "Traceback (most recent call last):",
        '  File "<string>", line 7, in <module>',
        f"{name}: mine",
    ]


def test_what_others_raise_is_shown_with_their_frames():
    program = """\
def helper():
    raise ValueError("mine") from LookupError("its cause")
inside(helper)
"""
    assert shown(program) == [
        "LookupError: its cause",
        "The above exception was the direct cause of the following exception:",
        "Traceback (most recent call last):",
        '  File "<string>", line 9, in <module>',
        '  File "<string>", line 8, in helper',
        "ValueError: mine",
    ]


def test_the_cause_of_our_error_stays_and_is_not_shown():
    program = """\
def helper():
    try:
        raise OSError("no network")
    except OSError as error:
        raise StartupError("no client: no network") from error
try:
    inside(helper)
except StartupError as error:
    assert str(error.__cause__) == "no network"
    raise
"""
    lines = shown(program)
    assert lines[-1] == "mpidask.StartupError: no client: no network"
    assert not [line for line in lines if "OSError" in line]


def test_errors_that_were_caught_leave_one_hook_and_are_not_kept():
    program = """\
import gc, sys, weakref
hooks, errors = [], []
for number in range(2):
    try:
        inside(lambda: fail(StartupError("mine")))
    except StartupError as error:
        errors.append(weakref.ref(error))
        hooks.append(sys.excepthook)
gc.collect()
print(len(set(hooks)), [error() for error in errors])
"""
    assert python(OURS + program) == "1 [None, None]\n"


# -- Hints for the usual slips. ------------------------------------------------------


def test_a_block_is_no_client():
    block = mpidask.mpi_dask(nthreads=2)
    assert repr(block) == "<a block to enter: with mpi_dask(nthreads=2) as client>"
    with pytest.raises(AttributeError, match=r"no 'submit'.*'with mpi_dask\(...\) as client:'"):
        block.submit(sum, [1])


@pytest.mark.parametrize("name", ["initialize", "execute", "send_close_signal"])
def test_names_of_dask_mpi_lead_to_ours(name):
    with pytest.raises(ImportError, match=f"{name} belongs to dask-mpi, not mpidask: "):
        exec(f"from mpidask import {name}")
    with pytest.raises(AttributeError, match=f"{name} belongs to dask-mpi, not mpidask: "):
        getattr(mpidask, name)
    assert not hasattr(mpidask, name)
    with pytest.raises(ImportError, match="cannot import name 'nonesuch'"):
        exec("from mpidask import nonesuch")
    assert not hasattr(mpidask, "nonesuch")


# -- A decorated function looks like the one it was. ---------------------------------


@mpi_dask_main
def bare(numbers, /, factor: int = 2, *, client=None) -> list:
    """Multiply numbers."""
    return "bare", numbers, factor, client


@mpi_dask_main(nthreads=2, exit=False)
def with_options(client):
    """Have options."""
    return "with_options", client


@mpi_dask_main
async def coroutine(number, client=None):
    """Wait a little."""
    await asyncio.sleep(0)
    return "coroutine", number, client


@mpi_dask_main(dashboard=False)
async def coroutine_with_options(client):
    return "coroutine_with_options", client


class Analysis:
    """Methods of all kinds."""

    @mpi_dask_main
    def method(self, number, client):
        """Be a method."""
        return self, number, client

    @mpi_dask_main
    async def async_method(self, client):
        return self, client

    @mpi_dask_main
    @classmethod
    def class_outside(cls, client):
        return cls, client

    @classmethod
    @mpi_dask_main
    def class_inside(cls, client):
        return cls, client

    @staticmethod
    @mpi_dask_main
    def static_inside(number, client):
        return number, client

    @mpi_dask_main
    @staticmethod
    def static_outside(number, client):
        return number, client


def test_name_and_documentation_stay():
    assert (bare.__name__, bare.__qualname__, bare.__doc__) == ("bare", "bare", "Multiply numbers.")
    assert bare.__module__ == __name__
    assert with_options.__name__ == "with_options"
    assert with_options.__doc__ == "Have options."
    assert Analysis.method.__qualname__ == "Analysis.method"
    assert Analysis.method.__doc__ == "Be a method."


def test_signature_stays():
    assert str(inspect.signature(bare)) == str(inspect.signature(bare.__wrapped__))
    assert list(inspect.signature(bare).parameters) == ["numbers", "factor", "client"]
    assert list(inspect.signature(Analysis().method).parameters) == ["number", "client"]
    assert list(inspect.signature(Analysis.method).parameters) == ["self", "number", "client"]
    assert inspect.getsource(bare) == inspect.getsource(bare.__wrapped__)


def test_kind_stays():
    assert inspect.iscoroutinefunction(coroutine)
    assert inspect.iscoroutinefunction(coroutine_with_options)
    assert inspect.iscoroutinefunction(Analysis().async_method)
    assert not inspect.iscoroutinefunction(bare)
    assert not inspect.iscoroutinefunction(Analysis().method)
    assert callable(bare)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("function", [bare, with_options, coroutine], ids=lambda f: f.__name__)
def test_pickled_by_name(function, protocol):
    data = pickle.dumps(function, protocol)
    assert pickle.loads(data) is function
    assert function.__name__.encode() in data
    assert len(data) < 100


# -- What it does, in a block that is not real. --------------------------------------


class FakeBlock:
    """In place of `mpi_dask`: notes how it is used, and gives `client`."""

    client: object = "the client"
    uses: list

    def __init__(self, **options):
        self.options = options

    def __enter__(self):
        self.uses.append(("sync", self.options))
        return self.client

    def __exit__(self, kind, error, trace):
        self.uses.append(("left", error))

    async def __aenter__(self):
        self.uses.append(("async", self.options))
        return self.client

    async def __aexit__(self, kind, error, trace):
        self.uses.append(("left", error))


@pytest.fixture
def uses(monkeypatch):
    monkeypatch.setattr(FakeBlock, "uses", [], raising=False)
    monkeypatch.setattr(_api, "mpi_dask", FakeBlock)
    return FakeBlock.uses


def test_bare(uses):
    assert bare([1]) == ("bare", [1], 2, "the client")
    assert bare([1], 3, client="mine") == ("bare", [1], 3, "mine")
    assert uses == [("sync", {}), ("left", None)] * 2


def test_with_options(uses):
    assert with_options() == ("with_options", "the client")
    assert with_options("mine") == ("with_options", "mine")
    assert uses == [("sync", {"nthreads": 2, "exit": False}), ("left", None)] * 2


def test_without_options_but_with_parentheses(uses):
    @mpi_dask_main()
    def main():
        return "value"

    assert main() == "value"
    assert uses == [("sync", {}), ("left", None)]


def test_coroutines(uses):
    assert asyncio.run(coroutine(1)) == ("coroutine", 1, "the client")
    assert asyncio.run(coroutine_with_options()) == ("coroutine_with_options", "the client")
    assert uses == [
        ("async", {}),
        ("left", None),
        ("async", {"dashboard": False}),
        ("left", None),
    ]


def test_methods(uses):
    analysis = Analysis()
    assert analysis.method(1) == (analysis, 1, "the client")
    assert Analysis.method(analysis, number=1) == (analysis, 1, "the client")
    assert asyncio.run(analysis.async_method()) == (analysis, "the client")
    assert analysis.class_outside() == (Analysis, "the client")
    assert Analysis.class_inside() == (Analysis, "the client")
    assert Analysis.static_inside(1) == (1, "the client")
    assert Analysis.static_outside(1) == (1, "the client")


def test_other_ranks_return_nothing(uses, monkeypatch):
    monkeypatch.setattr(FakeBlock, "client", None)

    def never():
        raise AssertionError("ran on a rank that is not the client")

    async def never_either():
        never()

    assert mpi_dask_main(never)() is None
    assert asyncio.run(mpi_dask_main(never_either)()) is None
    assert len(uses) == 4


def test_an_error_passes_through_the_block(uses):
    error = LookupError("mine")

    @mpi_dask_main
    def main():
        raise error

    with pytest.raises(LookupError) as caught:
        main()
    assert caught.value is error
    assert uses[-1] == ("left", error)


def test_wrong_arguments_are_python_s_own_error(uses):
    with pytest.raises(TypeError, match=r"bare\(\) .*'nonsense'"):
        bare([1], nonsense=2)


# -- Who gets the client. ------------------------------------------------------------


def positional(a, client): ...
def with_default(a, client=None): ...
def keyword_only(*args, client, **kwargs): ...
def positional_only(client, /): ...
def absent(a, **kwargs): ...
def named_kwargs(**client): ...
def named_args(*client): ...


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "expected"),
    [
        (positional, (1,), {}, {"client": "C"}),
        (positional, (), {"a": 1}, {"a": 1, "client": "C"}),
        (positional, (1, "mine"), {}, {}),
        (positional, (1,), {"client": "mine"}, {"client": "mine"}),
        (with_default, (1,), {}, {"client": "C"}),
        (with_default, (1, None), {}, {}),
        (with_default, (1,), {"client": None}, {"client": None}),
        (keyword_only, (1, 2), {"b": 3}, {"b": 3, "client": "C"}),
        (keyword_only, (1, 2), {"client": "mine"}, {"client": "mine"}),
        (positional_only, (), {}, {}),
        (absent, (1,), {"b": 2}, {"b": 2}),
        (absent, (1,), {"client": "mine"}, {"client": "mine"}),
        (named_kwargs, (), {}, {}),
        (named_args, (), {}, {}),
        (positional, (1, 2, 3), {}, {}),  # wrong; Python shall say so
        (positional, (1,), {"nonsense": 2}, {"nonsense": 2}),
    ],
)
def test_who_gets_the_client(function, args, kwargs, expected):
    given = dict(kwargs)
    assert _with_client(function, args, kwargs, "C") == expected
    assert kwargs == given


def test_callables_without_a_signature_get_no_client():
    assert _with_client(dict.fromkeys, ([1],), {}, "C") == {}
    assert _with_client(type, (), {"x": 1}, "C") == {"x": 1}


def test_click_command(uses):
    """Its parameters come from the command line, in either order of the decorators."""
    click = pytest.importorskip("click")

    @mpi_dask_main
    @click.command
    @click.option("--number", type=int)
    def outside(number):
        click.echo(f"number {number}")
        return number

    @click.command
    @click.option("--number", type=int)
    @mpi_dask_main(nthreads=2)
    def inside(number, client):
        return number, client

    assert _with_client(outside.__wrapped__, (["--number", "3"],), {}, "C") == {}
    assert outside(["--number", "3"], standalone_mode=False) == 3
    assert inside(["--number", "4"], standalone_mode=False) == (4, "the client")
    assert uses == [
        ("sync", {}),
        ("left", None),
        ("sync", {"nthreads": 2}),
        ("left", None),
    ]
    assert isinstance(outside, click.Command)
    assert isinstance(inside, click.Command)
    assert outside.name == "outside"


def test_click_command_ends_by_its_status(uses):
    click = pytest.importorskip("click")

    @mpi_dask_main
    @click.command
    def main():
        click.get_current_context().exit(5)

    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 5
    assert exit_status(uses[-1][1]) == 5


# -- Exit statuses. ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, 0),
        (SystemExit(), 0),
        (SystemExit(None), 0),
        (SystemExit(0), 0),
        (SystemExit(3), 3),
        (SystemExit(255), 255),
        (SystemExit(256), 0),
        (SystemExit(-1), 255),
        (SystemExit(False), 0),
        (SystemExit(True), 1),
        (SystemExit("text"), 1),
        (SystemExit(""), 1),
        (SystemExit(2.0), 1),
        (SystemExit((1, 2)), 1),
        (KeyboardInterrupt(), 130),
        (ValueError("wrong"), 1),
        (StartupError("no"), 1),
        (asyncio.CancelledError(), 1),
        (GeneratorExit(), 1),
    ],
    ids=repr,
)
def test_exit_status(error, status):
    assert exit_status(error) == status


@pytest.mark.parametrize("code", [None, 0, 3, 256, -1, True, "text", "", 2.0, (1, 2)], ids=repr)
def test_exit_status_is_the_one_python_gives(code):
    command = [sys.executable, "-S", "-c", f"raise SystemExit({code!r})"]
    process = subprocess.run(command, check=False, capture_output=True, timeout=60)
    assert process.returncode == exit_status(SystemExit(code))


def test_a_client_that_goes_nowhere():
    def main(c, *, level=1):
        """Its parameter has another name."""

    with pytest.raises(TypeError, match=r"main\(\): .*'c'; .* a parameter named 'client'"):
        _with_client(main, (), {}, object())
    assert _with_client(main, (1,), {"level": 2}, object()) == {"level": 2}
