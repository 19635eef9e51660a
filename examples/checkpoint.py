"""Longer than the wall time: a job saves what there is, and goes on in the next.

Run it again and again until it says that all is done; the batch scripts
batch/checkpoint_*.sh do so by themselves.
"""

import json
import os
import random
import time

from distributed import as_completed

from mpidask import mpi_dask_main

CHECKPOINT = "checkpoint.json"
MEMBERS = range(40)


def simulate(member):
    """Stand in for hours of work: estimate pi."""
    time.sleep(0.5)
    chance = random.Random(member)
    inside = sum(chance.random() ** 2 + chance.random() ** 2 < 1 for _ in range(10_000))
    return 4 * inside / 10_000


def load():
    """Give the results of earlier jobs."""
    if not os.path.exists(CHECKPOINT):
        return {}
    with open(CHECKPOINT) as file:
        return {int(member): value for member, value in json.load(file).items()}


def save(results):
    """Replace the checkpoint in one go: there is a whole one at any time."""
    with open(CHECKPOINT + ".new", "w") as file:
        json.dump(results, file)
    os.replace(CHECKPOINT + ".new", CHECKPOINT)


# The end waits 5 s at most for tasks that still run: their results are for the next job.
@mpi_dask_main(shutdown_timeout="5 s")
def main(client):
    results, saved = load(), time.monotonic()
    left = [member for member in MEMBERS if member not in results]
    print(f"{len(results)} of {len(MEMBERS)} members are there", flush=True)
    futures = {client.submit(simulate, member, pure=False): member for member in left}
    try:
        for future, value in as_completed(futures, with_results=True):
            results[futures[future]] = value
            if time.monotonic() > saved + 60:  # a node may fail without a signal
                save(results)
                saved = time.monotonic()
    finally:  # also at the wall time, whose signal raises SystemExit here
        save(results)
        print(f"saved {len(results)} of {len(MEMBERS)} members", flush=True)
    print(f"pi is about {sum(results.values()) / len(MEMBERS):.3f}")


main()
