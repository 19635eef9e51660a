"""What is not public in distributed's scheduler, as gangs use it."""

from __future__ import annotations

import asyncio

from distributed import Scheduler, Worker

from mpidask._gang import scheduler_state


def test_a_message_is_not_held_back():
    async def main():
        async with (
            Scheduler(dashboard_address=":0") as scheduler,
            Worker(scheduler.address) as worker,
        ):
            heard: asyncio.Queue[int] = asyncio.Queue()
            worker.stream_handlers["hear"] = heard.put_nowait
            stream = scheduler.stream_comms[worker.address]
            stream.interval = 3600
            for number in range(2):
                message = {"op": "hear", "item": number}
                scheduler_state.send_at_once(scheduler, worker.address, message)
                assert await asyncio.wait_for(heard.get(), 20) == number
            assert stream.next_deadline is not None  # what comes now is held back

    asyncio.run(main())
