"""The side of a broadcast that begins it, frees it, or asks for its value."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dask
from dask.utils import format_bytes
from distributed import get_client, get_worker
from distributed.utils import sync

from mpidask._broadcast import copies, shared_file
from mpidask._broadcast.protocol import FREE, LET_GO, PUBLISH, PUSH, RELEASE, call, topic_of
from mpidask._broadcast.scheduler_plugin import BroadcastPlugin
from mpidask._broadcast.serialization import Pickled
from mpidask._broadcast.worker_plugin import any_worker
from mpidask._compat.distributed import connections_of, send_to_scheduler
from mpidask._errors import MPIDaskError
from mpidask._threads import to_daemon_thread
from mpidask._waiting import WaitNotice

if TYPE_CHECKING:
    from distributed import Client, Future


async def publish(client: Client, value: Any, *, in_task: bool) -> tuple[str, int, int]:
    """Let each node have a copy of a value; return its name, its size and how many nodes do."""
    await client.register_plugin(BroadcastPlugin())
    pickled = await to_daemon_thread(Pickled, value)
    name = f"broadcast-{uuid.uuid4().hex}"
    worker = any_worker() if in_task else None
    own = _copies_of(client)
    who, owner = (own.identity, client.id) if worker is None else (worker[0].address, "")
    location = await own.create(name, who, pickled.nbytes, pickled.write_by)
    first = {"node": shared_file.node_id(), "who": who, "location": location}
    first |= {"nbytes": pickled.nbytes, "owner": owner}
    text = f"broadcast: {format_bytes(pickled.nbytes)} have not reached all nodes"
    try:
        async with WaitNotice(lambda waited: f"{text} for {waited} s"):
            answer = await call(client.scheduler, PUBLISH, name=name, **first)
        if answer["errors"]:
            raise MPIDaskError(answer["errors"][0])
    except BaseException:
        await free(client, name)
        raise
    return name, pickled.nbytes, answer["nodes"]


async def publish_result(client: Client, future: Future[Any]) -> tuple[str, int, int]:
    """Do the same for the result of a task, from the worker that holds it."""
    key = f"broadcast-{uuid.uuid4().hex}"
    return await client.submit(_publish_in_task, future, key=key)  # type: ignore[no-any-return]


def _publish_in_task(value: Any) -> tuple[str, int, int]:
    client = get_client()
    return client.sync(publish, client, value, in_task=True)  # type: ignore[no-any-return]


def is_in_task() -> bool:
    """Whether this thread runs a task of a worker."""
    try:
        get_worker()
    except ValueError:
        return False
    return True


def free_with(handle: object, name: str, client: Client) -> None:
    """Free a value when its handle is gone, and what was submitted with it has ended."""

    def released(client: weakref.ref[Client], name: str) -> None:
        # In any thread, perhaps at a collection of garbage that anything may have triggered.
        owner = client()
        if owner is None or owner.loop is None or owner.status == "closed":
            copies.release(name)
        else:
            send_to_scheduler(owner, {"op": LET_GO, "name": name})

    weakref.finalize(handle, released, weakref.ref(client), name).atexit = False


async def free(client: Client, name: str) -> None:
    await call(client.scheduler, FREE, name=name)
    copies.release(name)


# -- How this process reaches its cluster. -------------------------------------------------

#: What clients of this process get copies by.
_of_clients: weakref.WeakKeyDictionary[Client, copies.Copies] = weakref.WeakKeyDictionary()


def _copies_of(client: Client) -> copies.Copies:
    if client not in _of_clients:
        directory = dask.config.get("temporary-directory") or tempfile.gettempdir()
        own = copies.Copies(connections_of(client), client.scheduler, client.id, directory)
        _of_clients[client] = own
        handlers: dict[str, Callable[..., Any]] = {PUSH: own.push, RELEASE: own.release}

        def handle(event: tuple[float, dict[str, Any]]) -> Any:
            arguments = dict(event[1])
            return handlers[arguments.pop("op")](**arguments)

        client.subscribe_topic(topic_of(client.id), handle)
    return _of_clients[client]


def _connection() -> tuple[Any, copies.Copies]:
    """Return an event loop, and what gets copies there."""
    if (found := any_worker()) is not None:
        worker, own = found
        return worker.loop, own
    try:
        client = get_client()
    except ValueError:
        raise MPIDaskError(copies.FREED) from None
    return client.loop, _copies_of(client)


def obtain(name: str, nbytes: int) -> copies.Copy:
    """Return a copy, once this process has it.

    Raises
    ------
    MPIDaskError
        If it was freed, or this is an event loop.
    """
    if _is_in_event_loop():
        raise MPIDaskError(
            "Broadcast.value is not in this process, and fetching it blocks the event loop: "
            "await asyncio.to_thread(lambda: handle.value)"
        )
    loop, own = _connection()
    return sync(loop, own.obtain, name, nbytes)


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
