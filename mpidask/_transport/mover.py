"""The thread that moves the data of a rank."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from functools import partial

from distributed.comm.core import CommClosedError
from mpi4py import MPI

from mpidask._log import logger
from mpidask._transport.timed_wait import TimedWait

#: Seconds in MPI without progress after which the mover begins to sleep in between.
_LONGEST_WAIT = 0.2
#: Seconds in MPI between two sleeps.
_BURST = 0.005
#: Seconds of the first and of the longest sleep.
_SHORTEST_SLEEP, _LONGEST_SLEEP = 0.001, 0.1
#: Seconds to end in, when what goes on is left behind.
_ABANDONING = 2

#: What MPI may still write to or read from, after its mover was stopped.
_abandoned: list[Transfer] = []
#: The tags of receives that go on, or were given up: what was for those may come at any time,
#: and shall meet no receive of a later mover.
_tags_taken: set[int] = set()
#: Two event loops of this process may choose tags at once.
_choosing_tag = threading.Lock()


class Transfer(Future[None]):
    """Buffers on their way from or to another rank; a future that is done when they are."""

    def __init__(
        self, peer: int, tag: int, buffers: Sequence[memoryview], *, receives: bool
    ) -> None:
        super().__init__()
        self.set_running_or_notify_cancel()  # nobody can cancel it
        self.peer, self.tag = peer, tag
        self.buffers = buffers
        self.receives = receives
        self.requests: list[MPI.Request] = []
        self.error: Exception | None = None

    def fail(self, error: Exception) -> None:
        """Tell who waits; MPI may need the buffers still."""
        self.error = self.error or error
        self.end()

    def end(self) -> None:
        """Tell who waits, once."""
        with contextlib.suppress(InvalidStateError):  # it has ended, maybe just now elsewhere
            if self.error is None:
                self.set_result(None)
            else:
                self.set_exception(self.error)


class Mover:
    """Sends and receives, in a thread of its own, and keeps buffers until MPI needs them no more.

    It waits in MPI, which spins, while transfers make progress. If they make none, the other
    end is late, stopped or dead: then it sleeps, and looks into MPI for short.

    The receiver chooses the tag, as it knows which are taken: one for each transfer. All parts
    of a transfer have the same, since MPI keeps the order of what has one source and one tag.
    """

    def __init__(self, comm: MPI.Intracomm, tags: Sequence[int], chunk: int) -> None:
        comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self._comm = comm
        self._chunk = chunk
        self._tags = tags
        self._next_tags = itertools.cycle(tags)
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._active: list[Transfer] = []
        self._stopping = False
        self._failure: Exception | None = None
        self._timed = TimedWait()
        self._thread = threading.Thread(target=self._run, name="mpidask-mover", daemon=True)
        self._thread.start()

    def send(self, peer: int, tag: int, buffers: Sequence[memoryview]) -> Transfer:
        """Send to a rank that posts the receives at this moment, and has chosen the tag."""
        if tag not in self._tags:
            raise CommClosedError(f"rank {peer} chose a tag that is not for transfers: {tag}")
        return self._start(self._comm.Isend, Transfer(peer, tag, buffers, receives=False))

    def receive(self, peer: int, buffers: Sequence[memoryview]) -> Transfer:
        """Receive from a rank what it will send with the tag of the transfer."""
        with _choosing_tag:
            if len(_tags_taken) >= len(self._tags):
                raise CommClosedError("too many transfers at once: no tag is left")
            tag = next(tag for tag in self._next_tags if tag not in _tags_taken)
            _tags_taken.add(tag)
        return self._start(self._comm.Irecv, Transfer(peer, tag, buffers, receives=True))

    def give_up(self, transfer: Transfer) -> None:
        """Wait no longer for a rank that no longer answers; what it does still is waited for."""
        transfer.fail(CommClosedError(f"rank {transfer.peer} was lost during a transfer"))
        self._order(partial(self._cancel, transfer))

    def stop(self, timeout: float) -> bool:
        """End when all transfers have ended; tell whether they have within so many seconds."""
        self._order(self._stop)
        self._thread.join(timeout)
        ended = not self._thread.is_alive() and self.works
        self._order(self._abandon)
        self._thread.join(_ABANDONING)  # it may be stuck in a call of MPI
        return ended

    @property
    def works(self) -> bool:
        """Whether MPI can be used: not if it has failed in a way that leaves transfers undone."""
        return self._failure is None

    def _start(self, call: Callable[..., MPI.Request], transfer: Transfer) -> Transfer:
        self._order(partial(self._post, call, transfer))
        return transfer

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.put(order)
        self._timed.wake()

    # All that follows runs in the thread.

    def _run(self) -> None:
        while self._active or not self._stopping:
            try:
                self._move()
            except Exception as error:  # it must not end here: many wait for it
                self._fail(error)

    def _move(self) -> None:
        sleep = 0.0
        while self._active or not self._stopping:
            if self._obey(sleep) or self._wait(_BURST if sleep else _LONGEST_WAIT):
                sleep = 0.0
            else:
                sleep = min(max(_SHORTEST_SLEEP, 2 * sleep), _LONGEST_SLEEP)
        self._timed.stop()

    def _fail(self, error: Exception) -> None:
        """Fail all transfers, and from now on each new one: what MPI still does is unknown."""
        logger.error(
            "MPI has failed on rank %d, whose data goes by sockets now", self.rank, exc_info=error
        )
        self._failure = error
        for transfer in self._active:
            transfer.fail(CommClosedError(f"MPI failed: {error}"))
        self._abandon()

    def _obey(self, sleep: float) -> bool:
        """Carry out an order, if there is one before the time to look into MPI."""
        try:
            if self._active:
                order = self._orders.get(block=sleep > 0, timeout=sleep)
            else:
                order = self._orders.get()
        except queue.Empty:
            return False
        order()
        return True

    def _post(self, call: Callable[..., MPI.Request], transfer: Transfer) -> None:
        self._active.append(transfer)
        try:
            if self._stopping:
                raise CommClosedError("the transport is at its end")
            if self._failure:
                raise CommClosedError(f"MPI has failed before: {self._failure}")
            for buffer in transfer.buffers:
                for start in range(0, buffer.nbytes, self._chunk):
                    part = [buffer[start : start + self._chunk], MPI.BYTE]
                    transfer.requests.append(call(part, transfer.peer, transfer.tag))
        except Exception as error:  # what is posted is waited for
            transfer.fail(CommClosedError(f"MPI failed: {error}"))
            self._cancel(transfer)

    def _cancel(self, transfer: Transfer) -> None:
        if transfer.receives and self.works:  # MPI can't take back what is sent
            for request in transfer.requests:
                request.Cancel()

    def _stop(self) -> None:
        self._stopping = True

    def _abandon(self) -> None:
        _abandoned.extend(self._active)
        self._active.clear()

    def _wait(self, limit: float) -> bool:
        """Wait in MPI until a transfer makes progress; tell whether one has."""
        requests = [request for transfer in self._active for request in transfer.requests]
        failure: CommClosedError | None = None
        if requests:
            try:
                self._timed.wait(requests, limit, unless=lambda: not self._orders.empty())
            except MPI.Exception as error:
                failure = CommClosedError(f"MPI failed: {error}")
        ended = [transfer for transfer in self._active if not self._goes_on(transfer, failure)]
        for transfer in ended:
            self._end(transfer)
        return bool(ended) or not all(requests)

    def _goes_on(self, transfer: Transfer, failure: CommClosedError | None) -> bool:
        left = [request for request in transfer.requests if request]  # is not REQUEST_NULL
        if failure is not None and len(left) < len(transfer.requests):
            transfer.fail(failure)
        transfer.requests = left
        return bool(left)

    def _end(self, transfer: Transfer) -> None:
        self._active.remove(transfer)
        if transfer.receives and transfer.error is None:  # else the tag may still be used
            _tags_taken.discard(transfer.tag)
        # Futures and their callbacks are cycles, and Python before 3.12.7 may crash when it
        # collects a cycle with a memoryview of a memoryview (gh-77894 of CPython).
        transfer.buffers = ()
        transfer.end()
