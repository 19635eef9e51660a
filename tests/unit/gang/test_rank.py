"""What a rank knows of the executions in its threads."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from mpidask._gang.rank import RankService
from mpidask._options import Options


class EnteredMeanwhile(dict):
    """Executions, of which one more begins as soon as somebody has seen that there are none."""

    enter = None

    def __len__(self):
        length = super().__len__()
        if length == 0 and self.enter is not None:
            enter, self.enter = self.enter, None
            enter("second")
        return length


def test_an_execution_that_begins_as_the_last_one_leaves_is_there():
    rank = RankService(SimpleNamespace(rank=0, mpi=None), (0,), Options.resolve({}), print)
    loop = SimpleNamespace(add_callback=lambda *args: None)
    rank._worker = SimpleNamespace(
        loop=loop, status=None, batched_stream=SimpleNamespace(send=lambda message: None)
    )
    rank._executions = executions = EnteredMeanwhile()
    first = rank.enter("first")
    executions.enter = rank.enter
    asyncio.run(rank._leave(first))
    len(executions)  # the second enters here, if `_leave` has not looked
    assert not rank.is_idle
