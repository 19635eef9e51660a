"""A scheduler file whose file system hangs."""

from __future__ import annotations

import asyncio
import threading

import pytest

from mpidask import SchedulerFileError
from mpidask._dask import discovery, scheduler_file
from mpidask._dask.connection_info import ConnectionInfo


def test_a_file_that_hangs_is_not_read_again_and_again(monkeypatch):
    answer, reads = threading.Event(), []

    def read(path, trust):
        reads.append(path)
        answer.wait(30)
        return ConnectionInfo(path)

    monkeypatch.setattr(scheduler_file, "read", read)

    async def test():
        for _ in range(3):
            with pytest.raises(SchedulerFileError, match="does not answer") as caught:
                await discovery._read("file", 0.05, trust=False)
            assert caught.value.may_pass
        answer.set()
        return await discovery._read("file", 30, trust=False)

    assert asyncio.run(test()) == ConnectionInfo("file")
    assert reads == ["file"]
    assert not discovery._reading


def test_errors_of_the_file_come_through(tmp_path):
    with pytest.raises(SchedulerFileError, match="there is no scheduler file"):
        asyncio.run(discovery._read(str(tmp_path / "nonesuch"), 30, trust=False))
    assert not discovery._reading
