"""Tasks that raise: the kinds of failures, and those that no client would learn of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from distributed import SchedulerPlugin

from mpidask._compat.distributed import FIRE_AND_FORGET, on_client_desires
from mpidask._log import logger
from mpidask._text import printable
from mpidask._watch.task_counts import broadcast_bytes, place_of

if TYPE_CHECKING:
    from distributed import Scheduler

#: How many kinds are distinguished, and how many of them have a line in the log.
_KINDS, _LINES = 50, 5
#: The longest text of an exception.
_LENGTH = 200


@dataclass
class Failure:
    """Failures of one kind: exceptions of one type in tasks of one function."""

    #: The function, as Dask's dashboard shows it.
    task: str
    exception_type: str
    #: Of the first failure, as the next two.
    key: str
    exception: str
    place: str
    count: int = 0

    def content(self) -> dict[str, Any]:
        """Return its part of the summary."""
        return asdict(self)

    def __str__(self) -> str:
        times = f" ({self.count} times)" if self.count > 1 else ""
        return f"{self.exception_type} in {self.task}{times}"


class Failures(SchedulerPlugin):
    """Counts tasks that raise, and logs those of `distributed.fire_and_forget`.

    Their errors reach no client. Other errors reach the program with the results, which shows or
    handles them.
    """

    name = "mpidask-failures"

    def __init__(self, scheduler: Scheduler, places: Mapping[str, str]) -> None:
        self._scheduler = scheduler
        self._places = places
        self._kinds: dict[tuple[str, str], Failure] = {}
        self._logged: set[tuple[str, str]] = set()
        self._not_logged = 0
        self._explained = False
        self._unattended: set[Any] = set()  # keys of fire_and_forget
        on_client_desires(scheduler, self._note_desire)

    @property
    def kinds(self) -> list[Failure]:
        """The kinds of failures, in the order in which they came."""
        return list(self._kinds.values())

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """Note a failure. Called several times for each task, so it is short."""
        if finish == "erred":
            self._note(self._scheduler.tasks[key])
        elif self._unattended and finish in ("memory", "forgotten"):
            self._unattended.discard(key)

    def _note_desire(self, keys: Iterable[Any], client: str) -> None:
        """Note the keys of `fire_and_forget`, even if their tasks have failed by now.

        Once a task has failed, the scheduler no longer knows that it was one of these.
        """
        if client == FIRE_AND_FORGET:
            for task in filter(None, map(self._scheduler.tasks.get, keys)):
                self._unattended.add(task.key)
                if task.state == "erred":
                    self._log_if_unattended(task)

    def _note(self, task: Any) -> None:
        cause = task.exception_blame or task
        kind = _kind_of(cause)
        self._explain(cause)
        if kind not in self._kinds and len(self._kinds) < _KINDS:
            first = str(cause.key), _text_of(cause), self._place_of(cause)
            self._kinds[kind] = Failure(*kind, *first)
        if cause is task and kind in self._kinds:
            self._kinds[kind].count += 1
        self._log_if_unattended(task)

    def _explain(self, cause: Any) -> None:
        """Say once what to do about an error that looks as if a broadcast array was written to."""
        text = cause.exception_text or ""
        if not self._explained and "read-only" in text and broadcast_bytes(self._scheduler):
            self._explained = True
            logger.info(
                "%s: the arrays of a Broadcast are read-only, as all ranks of a node share them. "
                "Change a copy: handle.value.copy()",
                _text_of(cause),
            )

    def _log_if_unattended(self, task: Any) -> None:
        if task.key in self._unattended:
            self._unattended.discard(task.key)
            self._log(_kind_of(task.exception_blame or task))

    def _place_of(self, cause: Any) -> str:
        for address in cause.erred_on or ():
            worker = self._scheduler.workers.get(address)
            return place_of(worker, self._places) if worker is not None else str(address)
        return ""

    def _log(self, kind: tuple[str, str]) -> None:
        if kind in self._logged or kind not in self._kinds or len(self._logged) == _LINES:
            self._not_logged += 1
            return
        self._logged.add(kind)
        first = self._kinds[kind]
        place = f" on {first.place}" if first.place else ""
        logger.warning("task %s failed%s: %s", first.key, place, first.exception)

    async def before_close(self) -> None:
        """Log the rest; what happens to tasks while the scheduler closes does not count."""
        self._scheduler.remove_plugin(self.name)
        if self._not_logged:
            logger.warning("more tasks failed whose results nobody waits for: %d", self._not_logged)


def _text_of(task: Any) -> str:
    # As its worker formatted it: schedulers do not unpickle exceptions.
    text = printable(task.exception_text or "")
    return text if len(text) <= _LENGTH else f"{text[:_LENGTH]}..."


def _kind_of(task: Any) -> tuple[str, str]:
    return task.prefix.name, _text_of(task).partition("(")[0]
