"""Run real programs under mpirun, and look at what a user would see."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

#: Before every program, in one line. If it hangs, faulthandler writes all stacks to stderr; and
#: a line is printed in one go, also with PYTHONUNBUFFERED, so those of several ranks stay apart.
HEADER = (
    "import faulthandler, sys; faulthandler.dump_traceback_later({limit}); "
    "sys.stdout.reconfigure(line_buffering=True, write_through=False)\n"
)

#: What MPI launchers need on a small shared machine, as root, in a container.
LAUNCHER_ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":OVERSUBSCRIBE",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    # The same for Open MPI 4.
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    # Intel's MPI binds the ranks of every job to the same CPUs, and looks for a network.
    "I_MPI_PIN": "off",
    "I_MPI_FABRICS": "shm",
}


def pytest_configure() -> None:
    """Let programs hear of SIGINT, also where the tests are a shell's background job."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what any MPI will do for: variants without a launcher, and all cases but the first."""
    seen: set[str] = set()
    for item in items:
        variant = getattr(item, "callspec", None)
        if variant is None or "unit" in item.path.parts or item.get_closest_marker("essential"):
            continue
        name = item.nodeid.partition("[")[0]
        if name in seen or variant.params.get("ranks", ...) is None:
            item.add_marker("any_mpi")
        else:
            seen.add(name)


#: Lines that a busy machine adds: how far a long start has come, and Dask's words for a process of
#: a LocalCluster that takes long to end, for a worker that is gone when its last heartbeat comes,
#: for results that went with a worker, and for a time-out that nobody waits for any more.
SLOWNESS = re.compile(
    r"^mpidask: starting for |Worker process still alive after .* killing$"
    r"|Received heartbeat from unregistered worker|Scheduler was unaware of this worker"
    r"|Couldn't gather \d+ keys, rescheduling"
    r"|exception was never retrieved$|exception=TimeoutError\('Timeout'\)|TimeoutError: Timeout$"
)


@dataclass(frozen=True)
class Result:
    """How a job ended, as its user sees it."""

    status: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def messages(self) -> list[str]:
        """Lines on stderr, but for those that a busy machine adds."""
        return [line for line in self.stderr.splitlines() if not SLOWNESS.search(line)]

    @property
    def said(self) -> list[str]:
        """What mpidask itself said on stderr."""
        return [line for line in self.messages if line.startswith("mpidask: ")]


class Job:
    """A program running under mpirun, or bare, in a directory of its own."""

    def __init__(
        self, command: list[str], directory: Path, *, limit: float, env: dict[str, str]
    ) -> None:
        self.mark = uuid.uuid4().hex
        self.limit = limit
        self.directory = directory
        self.stdout, self.stderr = directory / f"out-{self.mark}", directory / f"err-{self.mark}"
        self._started = time.monotonic()
        with self.stdout.open("wb") as out, self.stderr.open("wb") as err:
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                env=os.environ | LAUNCHER_ENVIRONMENT | env | {"MPIDASK_TEST": self.mark},
            )

    def processes(self) -> list[psutil.Process]:
        """Give every process that this job started and that still runs."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("MPIDASK_TEST") == self.mark
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def rank(self, rank: int) -> psutil.Process:
        """Give the process of a rank."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):  # another rank that ends just now
                environ = process.environ()
                if "python" in process.name() and str(rank) in (
                    environ.get("PMI_RANK"),
                    environ.get("OMPI_COMM_WORLD_RANK"),
                ):
                    return process
        raise LookupError(f"no process of rank {rank}")

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Wait until something is so, within the job's time."""
        while not condition():
            if self.process.poll() is not None or self.seconds > self.limit:
                pytest.fail(f"the job never came to this: {what}\n{self.output()}")
            time.sleep(0.05)

    def wait_for_output(self, text: str) -> None:
        self.wait_for(lambda: text in self.stdout.read_text(), f"to print {text!r}")

    def wait_for_message(self, text: str) -> None:
        self.wait_for(lambda: text in self.stderr.read_text(), f"to say {text!r}")

    def let_pass(self, seconds: float) -> None:
        """Let some time of the job pass."""
        end = self.seconds + seconds
        self.wait_for(lambda: self.seconds > end, f"to run {seconds} s more")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def output(self) -> str:
        return f"stdout:\n{self.stdout.read_text()}\nstderr:\n{self.stderr.read_text()}"

    def result(self) -> Result:
        """Wait for the end; nothing may hang, and nothing may be left."""
        try:
            status = self.process.wait(max(1, self.limit + 5 - self.seconds))
        except subprocess.TimeoutExpired:
            left = _described(self.processes())
            self.kill()
            pytest.fail(f"the job hangs after {self.limit} s: {left}\n{self.output()}")
        seconds = self.seconds
        deadline = time.monotonic() + 10
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        if left:
            described = _described(left)
            self.kill()
            pytest.fail(f"processes are left: {described}\n{self.output()}")
        return Result(status, self.stdout.read_text(), self.stderr.read_text(), seconds)

    def kill(self) -> None:
        for process in self.processes():
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.Error:
                continue


