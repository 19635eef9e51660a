"""The copies of broadcast values that a process holds, and how it comes by one.

A copy is a file that the processes of a node share. The first process that needs one fetches it
from another node in chunks, and passes each on as soon as it is there. Chunks go by Dask's
connections, so by MPI where the data of the job does. All other processes of the node map the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

from mpidask._broadcast import shared_file
from mpidask._broadcast.protocol import FIND, HAVE, READ, WRITE, call
from mpidask._broadcast.serialization import load
from mpidask._broadcast.shared_file import Location, SharedFile
from mpidask._errors import MPIDaskError
from mpidask._threads import to_daemon_thread
from mpidask._waiting import Changes

#: Bytes of a chunk, and how many of a value are on their way to a process at once.
_CHUNK, _WINDOW = 2**24, 3
#: What is wrong where nobody has a value.
FREED = (
    "this Broadcast was freed: by free(), by the end of its cluster, with the last handle of its "
    "client, or with the last process that held a copy"
)

#: By name, for all servers and clients of this process.
_held: dict[str, Copy] = {}
_UNLOADED = object()


class Copy:
    """A value in a file that the processes of this node share.

    Attributes
    ----------
    holders : set of str
        The workers and clients of this process that hold it.
    """

    def __init__(self, file: SharedFile, holder: str) -> None:
        self.file = file
        self.holders = {holder}
        self._value: Any = _UNLOADED
        self._loading = threading.Lock()

    @property
    def value(self) -> Any:
        """The value, unpickled when a thread of this process first asks for it."""
        with self._loading:
            if self._value is _UNLOADED:
                self._value = load(self.file.memory)
            return self._value


def held(name: str) -> Copy | None:
    """Return the copy that this process holds, if any."""
    return _held.get(name)


def release(name: str) -> None:
    """Drop a copy; what the program still refers to stays valid for it."""
    if (copy := _held.pop(name, None)) is not None:
        copy.file.close()


def release_all() -> None:
    """Drop all copies."""
    for name in list(_held):
        release(name)


class _Arrival:
    """A copy on its way to this process."""

    task: asyncio.Task[Copy]

    def __init__(self) -> None:
        self.file: SharedFile | None = None
        self.missing: set[int] = set()
        self.changes = Changes()

    @property
    def is_complete(self) -> bool:
        return self.file is not None and not self.missing

    def open(self, file: SharedFile, *, complete: bool) -> None:
        self.file = file
        self.missing = set() if complete else set(range(_chunks(file.nbytes)))
        self.changes.notify()

    async def write(self, number: int, data: Any) -> None:
        assert self.file is not None
        await to_daemon_thread(self.file.write, number * _CHUNK, data)
        self.missing.discard(number)
        self.changes.notify()

    async def read(self, number: int) -> memoryview:
        """Return a chunk, once it is there."""

        def is_there() -> bool:
            return self.file is not None and number not in self.missing

        await self.changes.until(lambda: is_there() or self.task.done())
        if self.file is None or not is_there():
            raise MPIDaskError("the value of a Broadcast did not arrive")
        return _chunk(self.file, number)


def _chunks(nbytes: int) -> int:
    return -(-nbytes // _CHUNK)


def _chunk(file: SharedFile, number: int) -> memoryview:
    return file.memory[number * _CHUNK : (number + 1) * _CHUNK]


class _SourceFailedError(Exception):
    """Another process did not pass on what it was expected to have."""


class Copies:
    """Gets and serves copies for one worker, or gets and sends them for one client.

    Parameters
    ----------
    rpc : callable
        Connects to a worker.
    scheduler
        The connection to the scheduler.
    identity : str
        The address of the worker, or the client's identifier.
    directory : str
        Where files go that have no room in memory.

    Attributes
    ----------
    identity : str
    sharers : int
        The workers of this node, which share the files there.
    """

    def __init__(
        self, rpc: Callable[[str], Any], scheduler: Any, identity: str, directory: str
    ) -> None:
        self.identity = identity
        self.sharers = 1
        self._rpc = rpc
        self._scheduler = scheduler
        self._directory = directory
        self._arrivals: dict[str, _Arrival] = {}

    async def create(
        self,
        name: str,
        holder: str,
        nbytes: int,
        fill: Callable[[Callable[[int, Any], None]], object],
    ) -> Location:
        """Create the first copy: `fill` gets a function that writes bytes at an offset."""
        file = SharedFile.create(nbytes, self._directory)
        await to_daemon_thread(fill, file.write)
        _held[name] = Copy(file, holder)
        return file.location

    async def obtain(self, name: str, nbytes: int) -> Copy:
        """Return a copy, once this process has it."""
        if (copy := _held.get(name)) is not None:
            copy.holders.add(self.identity)
            return copy
        task = self._arrival(name, nbytes).task
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise MPIDaskError(FREED) from None
            raise

    async def try_to_obtain(self, name: str, nbytes: int) -> None:
        """Get a copy if possible; the scheduler learns why if it is not."""
        with contextlib.suppress(MPIDaskError, OSError):
            await self.obtain(name, nbytes)

    def map(self, name: str, nbytes: int, location: Sequence[int], sharers: int) -> Copy | None:
        """Map the copy of this node, unless its holder is gone."""
        self.sharers = sharers
        with contextlib.suppress(OSError):
            copy = _held.get(name) or self._open(location, nbytes)
            _held.setdefault(name, copy).holders.add(self.identity)
            return copy
        return None

    def release(self, name: str) -> None:
        """Drop a copy, which may still be on its way."""
        if (arrival := self._arrivals.get(name)) is not None:
            arrival.task.cancel()
        release(name)

    def close(self) -> None:
        """Drop what nobody else in this process holds."""
        for arrival in self._arrivals.values():
            arrival.task.cancel()
        for name, copy in list(_held.items()):
            copy.holders.discard(self.identity)
            if not copy.holders:
                release(name)

    # -- What other processes ask for. -----------------------------------------------------

    async def read(self, name: str, nbytes: int, number: int) -> dict[str, Any]:
        """Return a chunk, once it is here."""
        from distributed.protocol.serialize import to_serialize

        if (copy := _held.get(name)) is not None:
            return {"data": to_serialize(_chunk(copy.file, number))}
        return {"data": to_serialize(await self._arrival(name, nbytes).read(number))}

    async def write(self, name: str, nbytes: int, number: int, data: Any) -> None:
        """Take a chunk of a client whose node has no worker."""
        arrival = self._arrival(name, nbytes)
        if arrival.file is None:
            arrival.open(SharedFile.create(nbytes, self._directory), complete=False)
        await arrival.write(number, data)

    async def push(self, name: str, worker: str, node: str) -> None:
        """Send the copy of this client to a worker, which nobody else could."""
        from distributed.protocol.serialize import to_serialize

        if (copy := _held.get(name)) is None:
            return
        try:
            for number in range(_chunks(copy.file.nbytes)):
                data = to_serialize(_chunk(copy.file, number))
                chunk = {"name": name, "nbytes": copy.file.nbytes, "number": number, "data": data}
                await call(self._rpc(worker), WRITE, **chunk)
        except (OSError, MPIDaskError) as error:
            problem = {"location": None, "error": f"broadcast: {worker}: {error}"}
            await call(self._scheduler, HAVE, name=name, node=node, who=worker, **problem)

    # -- The way here. ---------------------------------------------------------------------

    def _open(self, location: Sequence[int], nbytes: int) -> Copy:
        return Copy(SharedFile.open(Location(*location), nbytes), self.identity)

    def _arrival(self, name: str, nbytes: int) -> _Arrival:
        if name not in self._arrivals:
            arrival = self._arrivals[name] = _Arrival()
            arrival.task = asyncio.create_task(self._arrive(arrival, name, nbytes))
            arrival.task.add_done_callback(lambda _: self._ended(name))
        return self._arrivals[name]

    def _ended(self, name: str) -> None:
        arrival = self._arrivals.pop(name)
        arrival.changes.notify()
        if not arrival.task.cancelled():
            arrival.task.exception()  # else asyncio logs it where nobody waits

    async def _arrive(self, arrival: _Arrival, name: str, nbytes: int) -> Copy:
        try:
            await self._get(arrival, name, nbytes)
        except Exception as error:
            await self._tell(HAVE, name, location=None, error=str(error))
            raise
        assert arrival.file is not None
        copy = _held.setdefault(name, Copy(arrival.file, self.identity))
        await self._tell(HAVE, name, location=copy.file.location, error="")
        return copy

    async def _get(self, arrival: _Arrival, name: str, nbytes: int) -> None:
        """Map what a process of this node has, or fetch it, from one after the other."""
        failed: list[str] = []
        while not arrival.is_complete:
            found = await self._tell(FIND, name, failed=failed)
            if found is None:
                raise MPIDaskError(FREED)
            self.sharers = found["sharers"]
            try:
                await self._get_from(found, arrival, name, nbytes)
            except (OSError, _SourceFailedError):
                failed.append(found["holder"])

    async def _get_from(
        self, found: dict[str, Any], arrival: _Arrival, name: str, nbytes: int
    ) -> None:
        if found["location"] is not None:
            arrival.open(SharedFile.open(Location(*found["location"]), nbytes), complete=True)
            return
        if arrival.file is None:
            arrival.open(SharedFile.create(nbytes, self._directory), complete=False)
        if found["holder"] is None:  # a client sends it
            await arrival.changes.until(lambda: arrival.is_complete)
            return
        window = asyncio.Semaphore(_WINDOW)

        async def fetch(number: int) -> None:
            async with window:
                await arrival.write(number, await self._read(found["holder"], name, nbytes, number))

        fetching = [asyncio.create_task(fetch(number)) for number in sorted(arrival.missing)]
        try:
            await asyncio.gather(*fetching)
        finally:
            for task in fetching:
                task.cancel()

    async def _read(self, source: str, name: str, nbytes: int, number: int) -> Any:
        try:
            answer = await call(self._rpc(source), READ, name=name, nbytes=nbytes, number=number)
        except Exception as error:
            raise _SourceFailedError from error
        return answer["data"]

    async def _tell(self, op: str, name: str, **arguments: Any) -> Any:
        return await call(
            self._scheduler,
            op,
            name=name,
            node=shared_file.node_id(),
            who=self.identity,
            **arguments,
        )
