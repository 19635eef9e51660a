"""The private API of Python's standard library behaves as `_compat.python` expects."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import multiprocessing
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import forkserver, resource_tracker, spawn

import pytest

from mpidask._compat import python


def test_call_before_threads_are_joined():
    program = (
        "import threading\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from mpidask._compat.python import call_before_threads_are_joined\n"
        "ended = threading.Event()\n"
        "call_before_threads_are_joined(ended.set)\n"
        "ThreadPoolExecutor(1).submit(lambda: print(ended.wait(30), flush=True))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "True\n"), ended.stderr


def test_edit_preparation_data(monkeypatch):
    monkeypatch.setattr(spawn, "get_preparation_data", lambda name: {"name": name})
    python.edit_preparation_data(lambda name, data: data.update(edited=name))
    python.edit_preparation_data(lambda name, data: data.update(twice=name))
    assert spawn.get_preparation_data("p") == {"name": "p", "edited": "p"}


def test_preparation_data_name_the_main_module():
    source = inspect.getsource(spawn)
    for name in python._MAIN_MODULE:
        assert repr(name) in source
        data = {name: "x", "name": "p"}
        assert python.imports_main_module(data)
        python.skip_main_module(data)
        assert data == {"name": "p"}
        assert not python.imports_main_module(data)


def main_module():
    return __name__


def test_name_of_the_main_module_in_a_child(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(
        "import multiprocessing\n"
        "print(__name__, flush=True)\n"
        "if __name__ == '__main__':\n"
        "    child = multiprocessing.get_context('spawn').Process(target=print)\n"
        "    child.start()\n"
        "    child.join()\n"
    )
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True)
    assert done.stdout.split() == ["__main__", python.MAIN_MODULE_IN_CHILD]
    assert multiprocessing.current_process().name


def test_is_import_statement(tmp_path, monkeypatch):
    (tmp_path / "mine_with_getattr").mkdir()
    (tmp_path / "mine_with_getattr" / "__init__.py").write_text(
        "import sys\n"
        "from mpidask._compat.python import is_import_statement\n"
        "seen = []\n"
        "def __getattr__(name):\n"
        "    if name == 'wanted':\n"
        "        seen.append(is_import_statement(sys._getframe(1)))\n"
        "    raise AttributeError(name)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import mine_with_getattr  # type: ignore[import-not-found]

    assert not hasattr(mine_with_getattr, "wanted")
    with contextlib.suppress(ImportError):
        from mine_with_getattr import wanted  # noqa: F401
    assert mine_with_getattr.seen[:2] == [False, True]


def test_all_loggers():
    log = logging.getLogger("mpidask-test.child")
    assert python.all_loggers()["mpidask-test.child"] is log
    assert "mpidask-test" not in python.all_loggers()  # a placeholder


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_pool_modules(pool):
    assert pool.__module__ in python.POOL_MODULES


def test_helper_processes():
    for module, name in zip((resource_tracker, forkserver), python.HELPER_PROCESSES, strict=True):
        assert f"from {module.__name__} import main" in inspect.getsource(module)
        assert name in module.__name__


def test_is_asyncios_handler():
    async def handler():
        return signal.getsignal(signal.SIGINT)

    found = asyncio.run(handler())
    if sys.version_info >= (3, 11):  # before, it installs none
        assert python.is_asyncios_handler(found)
    assert not python.is_asyncios_handler(signal.default_int_handler)
    assert not python.is_asyncios_handler(functools.partial(print))
