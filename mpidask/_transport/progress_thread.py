"""The progress thread: all MPI calls that move the data of a rank."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from functools import partial

from distributed.comm.core import CommClosedError
from mpi4py import MPI

from mpidask._log import logger
from mpidask._threads import start_daemon_thread
from mpidask._transport.timed_wait import TimedWait
from mpidask._waiting import backoff

#: Bytes of the first message of a transfer. When it completes, both sides take part.
_FIRST = 2**16
#: Seconds in MPI without progress after which the thread begins to pause in between.
_LONGEST_WAIT = 0.2
#: Seconds in MPI between two pauses.
_BURST = 0.005
#: Seconds of the first and of the longest pause; each is a tenth of all before it.
_SHORTEST_PAUSE, _LONGEST_PAUSE, _GROWTH = 0.00005, 0.1, 1.1
#: Seconds for the thread to end after its transfers were abandoned.
_ABANDON_TIMEOUT = 2

#: Transfers that MPI may still read from or write to after their thread was stopped.
_abandoned: list[Transfer] = []
#: Tags of receives that are pending or were given up: their messages may still arrive, and must
#: not match a receive of a later progress thread.
_tags_in_use: set[int] = set()
#: Two event loops of this process may choose tags at the same time.
_choosing_tag = threading.Lock()


class Transfer(Future[None]):
    """Buffers on their way to or from another rank; done when they have moved."""

    def __init__(
        self, peer: int, tag: int, buffers: Sequence[memoryview], *, receives: bool
    ) -> None:
        super().__init__()
        self.set_running_or_notify_cancel()  # MPI can't cancel it, so nobody can
        self.peer, self.tag = peer, tag
        self.buffers = buffers
        self.receives = receives
        self.requests: list[MPI.Request] = []
        self.moving = False  # whether a first message has arrived, so the peer takes part
        self.error: Exception | None = None

    def fail(self, error: Exception) -> None:
        """Fail the future; MPI may still need the buffers."""
        self.error = self.error or error
        self.end()

    def end(self) -> None:
        """Resolve the future, unless it is resolved already."""
        with contextlib.suppress(InvalidStateError):
            if self.error is None:
                self.set_result(None)
            else:
                self.set_exception(self.error)


class ProgressThread:
    """Sends and receives in a thread, and keeps buffers alive while MPI needs them.

    It waits inside MPI, which spins, as long as transfers make progress. Before a transfer has
    begun, the peer may need the CPU to begin it; without progress, it is late, stopped or dead:
    then the thread pauses, and polls MPI only briefly in between.

    The receiver chooses the tag, one for each transfer, since it knows which are in use. All
    chunks of a transfer share it: MPI does not reorder messages of one source and tag.
    """

    def __init__(self, comm: MPI.Intracomm, tags: Sequence[int], chunk: int) -> None:
        comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.traffic = {"sent": 0, "received": 0}
        self._counting = threading.Lock()  # a rank may have several event loops
        self._comm = comm
        self._chunk = chunk
        self._tags = tags
        self._next_tags = itertools.cycle(tags)
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._active: list[Transfer] = []
        self._open = True
        self._stopping = False
        self._failure: Exception | None = None
        self._timed = TimedWait()
        self._thread = start_daemon_thread(self._run, name="mpidask-progress")

    @property
    def usable(self) -> bool:
        """Whether new transfers can start: not after `stop`, nor after a failure of MPI."""
        return self._open and self._failure is None

    def send(self, peer: int, tag: int, buffers: Sequence[memoryview]) -> Transfer:
        """Send to a rank that has chosen the tag and is posting its receives."""
        self._check_usable()
        if tag not in self._tags:
            raise CommClosedError(f"rank {peer} chose a tag that is not for transfers: {tag}")
        self._count("sent", buffers)
        return self._start(self._comm.Isend, Transfer(peer, tag, buffers, receives=False))

    def receive(self, peer: int, buffers: Sequence[memoryview]) -> Transfer:
        """Receive what a rank will send with the tag of the transfer."""
        self._check_usable()
        with _choosing_tag:
            if len(_tags_in_use) >= len(self._tags):
                raise CommClosedError("too many transfers at once: no tag is left")
            tag = next(tag for tag in self._next_tags if tag not in _tags_in_use)
            _tags_in_use.add(tag)
        self._count("received", buffers)
        return self._start(self._comm.Irecv, Transfer(peer, tag, buffers, receives=True))

    def give_up(self, transfer: Transfer) -> None:
        """Fail a transfer whose peer was lost; what MPI still does is waited for."""
        transfer.fail(CommClosedError(f"rank {transfer.peer} was lost during a transfer"))
        self._order(partial(self._cancel, transfer))

    def stop(self, timeout: float) -> bool:
        """Stop once all transfers have ended; return whether they have within `timeout` seconds."""
        self._open = False
        self._order(self._stop)
        self._thread.join(timeout)
        ended = not self._thread.is_alive() and self._failure is None
        self._order(self._abandon)
        self._thread.join(_ABANDON_TIMEOUT)  # it may be stuck in a call of MPI
        return ended

    def _check_usable(self) -> None:
        if not self.usable:
            raise CommClosedError("this rank no longer uses MPI")

    def _count(self, what: str, buffers: Sequence[memoryview]) -> None:
        with self._counting:
            self.traffic[what] += sum(buffer.nbytes for buffer in buffers)

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
                self._progress()
            except Exception as error:  # the thread must survive: comms wait for it
                self._fail(error)

    def _progress(self) -> None:
        pause, pauses = 0.0, _pauses()
        while self._active or not self._stopping:
            if self._run_order(pause) or self._wait(_BURST if pause else _LONGEST_WAIT):
                pause, pauses = 0.0, _pauses()
            else:
                pause = next(pauses)
        self._timed.stop()

    def _fail(self, error: Exception) -> None:
        """Fail all transfers, now and later: the state of MPI is unknown."""
        logger.error(
            "MPI has failed on rank %d, whose data goes by sockets now", self.rank, exc_info=error
        )
        self._failure = error
        for transfer in self._active:
            transfer.fail(CommClosedError(f"MPI failed: {error}"))
        self._abandon()

    def _run_order(self, pause: float) -> bool:
        """Run the next order, if one comes before it is time to poll MPI."""
        try:
            if self._active:
                order = self._orders.get(block=pause > 0, timeout=pause)
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
                raise CommClosedError("the transport has been stopped")
            if self._failure:
                raise CommClosedError(f"MPI has failed before: {self._failure}")
            for message in _messages(transfer.buffers, self._chunk):
                request = call([message, MPI.BYTE], transfer.peer, transfer.tag)
                transfer.requests.append(request)
        except Exception as error:  # requests that were posted are still waited for
            transfer.fail(CommClosedError(f"MPI failed: {error}"))
            self._cancel(transfer)

    def _cancel(self, transfer: Transfer) -> None:
        if transfer.receives and self._failure is None:  # MPI can't take back a send
            for request in transfer.requests:
                request.Cancel()

    def _stop(self) -> None:
        self._stopping = True

    def _abandon(self) -> None:
        _abandoned.extend(self._active)
        self._active.clear()

    def _wait(self, limit: float) -> bool:
        """Wait in MPI until a transfer makes progress; return whether one has."""
        requests = [request for transfer in self._active for request in transfer.requests]
        failure: CommClosedError | None = None
        if requests:
            try:
                if any(transfer.moving for transfer in self._active):
                    self._timed.wait(requests, limit, unless=lambda: not self._orders.empty())
                else:
                    MPI.Request.Testsome(requests)
            except MPI.Exception as error:
                failure = CommClosedError(f"MPI failed: {error}")
        ended = [transfer for transfer in self._active if not self._is_pending(transfer, failure)]
        for transfer in ended:
            self._end(transfer)
        return bool(ended) or not all(requests)

    def _is_pending(self, transfer: Transfer, failure: CommClosedError | None) -> bool:
        left = [request for request in transfer.requests if request]  # not REQUEST_NULL
        if failure is not None and len(left) < len(transfer.requests):
            transfer.fail(failure)
        transfer.moving |= len(left) < len(transfer.requests)
        transfer.requests = left
        return bool(left)

    def _end(self, transfer: Transfer) -> None:
        self._active.remove(transfer)
        if transfer.receives and transfer.error is None:  # else the tag may still be used
            _tags_in_use.discard(transfer.tag)
        # Futures and their callbacks are cycles, and Python before 3.12.7 may crash when it
        # collects a cycle with a memoryview of a memoryview (gh-77894 of CPython).
        transfer.buffers = ()
        transfer.end()


def _pauses() -> Iterator[float]:
    return backoff(_LONGEST_PAUSE, growth=_GROWTH, shortest=_SHORTEST_PAUSE)


def _messages(buffers: Sequence[memoryview], chunk: int) -> Iterator[memoryview]:
    """Split the buffers of a transfer, on both sides alike, into what one MPI call moves."""
    size = min(_FIRST, chunk)
    for buffer in buffers:
        start = 0
        while start < buffer.nbytes:
            yield buffer[start : start + size]
            start, size = start + size, chunk
