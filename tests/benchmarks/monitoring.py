"""What watching over a job costs: the work of many small tasks, and the state of many workers.

::

    python tests/benchmarks/monitoring.py overhead [--rounds N] [--tasks N]
    python tests/benchmarks/monitoring.py state [--workers N]
    python tests/benchmarks/monitoring.py report [--tasks N]

`overhead` runs the same small tasks with all of it on and off, in turn, on one cluster of
this process, and prints the ratio of the processor's time. `state` prints how long it takes
to write a line and to take a sample with so many workers. `report` prints how long the
scheduler makes a performance report.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from distributed import Client, Scheduler, Worker, performance_report

from mpidask._options import Options
from mpidask._watch.failures import Failures
from mpidask._watch.monitor import Monitor
from mpidask._watch.progress import Progress
from mpidask._watch.summary import Summary
from mpidask._watch.task_counts import TaskCounts

logging.getLogger("distributed").setLevel(logging.ERROR)
QUIET = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}


def small(number: int) -> int:
    """Do next to nothing."""
    return number


async def batch(client: Client, tasks: int) -> float:
    """Run small tasks, and give the processor's time it took."""
    before = time.process_time()
    await client.gather(client.map(small, range(tasks), pure=False))
    return time.process_time() - before


def tally_seconds(tasks: int) -> float:
    """Give the processor's time to count the steps of so many tasks."""
    scheduler = SimpleNamespace(tasks={"task": SimpleNamespace(run_id=None)})
    tally = TaskCounts(scheduler)
    states = ["released", "waiting", "processing", "memory", "released", "forgotten"]
    before = time.process_time()
    for _ in range(tasks):
        for start, finish in itertools.pairwise(states):
            tally.transition("task", start, finish, stimulus_id="benchmark")
    return time.process_time() - before


async def overhead(rounds: int, tasks: int) -> None:
    """Compare runs with and without a monitor, made in turn."""
    with tempfile.TemporaryDirectory() as directory:
        options = Options.resolve({"progress": "1 s", "summary": Path(directory) / "job.json"})
        async with (
            Scheduler(host="127.0.0.1", **QUIET) as scheduler,
            Worker(scheduler.address, nthreads=2, **QUIET),
            Client(scheduler.address, asynchronous=True) as client,
        ):
            seconds = await batch(client, tasks)
            counting = tally_seconds(tasks)
            print(
                f"counting {tasks} tasks: {counting:.3f} s, "
                f"{counting / seconds:.2%} of the {seconds:.2f} s that they take",
                flush=True,
            )
            ratios = []
            for number in range(rounds):
                seconds = {}
                for watched in (True, False) if number % 2 else (False, True):
                    monitor = monitored(options, scheduler) if watched else None
                    seconds[watched] = await batch(client, tasks)
                    if monitor is not None:
                        await monitor.finish(0)
                        scheduler.remove_plugin(TaskCounts.name)
                ratios.append(seconds[True] / seconds[False])
                print(f"{tasks} tasks: {seconds[True]:.2f} s / {seconds[False]:.2f} s", flush=True)
    spread = statistics.stdev(ratios) / len(ratios) ** 0.5
    print(
        f"watched : not watched = {statistics.mean(ratios):.4f} +- {spread:.4f} "
        f"(median {statistics.median(ratios):.4f}), processor's time, {rounds} rounds"
    )


def simulated(workers: int) -> SimpleNamespace:
    """Make what a scheduler knows of so many workers that have one thread and run a task."""
    states = {}
    for rank in range(workers):
        task = SimpleNamespace(key=f"task-{rank}")
        states[f"tls://10.0.0.1:{rank}"] = SimpleNamespace(
            address=f"tls://10.0.0.1:{rank}",
            name=f"mpidask-{rank}",
            host="10.0.0.1",
            nthreads=1,
            memory_limit=2**31,
            metrics={"memory": 2**30, "spilled_bytes": {"memory": 0, "disk": 0}},
            processing={id(task): task} if rank % 3 else {},
            executing={id(task): 5.0} if rank % 3 else {},
            long_running=set(),
        )
    return SimpleNamespace(
        workers=states,
        tasks={},
        task_prefixes={},
        cumulative_worker_metrics={},
        stream_handlers={"client-desires-keys": None},
    )


def timed(what: str, function: object, times: int = 20) -> None:
    """Print the median time of a call."""
    seconds = []
    for _ in range(times):
        before = time.thread_time()
        function()
        seconds.append(time.thread_time() - before)
    print(f"{what}: {1000 * statistics.median(seconds):.1f} ms (most {1000 * max(seconds):.1f})")


def state(workers: int) -> None:
    """Time what is done once an interval."""
    scheduler = simulated(workers)
    tally = TaskCounts(scheduler)
    places = {f"mpidask-{n}": f"rank {n} on node{n // 64}" for n in range(workers)}
    tally.pending = 10**6
    progress = Progress(scheduler, tally, 300, places)
    summary = Summary(scheduler, tally, places, Failures(scheduler, places))
    print(f"{workers} workers")
    timed("a line of progress", progress.line)
    timed("a sample for the summary", summary.sample)
    timed("the summary", summary.text)


def monitored(options: Options, scheduler: Scheduler) -> Monitor:
    places = {}
    return Monitor(options, scheduler, places, Failures(scheduler, places))


async def report(tasks: int) -> None:
    """Time Dask's performance report of so many tasks."""
    async with (
        Scheduler(host="127.0.0.1", **QUIET) as scheduler,
        Worker(scheduler.address, nthreads=2, **QUIET),
        Client(scheduler.address, asynchronous=True) as client,
    ):
        with tempfile.TemporaryDirectory() as directory, client.as_current():
            path = Path(directory) / "report.html"
            written = performance_report(path)
            await written.__aenter__()
            await batch(client, tasks)
            for _ in range(3):
                before = time.thread_time()
                await written.__aexit__(None, None, None, code="")
                seconds, size = time.thread_time() - before, path.stat().st_size / 2**20
                print(f"report of {tasks} tasks: {seconds:.2f} s, {size:.1f} MiB", flush=True)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measure", choices=["overhead", "state", "report"])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=10_000)
    options = parser.parse_args()
    if options.measure == "state":
        state(options.workers)
    elif options.measure == "report":
        asyncio.run(report(options.tasks))
    else:
        asyncio.run(overhead(options.rounds, options.tasks))


if __name__ == "__main__":
    main()
