"""What the processes of a cluster tell each other about broadcast values."""

from __future__ import annotations

from typing import Any

#: The name of the plugins of scheduler and workers.
PLUGIN = "mpidask-broadcast"

# Calls of the scheduler,

#: by a worker: the node that it runs on; the answer is what to map there.
JOIN = "mpidask_broadcast_join"
#: By whoever has made the first copy: let each node have one.
PUBLISH = "mpidask_broadcast_publish"
#: By a process that needs a copy: where to get it.
FIND = "mpidask_broadcast_find"
#: By the same: that it has one, or could not get it.
HAVE = "mpidask_broadcast_have"
#: By whoever has a handle: nobody needs the value any more.
FREE = "mpidask_broadcast_free"

# and of workers:

#: return a chunk,
READ = "mpidask_broadcast_read"
#: or take one, from a client.
WRITE = "mpidask_broadcast_write"

# Messages from the scheduler to workers:

#: get a copy for your node,
OBTAIN = "mpidask-broadcast-obtain"
#: map the copy of your node,
MAP = "mpidask-broadcast-map"
#: or drop it.
RELEASE = "mpidask-broadcast-release"

# Messages to the scheduler:

#: by a worker, that it has mapped the copy of its node,
MAPPED = "mpidask-broadcast-mapped"
#: or by a client: nobody needs the value any more when the tasks that it has sent have ended.
LET_GO = "mpidask-broadcast-let-go"

# And messages to clients, which are events:

#: send a value to a worker.
PUSH = "mpidask-broadcast-push"


def topic_of(client: str) -> str:
    """Return the topic of the events for a client."""
    return f"mpidask-broadcast-{client}"


async def call(server: Any, op: str, **arguments: Any) -> Any:
    """Call a server by its name for the operation."""
    return await getattr(server, op)(**arguments)
