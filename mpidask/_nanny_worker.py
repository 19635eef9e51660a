"""The worker in the child process of a nanny."""

from __future__ import annotations

from typing import Any

from distributed import Worker

from mpidask._log import hushed


class NannyWorker(Worker):
    """A worker that logs as little as those without a nanny.

    Parameters
    ----------
    log_level : int
        Level of distributed's loggers in this process.
    """

    def __init__(self, *args: Any, log_level: int, **kwargs: Any) -> None:
        self._hushed = hushed(log_level)
        self._hushed.__enter__()  # for as long as the process lives
        super().__init__(*args, **kwargs)
