"""Who holds copies of broadcast values: the scheduler knows, and tells who gets one from whom."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cloudpickle
from distributed import SchedulerPlugin

from mpidask._broadcast.protocol import (
    FIND,
    FREE,
    HAVE,
    JOIN,
    LET_GO,
    MAP,
    MAPPED,
    OBTAIN,
    PLUGIN,
    PUBLISH,
    PUSH,
    RELEASE,
    topic_of,
)
from mpidask._compat.distributed import FIRE_AND_FORGET
from mpidask._waiting import Changes, poll

if TYPE_CHECKING:
    from distributed import Scheduler

#: How many nodes each node passes a value on to.
_FAN_OUT = 2
#: Seconds for workers to map what their node has.
_MAP_TIMEOUT = 1
#: The states of tasks that are still to run, or do.
_PENDING = ("waiting", "no-worker", "queued", "processing")


@dataclass
class Arrival:
    """A copy on its way to a node: to which process, and from which worker."""

    who: str
    source: str | None


@dataclass
class Entry:
    """A value, and where copies of it are.

    Attributes
    ----------
    owner : str
        The client whose handle keeps it.
    copies : dict
        The locations in the processes of each node, by worker or client.
    arriving : dict
        The copies on their way, by node.
    mapping : set of str
        The workers that were told to map the copy of their node, and have not done so yet.
    errors : list of str
        Why nodes could not take a copy.
    """

    nbytes: int
    owner: str
    copies: dict[str, dict[str, Any]] = field(default_factory=dict)
    arriving: dict[str, Arrival] = field(default_factory=dict)
    mapping: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)

    def holders(self) -> list[str]:
        return [who for node in self.copies.values() for who in node]

    def remove(self, who: str, node: str) -> None:
        """Forget a process of a node that is gone."""
        holders = self.copies.get(node, {})
        if holders.pop(who, None) and not holders:
            del self.copies[node]
        self.mapping.discard(who)
        if node in self.arriving and self.arriving[node].who == who:
            del self.arriving[node]


class BroadcastPlugin(SchedulerPlugin):
    """Keeps account of copies, and lets workers get and drop them.

    Attributes
    ----------
    entries : dict
        By name.
    """

    name = PLUGIN
    idempotent = True

    async def start(self, scheduler: Scheduler) -> None:
        """Begin, on the scheduler and on its workers, those included that come later."""
        from mpidask._broadcast.worker_plugin import BroadcastWorkerPlugin

        if PLUGIN in scheduler.plugins:
            return
        scheduler.add_plugin(self, name=PLUGIN)  # before another broadcast does while this awaits
        self.entries: dict[str, Entry] = {}
        self._scheduler = scheduler
        self._nodes: dict[str, str] = {}  # of workers, by address
        self._workers: dict[str, set[str]] = {}  # by node
        self._changes = Changes()
        self._freeing: set[asyncio.Task[None]] = set()  # the event loop keeps weak references only
        scheduler.handlers |= {
            JOIN: self._join,
            PUBLISH: self._publish,
            FIND: self._find,
            HAVE: self._have,
            FREE: self._free,
        }
        scheduler.stream_handlers |= {MAPPED: self._mapped, LET_GO: self._let_go}
        plugin = cloudpickle.dumps(BroadcastWorkerPlugin())
        await scheduler.register_worker_plugin(None, plugin, PLUGIN, idempotent=True)

    @property
    def nbytes(self) -> int:
        """The memory that all nodes have for copies."""
        return sum(entry.nbytes * len(entry.copies) for entry in self.entries.values())

    async def before_close(self) -> None:
        """Forget all: else each worker that leaves would be looked for in each entry."""
        self.entries.clear()
        self._changes.notify()
        for task in self._freeing:
            task.cancel()

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        """Forget what a worker held."""
        if (node := self._nodes.pop(worker, None)) is not None:
            self._workers[node].discard(worker)
            for entry in self.entries.values():
                entry.remove(worker, node)
            self._changes.notify()

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """Forget what a client held, and free what belongs to it."""
        for name, entry in list(self.entries.items()):
            for node in list(entry.copies | entry.arriving):
                entry.remove(client, node)
            if entry.owner == client:
                self._let_go(name, client)
        self._changes.notify()

    # -- Handlers. -------------------------------------------------------------------------

    async def _join(self, who: str, node: str) -> list[dict[str, Any]]:
        self._nodes[who] = node
        self._workers.setdefault(node, set()).add(who)
        for name, entry in self.entries.items():
            if node not in entry.copies and node not in entry.arriving:
                self._order(name, entry, {node: who})
        there = [name for name, entry in self.entries.items() if node in entry.copies]
        return [self._order_to_map(name, node) for name in there]

    async def _publish(
        self, name: str, node: str, who: str, location: Any, nbytes: int, owner: str
    ) -> dict[str, Any]:
        """Let each node have a copy; return how many have one, and what went wrong elsewhere."""
        entry = self.entries[name] = Entry(nbytes, owner)
        self._add(name, entry, node, who, location)
        self._order(name, entry, self._one_worker_of_each_node(entry))
        await self._changes.until(lambda: self._is_freed(name, entry) or not entry.arriving)
        # Not for workers whose event loop a task blocks: they map it later.
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._changes.until(lambda: not entry.mapping), _MAP_TIMEOUT)
        return {"nodes": len(entry.copies), "errors": entry.errors}

    def _is_freed(self, name: str, entry: Entry) -> bool:
        return self.entries.get(name) is not entry

    def _one_worker_of_each_node(self, entry: Entry) -> dict[str, str]:
        """Return a worker of each node that has no copy, by node."""
        without = [node for node in self._workers if node not in entry.copies]
        return {node: min(self._workers[node]) for node in without if self._workers[node]}

    def _order(self, name: str, entry: Entry, targets: dict[str, str]) -> None:
        """Let workers, by node, get copies from each other: each passes its own on to some."""
        chain = [self._source(entry, failed=()), *targets.values()]
        if chain[0] is None:
            del chain[0]  # the client sends it to the first one
        first = len(chain) - len(targets)
        for index, (node, who) in enumerate(targets.items(), first):
            source = chain[(index - 1) // _FAN_OUT] if index else None
            entry.arriving[node] = Arrival(who, source)
            message = {"op": OBTAIN, "name": name, "nbytes": entry.nbytes}
            self._scheduler.worker_send(who, message)

    async def _find(
        self, name: str, node: str, who: str, failed: list[str]
    ) -> dict[str, Any] | None:
        """Return who holds what a process needs, and where on its node; None if nobody does.

        Without a holder, a client sends it to the process.
        """
        while (entry := self.entries.get(name)) is not None:
            for holder, location in entry.copies.get(node, {}).items():
                if holder not in failed:
                    return self._answer(node, holder, location)
            arrival = entry.arriving.setdefault(node, Arrival(who, None))
            if arrival.who == who:
                return self._source_of(name, entry, node, arrival, failed)
            await self._changes.until(
                lambda: self._is_freed(name, entry) or node not in entry.arriving
            )
        return None

    def _source_of(
        self, name: str, entry: Entry, node: str, arrival: Arrival, failed: list[str]
    ) -> dict[str, Any] | None:
        source = arrival.source if arrival.source not in failed else None
        source = source or self._source(entry, failed)
        clients = set(entry.holders()) & set(self._scheduler.clients)
        if source is None and clients and arrival.who in self._nodes:
            push = {"op": PUSH, "name": name, "worker": arrival.who, "node": node}
            self._scheduler.log_event(topic_of(min(clients)), push)
        elif source is None:
            del entry.arriving[node]
            return None
        return self._answer(node, source, None)

    def _answer(self, node: str, holder: str | None, location: Any) -> dict[str, Any]:
        return {"holder": holder, "location": location, "sharers": self._sharers(node)}

    def _sharers(self, node: str) -> int:
        return max(1, len(self._workers.get(node, ())))

    def _source(self, entry: Entry, failed: Any) -> str | None:
        """Return a worker that has a copy, or else one that only has to map that of its node."""
        near = [who for who, node in self._nodes.items() if node in entry.copies]
        holders = [who for who in entry.holders() if who in self._nodes]
        for candidates in (holders, near):
            if left := [who for who in candidates if who not in failed]:
                return random.choice(left)
        return None

    async def _have(self, name: str, node: str, who: str, location: Any, error: str) -> None:
        entry = self.entries.get(name)
        if entry is None:
            self._let_release(name, [who])
            return
        if error:
            entry.errors.append(error)
            self._let_release(name, [who])
        else:
            self._add(name, entry, node, who, location)
        if node in entry.arriving and entry.arriving[node].who == who:
            del entry.arriving[node]
        self._changes.notify()

    def _add(self, name: str, entry: Entry, node: str, who: str, location: Any) -> None:
        """Note a copy; if it is the first one of a node, let all workers there map it."""
        is_first = node not in entry.copies
        entry.copies.setdefault(node, {})[who] = location
        if is_first:
            message = {"op": MAP, **self._order_to_map(name, node)}
            others = self._workers.get(node, set()) - {who}
            entry.mapping |= others
            for worker in others:
                self._scheduler.worker_send(worker, message)

    def _order_to_map(self, name: str, node: str) -> dict[str, Any]:
        entry = self.entries[name]
        location = next(iter(entry.copies[node].values()))
        sharers = self._sharers(node)
        return {"name": name, "nbytes": entry.nbytes, "location": location, "sharers": sharers}

    def _mapped(self, name: str, location: Any, worker: str) -> None:
        entry, node = self.entries.get(name), self._nodes.get(worker)
        if entry is None or node is None:
            self._let_release(name, [worker])
            return
        entry.mapping.discard(worker)
        if location is not None:
            self._add(name, entry, node, worker, location)
        self._changes.notify()

    def _let_go(self, name: str, client: str) -> None:
        """Free a value when the tasks that a client has sent so far have ended.

        They may hold its handle; so may those of `fire_and_forget`, which belong to no client.
        """
        clients = filter(None, map(self._scheduler.clients.get, (client, FIRE_AND_FORGET)))
        pending = [task for one in clients for task in one.wants_what]

        def have_ended() -> bool:
            while pending and pending[-1].state not in _PENDING:
                pending.pop()
            return not pending

        async def free() -> None:
            await poll(have_ended, longest=0.5)
            self._release(name)

        if have_ended():
            self._release(name)
        else:
            task = asyncio.create_task(free())
            self._freeing.add(task)
            task.add_done_callback(self._freeing.discard)

    async def _free(self, name: str) -> None:
        self._release(name)

    def _release(self, name: str) -> None:
        entry = self.entries.pop(name, None)
        if entry is None:
            return
        self._let_release(name, {*entry.holders(), *(one.who for one in entry.arriving.values())})
        self._changes.notify()

    def _let_release(self, name: str, holders: Iterable[str]) -> None:
        for who in holders:
            message = {"op": RELEASE, "name": name}
            if who in self._nodes:
                self._scheduler.worker_send(who, message)
            elif who in self._scheduler.clients:
                self._scheduler.log_event(topic_of(who), message)
