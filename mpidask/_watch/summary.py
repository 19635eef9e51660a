"""The summary of what a job did and used: JSON for programs, and two lines in the log."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dask.utils import format_bytes

from mpidask._compat.distributed import metered_bytes
from mpidask._dask.atomic_file import AtomicFile
from mpidask._placement.limits import end_of_allocation
from mpidask._text import and_more, duration
from mpidask._watch.failures import Failures
from mpidask._watch.task_counts import TaskCounts, broadcast_bytes, place_of

if TYPE_CHECKING:
    from distributed import Scheduler

#: The version of the file's format.
SCHEMA = 1
#: How each version of the file begins.
_BEGINNING = re.compile(rb'\{\s*"schema": \d+,\s*"mpidask": "')
#: The share of its time that a worker is idle for the log to call it so.
_IDLE = 0.5
#: The least number of samples for that.
_SAMPLES = 10
#: What to ask for, as a multiple of the most memory that was used.
_HEADROOM = 1.2
#: How many kinds of failures the log names, the most frequent ones.
_NAMED = 3


def summary_file(path: str) -> AtomicFile:
    """Return the file that a summary goes to."""
    return AtomicFile(path, "summary", _BEGINNING.match)


@dataclass
class WorkerRecord:
    """What one worker did and used, over all samples."""

    place: str
    threads: int
    memory_limit: int
    memory_peak: int = 0
    seconds: float = 0
    idle_seconds: float = 0

    @property
    def idle_share(self) -> float:
        return self.idle_seconds / self.seconds if self.seconds else 0.0

    def content(self) -> dict[str, Any]:
        """Return its part of the summary."""
        seconds, idle = round(self.seconds, 3), round(self.idle_seconds, 3)
        return vars(self) | {"seconds": seconds, "idle_seconds": idle}


class Summary:
    """Samples the workers, and sums up what they did and used."""

    def __init__(
        self,
        scheduler: Scheduler,
        counts: TaskCounts,
        places: Mapping[str, str],
        failures: Failures,
    ) -> None:
        self._scheduler = scheduler
        self._failures = failures
        self._counts = counts
        self._places = places
        self._began = self._sampled = time.monotonic()
        self._started = time.time()
        self._end = end_of_allocation()
        self._samples = 0
        self._broadcast_peak = 0
        self._workers: dict[str, WorkerRecord] = {}
        self._of_address: dict[str, WorkerRecord] = {}

    def sample(self) -> None:
        """Add what the workers do and use now."""
        now = time.monotonic()
        passed, self._sampled = now - self._sampled, now
        self._samples += 1
        self._broadcast_peak = max(self._broadcast_peak, broadcast_bytes(self._scheduler))
        for worker in self._scheduler.workers.values():
            record = self._of_address.get(worker.address) or self._record(worker)
            record.memory_peak = max(record.memory_peak, worker.metrics.get("memory", 0))
            record.seconds += passed
            record.idle_seconds += 0 if worker.processing else passed

    def _record(self, worker: Any) -> WorkerRecord:
        """Return the record of a worker that is new, or has replaced another."""
        place = place_of(worker, self._places)
        new = WorkerRecord(place, worker.nthreads, worker.memory_limit or 0)
        record = self._of_address[worker.address] = self._workers.setdefault(place, new)
        return record

    def content(self, status: int | None = None) -> dict[str, Any]:
        """Return the summary so far, or with the status of a job that has finished.

        May be called in any thread: it copies what the scheduler may change meanwhile.
        """
        first, workers = self._counts.first_ended, list(self._workers.values())
        counted = ("done", "erred", "retried", "pending", "dropped")
        return {
            "schema": SCHEMA,
            "mpidask": importlib.metadata.version("mpidask"),
            "finished": status is not None,
            "status": status,
            "started": _clock(self._started),
            "written": _clock(time.time()),
            "allocation_ends": None if self._end is None else _clock(self._end),
            "seconds": round(time.monotonic() - self._began, 3),
            "seconds_to_first_task": None if first is None else round(first - self._began, 3),
            "tasks": {name: getattr(self._counts, name) for name in counted},
            "failures": [one.content() for one in self._failures.kinds],
            "thread_seconds": round(sum(one.threads * one.seconds for one in workers), 3),
            "busy_thread_seconds": round(self._busy_seconds(), 3),
            "bytes_moved": self._bytes_moved(),
            "bytes_spilled": metered_bytes(self._scheduler, activity="disk-write"),
            "bytes_broadcast": self._broadcast_peak,
            "advice": self._advice() if self._workers else None,
            "workers": [one.content() for one in workers],
        }

    def _bytes_moved(self) -> int | None:
        if any(not one.memory_limit for one in list(self._workers.values())):
            return None  # workers meter only memory that they limit
        return metered_bytes(self._scheduler, context="get-data")

    def _busy_seconds(self) -> float:
        still = sum(
            seconds
            for worker in list(self._scheduler.workers.values())
            for task, seconds in list(worker.executing.items())
            # It has not ended since the heartbeat, nor seceded from its thread.
            if task in worker.processing and task not in worker.long_running
        )
        return float(self._counts.busy_seconds + still)

    def text(self, status: int | None = None) -> str:
        """Return the content of the file."""
        return json.dumps(self.content(status), indent=1) + "\n"

    def lines(self) -> list[str]:
        """Return the most important of it as lines for the log, and what to ask for next time."""
        now = self.content()
        tasks, offered = now["tasks"], now["thread_seconds"]
        counts = ", ".join(
            f"{tasks[name]} {name}"
            for name in ("erred", "retried", "pending", "dropped")
            if tasks[name]
        )
        parts = [f"{tasks['done']} tasks done" + (f", {counts}" if counts else "")]
        parts[0] += f" in {duration(now['seconds'])}"
        parts += self._about_failures()
        if offered:
            busy = min(1, now["busy_thread_seconds"] / offered)
            parts.append(f"threads busy {busy:.0%} of the time")
        parts += self._about_memory()
        if now["bytes_moved"] is not None:
            parts.append(f"{format_bytes(now['bytes_moved'])} moved")
        if now["bytes_broadcast"]:
            parts.append(f"{format_bytes(now['bytes_broadcast'])} held as broadcast values")
        if now["bytes_spilled"]:
            parts.append(f"{format_bytes(now['bytes_spilled'])} spilled")
        return [f"summary: {'; '.join(parts)}", *self._next_time(now)]

    def _next_time(self, now: dict[str, Any]) -> list[str]:
        advice = now["advice"]
        if not advice or not advice["memory_per_rank"]:
            return []
        gib = math.ceil(advice["memory_per_rank"] / 2**30 * 10) / 10
        # What was spilled would have been in memory.
        line = (
            f"next time: ask for {'more than ' if now['bytes_spilled'] else ''}{gib:.1f} GiB a rank"
        )
        if idle := advice["idle_workers"]:
            line += (
                f"; {idle} of {len(self._workers)} workers {'was' if idle == 1 else 'were'} idle "
                f"{advice['their_idle_share']:.0%} of the time"
            )
        return [line]

    def _about_failures(self) -> list[str]:
        kinds = sorted(self._failures.kinds, key=lambda one: -one.count)
        if not kinds:
            return []
        return [f"failed: {and_more([str(kind) for kind in kinds[:_NAMED]], len(kinds))}"]

    def _about_memory(self) -> list[str]:
        if not self._workers:
            return []
        top = max(self._workers.values(), key=lambda one: one.memory_peak)
        limit = f" of {format_bytes(top.memory_limit)}" if top.memory_limit else ""
        return [f"most memory {format_bytes(top.memory_peak)}{limit} on {top.place}"]

    def _advice(self) -> dict[str, Any]:
        """Return what to ask for next time: bytes a rank, and how many workers were not needed."""
        records = list(self._workers.values())
        enough = self._samples >= _SAMPLES
        idle = [one.idle_share for one in records if enough and one.idle_share >= _IDLE]
        return {
            "memory_per_rank": math.ceil(_HEADROOM * max(one.memory_peak for one in records)),
            "idle_workers": len(idle),
            "their_idle_share": round(sum(idle) / len(idle), 3) if idle else None,
        }


def _clock(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return moment.isoformat(timespec="seconds")
