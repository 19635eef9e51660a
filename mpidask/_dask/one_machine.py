"""Scripts that were written for one machine, and run under ``python -m mpidask``."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from mpidask._log import logger


@contextlib.contextmanager
def scripts_for_one_machine() -> Iterator[None]:
    """Let `Client(n_workers=2)` be a plain `Client()`, and say what a `LocalCluster` leaves out.

    With a scheduler's address in Dask's configuration, which such a script does not know of,
    the arguments for a `LocalCluster` are an error to distributed.
    """
    from distributed import Client, LocalCluster

    with _wrapped(Client, _of_the_job), _wrapped(LocalCluster, _told):
        yield


@contextlib.contextmanager
def _wrapped(cls: type, wrapper: Callable[[Any], Any]) -> Iterator[None]:
    # There is no public way to take part when these are made.
    original = cls.__init__  # type: ignore[misc]
    cls.__init__ = wrapper(original)  # type: ignore[misc]
    try:
        yield
    finally:
        cls.__init__ = original  # type: ignore[misc]


def _of_the_job(original: Any) -> Any:
    known = inspect.signature(original).parameters.keys()

    @functools.wraps(original)
    def make(self: Any, *args: Any, **kwargs: Any) -> None:
        of_local_cluster = sorted(kwargs.keys() - known)
        if of_local_cluster and not args and kwargs.get("address") is None:
            logger.warning(
                "Client(%s=...) uses the workers of this job, as a plain Client() does",
                "=..., ".join(of_local_cluster),
            )
            kwargs = {name: value for name, value in kwargs.items() if name in known}
        original(self, *args, **kwargs)

    return make


def _told(original: Any) -> Any:
    @functools.wraps(original)
    def make(self: Any, *args: Any, **kwargs: Any) -> None:
        logger.warning(
            "%s() starts workers on this rank's node alone, and leaves those of the job idle: a "
            "plain Client() uses them",
            type(self).__name__,
        )
        original(self, *args, **kwargs)

    return make
