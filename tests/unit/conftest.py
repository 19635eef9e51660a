"""What tests in one process share."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator

import dask
import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that load no MPI, to which it is all the same which one is there."""
    for item in items:
        if "unit" in item.path.parts and not item.get_closest_marker("loads_mpi"):
            item.add_marker("any_mpi")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Fail if a test loads MPI after all, and is not marked."""
    before = "mpi4py.MPI" in sys.modules
    yield
    if item.get_closest_marker("any_mpi") and not before:
        assert "mpi4py.MPI" not in sys.modules, "loads MPI: pytest.mark.loads_mpi"


@pytest.fixture(autouse=True)
def _no_configuration() -> Iterator[None]:
    """Keep out options that the user's or the run's configuration sets."""
    with dask.config.set(mpidask={}):
        yield
