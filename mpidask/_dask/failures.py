"""Tasks that raise: what kinds of failures there are, and those that nobody would hear of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from distributed import SchedulerPlugin

from mpidask._log import logger

if TYPE_CHECKING:
    from distributed import Scheduler

    from mpidask._dask.tally import Places

#: So many kinds are told apart, and so many of them have a line in the log.
_KINDS, _LINES = 50, 5
#: The longest words of an exception.
_LENGTH = 200


@dataclass
class Failure:
    """Failures of one kind: exceptions of one type in tasks of one function.

    Attributes
    ----------
    task, exception_type : str
        The function, as Dask's dashboard shows it, and the exception.
    key, exception, place : str
        Of the first of them.
    count : int
        How many there are.
    """

    task: str
    exception_type: str
    key: str
    exception: str
    place: str
    count: int = 0

    def content(self) -> dict[str, Any]:
        """Give its part of the summary."""
        return asdict(self)

    def __str__(self) -> str:
        times = f" ({self.count} times)" if self.count > 1 else ""
        return f"{self.exception_type} in {self.task}{times}"


class Failures(SchedulerPlugin):
    """Takes note of tasks that raise, and tells of those whose errors reach no client.

    So it is with `distributed.fire_and_forget`. Other errors are for the program, which gets
    them with the results, and shows or handles them.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    places : Places
    """

    name = "mpidask-failures"

    def __init__(self, scheduler: Scheduler, places: Places) -> None:
        self._scheduler = scheduler
        self._places = places
        self._kinds: dict[tuple[str, str], Failure] = {}
        self._told: set[tuple[str, str]] = set()
        self._untold = 0

    @property
    def kinds(self) -> list[Failure]:
        """The kinds of failures, in the order in which they came."""
        return list(self._kinds.values())

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """Take note of a failure. Called several times for each task, so it is short."""
        if finish == "erred":
            self._note(self._scheduler.tasks[key])

    def _note(self, task: Any) -> None:
        cause = task.exception_blame or task
        kind = _kind_of(cause)
        if kind not in self._kinds and len(self._kinds) < _KINDS:
            self._kinds[kind] = self._failure(kind, cause)
        if cause is task and kind in self._kinds:
            self._kinds[kind].count += 1
        if not task.who_wants and not task.dependents:
            self._tell(kind)

    def _failure(self, kind: tuple[str, str], cause: Any) -> Failure:
        return Failure(*kind, str(cause.key), _text_of(cause), self._place_of(cause))

    def _place_of(self, cause: Any) -> str:
        for address in cause.erred_on or ():
            worker = self._scheduler.workers.get(address)
            return self._places(worker) if worker is not None else str(address)
        return ""

    def _tell(self, kind: tuple[str, str]) -> None:
        if kind in self._told or kind not in self._kinds or len(self._told) == _LINES:
            self._untold += 1
            return
        self._told.add(kind)
        first = self._kinds[kind]
        place = f" on {first.place}" if first.place else ""
        logger.warning("task %s failed%s: %s", first.key, place, first.exception)

    async def before_close(self) -> None:
        """Tell the rest; what becomes of tasks while the scheduler closes is no failure."""
        self._scheduler.remove_plugin(self.name)
        for task in self._scheduler.clients["fire-and-forget"].wants_what:
            if task.state == "erred":  # it had failed before it was to be forgotten
                self._tell(_kind_of(task.exception_blame or task))
        if self._untold:
            logger.warning("more tasks failed whose results nobody waits for: %d", self._untold)


def _text_of(task: Any) -> str:
    # As its worker wrote it: exceptions are not unpickled in a scheduler.
    words = "".join(one if one.isprintable() else " " for one in task.exception_text or "")
    return words if len(words) <= _LENGTH else f"{words[:_LENGTH]}..."


def _kind_of(task: Any) -> tuple[str, str]:
    return task.prefix.name, _text_of(task).partition("(")[0]
