"""All ranks come to the end of their programs, and those that don't are named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from mpidask._errors import name_ranks
from mpidask._waiting import Deadline, backoff, wait

if TYPE_CHECKING:
    from mpi4py import MPI

#: Seconds of waiting after which a rank tells the speakers that it is here.
_TELLING = 5
#: The tags of that, and of what the last one is told; no `Communicator` or transfer uses them.
_HERE, _LAST = 20_000, 20_001
#: So many missing ranks are named with their hosts.
_PLACES = 5


class ExitBarrier:
    """A barrier at the end, polled, which knows who has not come.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        A private communicator.
    speakers : sequence of int
        The ranks that speak of the wait.

    Attributes
    ----------
    left : bool
        Whether all ranks but one have left the program by ``exit=True``.
    place : callable
        Names a rank, with its host where that is known.
    """

    def __init__(self, comm: MPI.Intracomm, speakers: tuple[int, ...]) -> None:
        self.comm = comm
        self.left = False
        self.place: Callable[[int], str] = "rank {}".format
        self.speakers = [rank for rank in speakers if rank < comm.Get_size()]
        self._here = {comm.Get_rank()}
        self._told: list[MPI.Request] = []
        self._last_is_told = False
        self._barriers: list[MPI.Request] = []

    @property
    def speaks(self) -> bool:
        return self.comm.Get_rank() in self.speakers

    def wait(self, unless: Callable[[], bool] = lambda: False) -> bool:
        """Wait for all ranks, and tell whether they have come; they have not if `unless`.

        A wait that was interrupted can be taken up again.
        """
        quiet = Deadline(_TELLING)

        def look() -> bool:
            if not quiet.left and not self._told:
                self._tell()
            self._hear()
            self._tell_the_last()
            return unless()

        said = self._said if self.speaks else None
        if not wait(self._barrier(0), said, _pauses(), unless=look):
            return False
        # What was sent has to be received, and nobody knows by how many: so all meet again.
        for request in self._told:
            wait(request, None, _pauses(), unless=self._hear)
        return wait(self._barrier(1), None, _pauses(), unless=self._hear)

    def _barrier(self, number: int) -> MPI.Request:
        if len(self._barriers) == number:
            self._barriers.append(self.comm.Ibarrier())
        return self._barriers[number]

    def others_wait(self) -> bool:
        """Tell, on the last rank after ``exit=True``, whether all others wait for it."""
        return self.comm.Iprobe(tag=_LAST)

    def missing(self) -> str:
        """Name the ranks that have not come, as far as this rank has heard."""
        missing = [rank for rank in range(self.comm.Get_size()) if rank not in self._here]
        if len(missing) > _PLACES:
            return name_ranks(missing)
        return ", ".join(map(self.place, missing)) or "other ranks"

    def _said(self) -> str:
        hint = " (if it waits there for ranks that have left, in MPI: give exit=False)"
        return f"waiting for {self.missing()} to leave the program{hint if self.left else ''}"

    def _tell(self) -> None:
        from mpi4py import MPI

        # Synchronous: it is complete when it was received.
        self._told = [
            self.comm.Issend([b"", MPI.BYTE], rank, _HERE)
            for rank in self.speakers
            if rank != self.comm.Get_rank()
        ]

    def _hear(self) -> bool:
        from mpi4py import MPI

        status = MPI.Status()
        while self.comm.Iprobe(tag=_LAST):
            self.comm.Recv([bytearray(), MPI.BYTE], tag=_LAST)
        while self.comm.Iprobe(tag=_HERE, status=status):
            self.comm.Recv([bytearray(), MPI.BYTE], status.Get_source(), _HERE)
            self._here.add(status.Get_source())
        return False

    def _tell_the_last(self) -> None:
        from mpi4py import MPI

        missing = set(range(self.comm.Get_size())) - self._here if self.speaks else set()
        if self.left and len(missing) == 1 and not self._last_is_told:
            self._last_is_told = True
            self._told.append(self.comm.Issend([b"", MPI.BYTE], missing.pop(), _LAST))


def _pauses() -> Iterator[float]:
    return backoff(longest=0.5, growth=1.1)
