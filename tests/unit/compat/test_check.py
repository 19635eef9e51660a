"""What is private in other packages is there, or its absence is reported by name."""

from __future__ import annotations

import importlib.metadata

import distributed
import pytest

from mpidask._compat import check
from mpidask._errors import MPIDaskError


@pytest.mark.parametrize("name", check.NEEDED)
def test_it_is_there(name):
    check.require(name)


def test_what_is_missing_is_named_with_package_and_version(monkeypatch):
    monkeypatch.delattr(distributed.Client, "_instances")
    check.check_private_api.cache_clear()
    version = importlib.metadata.version("distributed")
    missing = rf"distributed {version} has no distributed\.client\.Client\._instances"
    with pytest.raises(MPIDaskError, match=missing):
        check.check_private_api()


def test_python_itself_is_named():
    with pytest.raises(MPIDaskError, match=r"Python 3\.\d+\.\d+\S* has no threading\.nonesuch"):
        check.require("threading:nonesuch")


def test_a_cluster_says_so_at_its_start(monkeypatch):
    import asyncio

    from mpidask._dask.scheduler import start_scheduler
    from mpidask._options import Options

    monkeypatch.delattr(distributed.Client, "_instances")
    check.check_private_api.cache_clear()
    with pytest.raises(MPIDaskError, match=r"which mpidask .* relies on"):
        asyncio.run(start_scheduler(Options.resolve({}), None, None, ""))
