"""An ensemble of programs: one external program, run many times with different parameters.

    mpirun -n 8 python examples/ensemble.py
    python examples/ensemble.py

Each member is a task that starts the program in a directory of its own and gives back its
status and output. A member that fails is reported, and the others go on: its status is a
result like any other, not an exception.
"""

import subprocess
import sys
import tempfile

from mpidask import mpi_dask_main

# Stands for a model that exists already: population growth, diverging where rate > 4.
MODEL = """
import sys
rate, population = float(sys.argv[1]), 0.5
for year in range(10_000):
    population *= rate * (1 - population)
    if abs(population) > 1e6:
        sys.exit(f"diverged in year {year}")
print(population)
"""
RATES = [2.0 + 0.25 * step for step in range(11)]


def run_member(rate, timeout=60):
    """Run the model once, on a worker; give its exit status and what it said."""
    with tempfile.TemporaryDirectory() as directory:  # for the files it writes
        try:
            run = subprocess.run(
                [sys.executable, "-c", MODEL, str(rate)],
                check=False,
                cwd=directory,
                stdin=subprocess.DEVNULL,  # or it would share the standard input of mpirun
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            return None, f"stopped after {timeout} s"
    return run.returncode, (run.stderr if run.returncode else run.stdout).strip()


@mpi_dask_main
def main(client):
    from distributed import as_completed

    members = {client.submit(run_member, rate): rate for rate in RATES}
    failed = []
    for future, (status, output) in as_completed(members, with_results=True):
        rate = members[future]
        if status == 0:
            print(f"rate {rate:.2f}: population {float(output):.6f}")
        else:
            print(f"rate {rate:.2f}: FAILED with status {status}: {output}")
            failed.append(rate)
    print(f"{len(RATES) - len(failed)} of {len(RATES)} members succeeded, failed: {sorted(failed)}")


main()
