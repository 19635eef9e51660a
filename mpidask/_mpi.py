"""The ranks of an MPI job as a cluster, from one rank's point of view."""

from __future__ import annotations

import asyncio
import itertools
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, wait
from typing import TYPE_CHECKING, Any, TypeVar

from mpidask import _departure, _signals, _usage
from mpidask._agreement import Cluster, End
from mpidask._log import logger
from mpidask._options import Options
from mpidask._roles import Roles
from mpidask._runner import PROGRESS_INTERVAL, Leader, Member
from mpidask._world import World

if TYPE_CHECKING:
    from mpi4py import MPI

Result = TypeVar("Result")


def exit_status(error: BaseException | None) -> int:
    """Give the status with which Python leaves because of an exception."""
    match error:
        case None | SystemExit(code=None):
            return 0
        case SystemExit(code=int(code)):
            return code & 0xFF
        case KeyboardInterrupt():
            return 128 + signal.SIGINT
        case _:
            return 1


class MPICluster:
    """A block within which the ranks of a communicator are a cluster.

    The client rank gets the `Cluster` to connect to. The other ranks serve in
    `__enter__` until the cluster ends; then they leave the program, or get None.

    Everything that talks to other ranks runs in an event loop in a thread, on all
    ranks alike; the main thread waits, or runs the user's function.
    """

    def __init__(
        self, comm: MPI.Intracomm, options: Options, roles: Roles, interrupt: _signals.Interrupt
    ) -> None:
        self._comm = comm
        self._options = options
        self._roles = roles
        self._interrupt = interrupt
        self._world: World | None = None
        self._leader: Leader | None = None
        self.leads = comm.Get_rank() == roles.leader

    def __enter__(self) -> Cluster | None:
        _usage.entered()
        self._loop = _LoopThread()
        try:
            self._enter_world()
            if self.leads:
                return self._lead()
            self._serve()
            return None
        except BaseException as error:
            if self.leads:
                self._end(error, leave=True)
            elif not isinstance(error, SystemExit):
                _departure.abort_at_exit(1)  # an error of ours; the others wait for this rank
            raise

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not self.leads:
            return
        leave = self._options.exit or isinstance(error, (SystemExit, KeyboardInterrupt))
        if error is not None and not leave:
            _departure.abort_if_uncaught(error)
        self._end(error, leave=leave)

    def _enter_world(self) -> None:
        def abandon(signum: int) -> None:  # nobody can be told yet
            _departure.abort_at_exit(128 + signum)
            entering.cancel()

        entering = self._loop.submit(
            World.enter(
                self._comm, timeout=self._options.startup_timeout, leader=self._roles.leader
            )
        )
        self._interrupt.act(abandon)
        self._world = self._when_all_are_here(entering)
        if self._world is None:
            raise SystemExit(1)  # the start has failed, and another rank says so

    def _when_all_are_here(self, entering: Future[World | None]) -> World | None:
        for waited in itertools.count(PROGRESS_INTERVAL, PROGRESS_INTERVAL):
            if wait([entering], PROGRESS_INTERVAL).done:
                break
            if self.leads:
                size = self._comm.Get_size()
                logger.info("starting for %d s: not all of the %d ranks are here", waited, size)
        return self._result(entering)

    def _serve(self) -> None:
        assert self._world is not None
        member = Member(self._world, self._roles, self._options)
        self._loop.on_exit = member.drop_worker
        serving = self._loop.submit(member.serve())
        self._interrupt.act(lambda signum: self._loop.call(member.report_signal, signum))
        order = serving.result()
        self._loop.stop()
        _usage.ended(left=order.leave)
        if order.leave:
            _departure.skip_last_collections()
            raise SystemExit(order.status)

    def _lead(self) -> Cluster | None:
        starting = self._loop.submit(self._start())
        self._interrupt.act(lambda signum: starting.cancel())
        self._interrupt.abandon_start = starting.cancel
        # Here and now, while the ranks gather.
        import distributed  # noqa: F401

        return self._result(starting)

    async def _start(self) -> Cluster | None:
        assert self._world is not None
        member = Member(self._world, self._roles, self._options)
        self._loop.on_exit = member.drop_worker
        self._serving = asyncio.create_task(member.serve())
        on_signal = _signals.raise_in_main_thread
        self._leader = Leader(self._world, self._roles, self._options, on_signal)
        return await self._leader.start()

    def wait_until_over(self) -> int:
        """Wait on the leader until the cluster ends by itself, and return the status."""

        async def over() -> int:
            assert self._leader is not None
            return await self._leader.over

        waiting = self._loop.submit(over())
        try:
            return waiting.result()
        finally:
            waiting.cancel()

    def _result(self, future: Future[Result]) -> Result:
        try:
            return future.result()
        except CancelledError:
            if self._interrupt.signum:
                raise SystemExit(128 + self._interrupt.signum) from None
            raise

    def _end(self, error: BaseException | None, *, leave: bool) -> None:
        """End the cluster, because of an error or in peace."""
        self._interrupt.disarm()
        signum = self._interrupt.signum
        interrupted = isinstance(error, (KeyboardInterrupt, SystemExit, asyncio.CancelledError))
        broken = self._leader is not None and self._leader.broken
        status = 128 + signum if signum and interrupted else exit_status(error)
        if broken and interrupted:
            status = 1
        if self._leader is not None:
            self._loop.submit(self._leader.end(End(status, leave))).result()
        elif self._world is not None:
            _departure.abort_at_exit(status)  # given up before anybody could be told
        self._loop.stop()
        _usage.ended(left=leave)
        if signum and interrupted and not broken:
            logger.warning("ended by %s", signal.Signals(signum).name)
        if isinstance(error, KeyboardInterrupt) or (signum and interrupted):
            # A status says it all; a traceback of Python's own would say no more, and
            # Python would end a process by SIGINT itself, which launchers report as a crash.
            raise SystemExit(status) from None


class _LoopThread:
    """An event loop in a thread of its own.

    Attributes
    ----------
    on_exit : callable
        Called in the loop when something that ran there has raised SystemExit.
    """

    def __init__(self) -> None:
        self.on_exit: Callable[[], object] = lambda: None
        self._stopping = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="mpidask", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        while not self._stopping:
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                # asyncio lets these through when a task of Dask's raises them.
                self._loop.call_soon(self.on_exit)
        self._loop.close()

    def submit(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, function: Any, *args: Any) -> None:
        self._loop.call_soon_threadsafe(function, *args)

    def stop(self) -> None:
        self._stopping = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
