"""Task states of distributed's scheduler and workers that gangs read or change."""

from __future__ import annotations

import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Scheduler, Worker

#: The state of tasks whose restrictions no worker meets: those of gangs that wait for their ranks.
NO_WORKER = "no-worker"


def state_of(scheduler: Scheduler, key: Any) -> str:
    """Return the state of a task, or "" if the scheduler has no such task (any more)."""
    task = scheduler.tasks.get(key)
    return "" if task is None else str(task.state)


# -- Transitions: no public call sends a task to a worker, resets it or fails it. ----------


def assign(scheduler: Scheduler, workers: Mapping[Any, str], unknown_host: str) -> None:
    """Send waiting tasks to the workers given by key, all at once.

    Afterwards the tasks are restricted to `unknown_host` again, so that they are not stolen, and
    wait in ``no-worker`` again when they are retried or recomputed.
    """
    for key, address in workers.items():
        _restrict(scheduler, key, workers={address}, hosts=None)
    recommendations: dict[Any, Any] = dict.fromkeys(workers, "processing")
    scheduler.transitions(recommendations, _stimulus_id("assign"))
    for key in workers:
        _restrict(scheduler, key, workers=None, hosts={unknown_host})


def _restrict(
    scheduler: Scheduler, key: Any, *, workers: set[str] | None, hosts: set[str] | None
) -> None:
    # `Scheduler.set_restrictions` takes a worker's host for its address, and can't set hosts.
    task = scheduler.tasks[key]
    task.worker_restrictions, task.host_restrictions = workers, hosts


def reset(scheduler: Scheduler, keys: Iterable[Any]) -> None:
    """Move tasks back towards ``no-worker``, whether they run, are in memory or have failed.

    From some states, one step at a time: repeat it when their states have changed.
    """
    recommendations: dict[Any, Any] = {}
    for key in keys:
        state = state_of(scheduler, key)
        if state in ("processing", "memory", "erred"):
            recommendations[key] = "released"
        elif state == "released":
            recommendations[key] = "waiting"
    scheduler.transitions(recommendations, _stimulus_id("reset"))


def fail(scheduler: Scheduler, keys: Iterable[Any], *, like: Any = None, error: Any = None) -> None:
    """Fail tasks in ``no-worker`` with an exception, or with that of the task `like`."""
    if like is None:
        details = {"exception": pickle.dumps(error), "exception_text": str(error)}
    else:
        failed = scheduler.tasks[like]
        blamed = failed.exception_blame or failed
        names = ("exception", "traceback", "exception_text", "traceback_text")
        details = {name: getattr(blamed, name) for name in names}
    for key in keys:
        stimulus = _stimulus_id("fail")
        follow_up = scheduler.transition(key, "erred", stimulus_id=stimulus, cause=key, **details)
        scheduler.transitions(follow_up, stimulus)


def _stimulus_id(action: str) -> str:
    return f"mpidask-{action}-{time.time()}"


# -- Interest of clients: only `Client` has public calls, and plugins no hooks. ------------


def add_interest(scheduler: Scheduler, keys: Iterable[Any], client: str) -> None:
    """Keep tasks from being forgotten, as if a client of that name had futures of them."""
    scheduler.client_desires_keys([key for key in keys if key in scheduler.tasks], client)


def drop_interest(scheduler: Scheduler, keys: Iterable[Any], client: str) -> None:
    """Undo `add_interest`."""
    scheduler.client_releases_keys([key for key in keys if key in scheduler.tasks], client)


def is_wanted(scheduler: Scheduler, key: Any, *, except_by: str) -> bool:
    """Whether another task, or a client other than `except_by`, wants a task."""
    task = scheduler.tasks.get(key)
    return bool(_clients_of(scheduler, key) - {except_by} or (task and task.dependents))


def _clients_of(scheduler: Scheduler, key: Any) -> set[str]:
    task = scheduler.tasks.get(key)
    return {client.client_key for client in task.who_wants or ()} if task is not None else set()


