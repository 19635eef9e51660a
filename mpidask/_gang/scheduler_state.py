"""The little of distributed's scheduler that is not public and gangs need."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mpidask._gang.submit import HOLD

if TYPE_CHECKING:
    from distributed import Scheduler

#: States of tasks here: at the gate, which is "no-worker" to distributed; and "" if forgotten.
AT_GATE = "no-worker"


def state_of(scheduler: Scheduler, key: Any) -> str:
    """Give the state of a task; empty if there is no such task any more."""
    task = scheduler.tasks.get(key)
    return "" if task is None else str(task.state)


def release(scheduler: Scheduler, places: Mapping[Any, str]) -> None:
    """Send tasks that are at the gate to the workers named, all at once.

    Then the gate is closed behind them: retries and recomputations come to it again, and
    nobody steals the tasks.
    """
    for key, address in places.items():
        _restrict(scheduler, key, workers={address}, hosts=None)
    recommended: dict[Any, Any] = dict.fromkeys(places, "processing")
    scheduler.transitions(recommended, _stimulus("release"))
    for key in places:
        _restrict(scheduler, key, workers=None, hosts={HOLD})


def send_at_once(scheduler: Scheduler, worker: str, message: dict[str, Any]) -> None:
    """Send a message to a worker, which distributed may hold back for 5 ms after another one."""
    if (stream := scheduler.stream_comms.get(worker)) is not None:
        stream.next_deadline = None
    scheduler.worker_send(worker, message)


def _restrict(
    scheduler: Scheduler, key: Any, *, workers: set[str] | None, hosts: set[str] | None
) -> None:
    task = scheduler.tasks[key]
    task.worker_restrictions, task.host_restrictions = workers, hosts


def call_back(scheduler: Scheduler, keys: Iterable[Any]) -> None:
    """Let tasks come to the gate again, whatever has become of them."""
    wanted: dict[Any, Any] = {}
    for key in keys:
        state = state_of(scheduler, key)
        if state in ("processing", "memory", "erred"):
            wanted[key] = "released"
        elif state == "released":
            wanted[key] = "waiting"
    scheduler.transitions(wanted, _stimulus("call-back"))


def fail(
    scheduler: Scheduler, keys: Iterable[Any], *, as_task: Any = None, error: Any = None
) -> None:
    """Fail tasks that are at the gate, with an exception or with that of another task."""
    if as_task is None:
        details = {"exception": pickle.dumps(error), "exception_text": str(error)}
    else:
        blamed = as_task.exception_blame or as_task
        names = ("exception", "traceback", "exception_text", "traceback_text")
        details = {name: getattr(blamed, name) for name in names}
    for key in keys:
        stimulus = _stimulus("fail")
        follow_up = scheduler.transition(key, "erred", stimulus_id=stimulus, cause=key, **details)
        scheduler.transitions(follow_up, stimulus)


def cancel(scheduler: Scheduler, keys: Iterable[Any], why: str) -> None:
    """Cancel tasks for all who want them."""
    for key in keys:
        task = scheduler.tasks.get(key)
        for client in list(task.who_wants or ()) if task is not None else ():
            scheduler.stimulus_cancel(
                [key], client=client.client_key, force=True, reason="mpidask", msg=why
            )


def call_before_release(scheduler: Scheduler, callback: Callable[[Iterable[Any]], object]) -> None:
    """Call something with the keys that a client is about to release.

    No hook of plugins tells of it.
    """
    release = scheduler.stream_handlers["client-releases-keys"]

    def handler(keys: Iterable[Any], client: str, **kwargs: Any) -> None:
        callback(keys)
        release(keys=keys, client=client, **kwargs)

    scheduler.stream_handlers["client-releases-keys"] = handler


def call_before_retry(
    scheduler: Scheduler, choose: Callable[[Iterable[Any]], Iterable[Any]]
) -> None:
    """Let something choose which tasks are retried, of those that a client wants to.

    No hook of plugins asks.
    """
    retry = scheduler.handlers["retry"]

    def handler(keys: Iterable[Any], client: str | None = None) -> list[Any]:
        chosen = list(dict.fromkeys(choose(keys)))
        retried = retry(keys=chosen, client=client)
        # The client takes them for its own.
        return [key for key in retried if _is_wanted_by(scheduler, key, client)]

    scheduler.handlers["retry"] = handler


def _is_wanted_by(scheduler: Scheduler, key: Any, client: str | None) -> bool:
    task = scheduler.tasks.get(key)
    return task is not None and any(one.client_key == client for one in task.who_wants or ())


def hold(scheduler: Scheduler, keys: Iterable[Any], holder: str) -> None:
    """Want tasks, so that they are not forgotten."""
    scheduler.client_desires_keys([key for key in keys if key in scheduler.tasks], holder)


def let_go(scheduler: Scheduler, keys: Iterable[Any], holder: str) -> None:
    """Want tasks no more."""
    scheduler.client_releases_keys([key for key in keys if key in scheduler.tasks], holder)


def is_wanted(scheduler: Scheduler, key: Any, *, but_by: str) -> bool:
    """Tell whether a client, or another task, wants a task."""
    task = scheduler.tasks.get(key)
    if task is None:
        return False
    wanting = {client.client_key for client in task.who_wants or ()} - {but_by}
    return bool(wanting or task.dependents)


def share_retries(scheduler: Scheduler, keys: Iterable[Any]) -> None:
    """Count the failure of one task, for which Dask runs it once more, as one of all."""
    tasks = [scheduler.tasks[key] for key in keys]
    left = min(task.retries for task in tasks)
    for task in tasks:
        task.retries = left


def homes(scheduler: Scheduler, keys: list[Any], ranks: Mapping[str, int]) -> dict[int, int]:
    """Give the ranks that hold what single tasks depend on, by the numbers of the tasks."""
    needs = [scheduler.tasks[key].dependencies for key in keys]
    common = set.intersection(*needs)
    found = {}
    for number, needed in enumerate(needs):
        weights: dict[int, int] = {}
        for piece in needed - common if len(keys) > 1 else needed:
            for holder in piece.who_has or ():
                if holder.address in ranks:
                    rank = ranks[holder.address]
                    weights[rank] = weights.get(rank, 0) + piece.get_nbytes()
        if weights:
            found[number] = max(weights, key=lambda rank: (weights[rank], -rank))
    return found


def resources_asked(scheduler: Scheduler, key: Any) -> dict[str, float]:
    """Give the resources that a task asks for."""
    return dict(scheduler.tasks[key].resource_restrictions or {})


def offers(scheduler: Scheduler, worker: str, resources: Mapping[str, float]) -> bool:
    """Tell whether a worker has resources, in use or not."""
    there = scheduler.workers[worker].resources
    return all(there.get(name, 0) >= amount for name, amount in resources.items())


def keep_waiting(scheduler: Scheduler, keys: Iterable[Any]) -> None:
    """Keep ``distributed.scheduler.no-workers-timeout`` from failing tasks that wait.

    The dict is ordered by the times in it.
    """
    if scheduler.no_workers_timeout is not None:
        for key in keys:
            task = scheduler.tasks.get(key)
            if task is not None and scheduler.unrunnable.pop(task, None) is not None:
                scheduler.unrunnable[task] = time.monotonic()


def _stimulus(deed: str) -> str:
    return f"mpidask-{deed}-{time.time()}"
