"""The connection by which the ranks of client and scheduler see each other die."""

from __future__ import annotations

import asyncio

import pytest
from distributed import Scheduler, Security

from mpidask import _lifeline
from mpidask._agreement import Cluster


@pytest.mark.parametrize("secured", [True, False])
def test_either_end_notices_the_other(secured):
    async def scene():
        security = Security.temporary() if secured else None
        broken = asyncio.Event()
        arguments = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
        async with Scheduler(host="127.0.0.1", security=security, **arguments) as scheduler:
            _lifeline.attach(scheduler, broken.set)
            cluster = Cluster(scheduler.address, security)

            first = asyncio.create_task(_lifeline.hold(cluster))
            while not any(op == "mpidask-lifeline" for op in scheduler._comms.values()):
                await asyncio.sleep(0.01)
            assert not broken.is_set()
            first.cancel()  # as if the client's process had died
            await asyncio.wait_for(broken.wait(), 20)

            second = asyncio.create_task(_lifeline.hold(cluster))
            while not any(op == "mpidask-lifeline" for op in scheduler._comms.values()):
                await asyncio.sleep(0.01)
            assert not second.done()
        await asyncio.wait_for(second, 20)  # the scheduler is gone

    asyncio.run(asyncio.wait_for(scene(), 60))
