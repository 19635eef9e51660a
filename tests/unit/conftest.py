"""What tests in one process share."""

from __future__ import annotations

from collections.abc import Iterator

import dask
import pytest


@pytest.fixture(autouse=True)
def _no_configuration() -> Iterator[None]:
    """Keep out options that the user's or the run's configuration sets."""
    with dask.config.set(mpidask={}):
        yield