def cancel(scheduler: Scheduler, keys: Iterable[Any], message: str) -> None:
    """Cancel tasks for all clients that want them."""
    for key in keys:
        for client in _clients_of(scheduler, key):
            scheduler.stimulus_cancel([key], client, force=True, reason="mpidask", msg=message)


def call_before_release(scheduler: Scheduler, callback: Callable[[Iterable[Any]], object]) -> None:
    """Call `callback` with the keys that a client is about to release."""
    release = scheduler.stream_handlers["client-releases-keys"]

    def handler(keys: Iterable[Any], client: str, **kwargs: Any) -> None:
        callback(keys)
        release(keys=keys, client=client, **kwargs)

    scheduler.stream_handlers["client-releases-keys"] = handler


def call_before_retry(
    scheduler: Scheduler, choose: Callable[[Iterable[Any]], Iterable[Any]]
) -> None:
    """When a client retries tasks, retry those that `choose` makes of their keys."""
    retry = scheduler.handlers["retry"]

    def handler(keys: Iterable[Any], client: str | None = None) -> list[Any]:
        chosen = list(dict.fromkeys(choose(keys)))
        retried = retry(keys=chosen, client=client)
        # The client marks all keys of the reply as pending: return none of other clients'.
        return [key for key in retried if client in _clients_of(scheduler, key)]

    scheduler.handlers["retry"] = handler


# -- Attributes of tasks, workers and connections. -----------------------------------------


def share_retries(scheduler: Scheduler, keys: Iterable[Any]) -> None:
    """Set the retries left of each task to the minimum over all, since all run again together."""
    tasks = [scheduler.tasks[key] for key in keys]
    left = min(task.retries for task in tasks)
    for task in tasks:
        task.retries = left


def ranks_with_data(
    scheduler: Scheduler, keys: list[Any], ranks: Mapping[str, int]
) -> dict[int, int]:
    """Return the rank that holds most of what each task, by its index, alone depends on.

    The ranks of workers are given by their addresses.
    """
    dependencies = [scheduler.tasks[key].dependencies for key in keys]
    common = set.intersection(*dependencies) if len(keys) > 1 else set()
    found = {}
    for index, needed in enumerate(dependencies):
        nbytes: Counter[int] = Counter()
        for dependency in needed - common:
            for worker in dependency.who_has or ():
                if worker.address in ranks:
                    nbytes[ranks[worker.address]] += dependency.get_nbytes()
        if nbytes:
            found[index] = max(nbytes, key=lambda rank: (nbytes[rank], -rank))
    return found


def resources_of(scheduler: Scheduler, key: Any) -> dict[str, float]:
    """Return the resources that a task asks for."""
    return dict(scheduler.tasks[key].resource_restrictions or {})


def offers(scheduler: Scheduler, worker: str, resources: Mapping[str, float]) -> bool:
    """Whether a worker has resources, in use or not."""
    total = scheduler.workers[worker].resources
    return all(total.get(name, 0) >= amount for name, amount in resources.items())


def postpone_no_workers_timeout(scheduler: Scheduler, keys: Iterable[Any]) -> None:
    """Keep ``distributed.scheduler.no-workers-timeout`` from failing tasks that wait."""
    if scheduler.no_workers_timeout is not None:
        for key in keys:
            task = scheduler.tasks.get(key)
            # Pop, and append: distributed expects the dict in the order of its times.
            if task is not None and scheduler.unrunnable.pop(task, None) is not None:
                scheduler.unrunnable[task] = time.monotonic()


def send_at_once(scheduler: Scheduler, worker: str, message: dict[str, Any]) -> None:
    """Send a message to a worker without the 5 ms for which `BatchedSend` may delay it."""
    if (stream := scheduler.stream_comms.get(worker)) is not None:
        stream.next_deadline = None
    scheduler.worker_send(worker, message)


def is_executing(worker: Worker, key: Any) -> bool:
    """Whether a worker executes a task; it would ignore another request to compute it."""
    return any(task.key == key for task in worker.state.executing)
