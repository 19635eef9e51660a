"""What a rank knows of the members in its threads."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from mpidask._gang.rank import Rank


class EnteredMeanwhile(dict):
    """Members, of whom one more enters as soon as somebody has seen that there are none."""

    enter = None

    def __len__(self):
        length = super().__len__()
        if length == 0 and self.enter is not None:
            enter, self.enter = self.enter, None
            enter("second")
        return length


def test_a_member_that_enters_as_the_last_one_leaves_is_there():
    rank = Rank(SimpleNamespace(Get_rank=lambda: 0), 1, print)
    loop = SimpleNamespace(add_callback=lambda *args: None)
    rank._worker = SimpleNamespace(
        loop=loop, status=None, batched_stream=SimpleNamespace(send=lambda message: None)
    )
    rank._inside = members = EnteredMeanwhile()
    first = rank.enter("first")
    members.enter = rank.enter
    asyncio.run(rank._leave(first))
    len(members)  # the second enters here, if `_leave` has not looked
    assert not rank.is_vacant