def _described(processes: Sequence[psutil.Process]) -> list[str]:
    """Say what processes are, and which ranks."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            environ = process.environ()
            rank = environ.get("PMI_RANK", environ.get("OMPI_COMM_WORLD_RANK"))
            found.append(f"{process.pid} ({process.status()}), rank {rank}: {process.cmdline()}")
    return found


def find_mpirun(name: str = "mpirun") -> str:
    """Find the launcher of the MPI that the tests run under; it may be one of the system's."""
    name = os.environ.get("MPIDASK_TEST_LAUNCHER", name)
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"no {name}: install the extra mpich, openmpi or impi"
    return found


def launcher() -> str:
    """Find the command that starts programs under MPI and passes signals on to them."""
    # Intel's mpirun is a shell script around mpiexec.hydra, and passes on none.
    intel = Path(sys.executable).with_name("impi_info").exists()
    return find_mpirun("mpiexec.hydra" if intel else "mpirun")


@pytest.fixture
def launcher_directory() -> Iterator[str]:
    """Make a directory for a launcher's files.

    An mpirun that is killed leaves its session directory, which stops Open MPI's next one with the
    same process ID. A long path breaks sockets.
    """
    with tempfile.TemporaryDirectory(
        prefix="mpi-", dir="/tmp", ignore_cleanup_errors=True
    ) as directory:
        yield directory


@pytest.fixture
def start(tmp_path: Path, launcher_directory: str) -> Iterator[Callable[..., Job]]:
    """Start a program on so many ranks (None: without a launcher), `through` a command."""
    jobs: list[Job] = []

    def start(
        program: str,
        *args: str,
        ranks: int | None = 4,
        limit: float = 90,
        env: dict[str, str] | None = None,
        through: Sequence[str] = (),
    ) -> Job:
        path = tmp_path / f"program{len(jobs)}.py"
        path.write_text(HEADER.format(limit=limit) + textwrap.dedent(program))
        return launch([*through, sys.executable, str(path), *args], ranks, limit, env)

    def launch(
        command: list[str], ranks: int | None, limit: float = 90, env: dict[str, str] | None = None
    ) -> Job:
        if ranks is not None:
            command = [launcher(), "-n", str(ranks), *command]
        env = {"TMPDIR": launcher_directory} | (env or {})
        jobs.append(Job(command, tmp_path, limit=limit, env=env))
        return jobs[-1]

    start.launch = launch  # type: ignore[attr-defined]

    yield start
    for job in jobs:
        job.kill()


@pytest.fixture
def run(start: Callable[..., Job]) -> Callable[..., Result]:
    """Run a program on so many ranks to its end."""
    return lambda *args, **kwargs: start(*args, **kwargs).result()


@pytest.fixture
def launch(start: Callable[..., Job]) -> Callable[..., Job]:
    """Start any command on so many ranks."""
    return start.launch  # type: ignore[attr-defined,no-any-return]


@pytest.fixture(scope="session")
def mpirun() -> str:
    """Find the command that starts ranks, where `launch` can't be used."""
    return launcher()


@pytest.fixture(scope="session")
def open_mpi() -> bool:
    """Whether the MPI is Open MPI, whose launcher has ways of its own."""
    version = subprocess.run([launcher(), "--version"], capture_output=True, text=True)
    return "open-mpi.org" in version.stdout + version.stderr


@pytest.fixture
def listen() -> Iterator[Callable[..., str]]:
    """Listen on a port, any or one that gets free, and treat each connection in some way."""
    with contextlib.ExitStack() as stack:

        def listen(treat: Callable[[socket.socket], object], port: int = 0) -> str:
            server = stack.enter_context(_listening(port))
            thread = threading.Thread(target=_serve, args=[server, treat])
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown, socket.SHUT_RDWR)
            host, port = server.getsockname()
            return f"{host}:{port}"

        yield listen


def _listening(port: int) -> socket.socket:
    deadline = time.monotonic() + 30
    while True:
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _serve(server: socket.socket, treat: Callable[[socket.socket], object]) -> None:
    with contextlib.ExitStack() as connections, contextlib.suppress(OSError):  # shut down
        while True:
            connection, _ = server.accept()
            treat(connections.enter_context(connection))


@pytest.fixture
def reset_connections(listen: Callable[..., str]) -> Callable[..., str]:
    """Listen on a port, any or one that gets free, and reset each connection at once, or later."""

    def reset_connections(port: int = 0, after: threading.Event | None = None) -> str:
        def reset(connection: socket.socket) -> None:
            """Close it as the system does with those that a dead process had not accepted."""
            if after is not None:
                after.wait(30)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

        return listen(reset, port)

    return reset_connections
