"""A nanny and its worker that log as little as the other ranks."""

from __future__ import annotations

from typing import Any

from distributed import Nanny, Worker

from mpidask._log import hushed


class QuietWorker(Worker):
    """The worker in the child process of a `QuietNanny`.

    Parameters
    ----------
    log_level : int
        Level of distributed's loggers in this process.
    """

    def __init__(self, *args: Any, log_level: int, **kwargs: Any) -> None:
        self._hushed = hushed(log_level)
        self._hushed.__enter__()  # for as long as the process lives
        super().__init__(*args, **kwargs)


class QuietNanny(Nanny):
    """A nanny that takes the argument `log_level` for its worker."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"worker_class": QuietWorker, **kwargs})
