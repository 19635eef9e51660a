"""Nannies, and what mpidask relies on inside distributed and Python for them."""

from __future__ import annotations

import asyncio
import inspect
import signal
from multiprocessing import spawn

import pytest

from mpidask._dask.spawn import shield_children
from mpidask._threads import in_daemon_thread


def test_preparation_data_name_the_main_module():
    """`shield_children` drops these; both names are Python's own."""
    assert list(inspect.signature(spawn.get_preparation_data).parameters) == ["name"]
    source = inspect.getsource(spawn)
    assert "'init_main_from_path'" in source or '"init_main_from_path"' in source
    assert "'init_main_from_name'" in source or '"init_main_from_name"' in source


def test_worker_processes_do_not_see_the_script(monkeypatch):
    def original(name):
        return {"name": name, "init_main_from_path": "script.py", "init_main_from_name": "m"}

    monkeypatch.setattr(spawn, "get_preparation_data", original)
    shield_children()
    patched = spawn.get_preparation_data
    shield_children()
    assert spawn.get_preparation_data is patched  # once is enough
    name = "Dask Worker process (from Nanny)"

    def prepare():
        blocked_before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        assert patched("Process-1") == original("Process-1")
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked_before
        assert patched(name) == {"name": name}
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        return True

    assert in_daemon_thread(prepare).result(30)  # as a nanny does, in a thread of its own
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_nannies_name_their_processes_so(monkeypatch):
    """The name by which `shield_children` knows a nanny's process."""
    from distributed import nanny

    class Stopped(Exception):  # noqa: N818
        pass

    names = []

    def process(*args, name, **kwargs):
        names.append(name)
        raise Stopped

    monkeypatch.setattr(nanny, "AsyncProcess", process)

    async def test():
        supervised = nanny.WorkerProcess(
            worker_kwargs={},
            silence_logs=False,
            on_exit=None,
            worker=nanny.Worker,
            env={},
            pre_spawn_env={},
            config={},
        )
        with pytest.raises(Stopped):
            await supervised.start()

    asyncio.run(asyncio.wait_for(test(), 30))
    assert len(names) == 1
    assert names[0].startswith("Dask Worker process")
