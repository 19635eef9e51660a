"""What a rank asks of the file system that its environment is on, and what is left if it is packed.

    python tests/benchmarks/file_operations.py

Hello world runs on four ranks under strace: with the environment where it is, and unpacked from a
tar file to another place, as docs/batch.md says. The environment must be one that venv made, with
mpidask installed and not linked to a checkout.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

RANKS = 4
PROGRAM = Path(__file__).parents[2] / "examples" / "quickstart.py"
TRACE = 'exec strace -f -y -qq -e trace=%file,%desc -o "$0.$$" "$@"'


def trace(python: Path, directory: Path) -> list[str]:
    """Run the program, and give the system calls of all ranks that concern files."""
    log = directory / "trace"
    mpirun = [Path(sys.executable).with_name("mpirun"), "-n", str(RANKS)]
    command = [*mpirun, "sh", "-c", TRACE, log, python, PROGRAM]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return [line for path in directory.glob("trace.*") for line in path.read_text().splitlines()]


def below(place: str, calls: list[str]) -> int:
    """Count the calls that name a file below a directory, or use an open one; for each rank."""
    marks = f'"{place}/', f"<{place}/"
    return round(sum(any(mark in call for mark in marks) for call in calls) / RANKS)


def main() -> None:
    """Print the table."""
    environment, library = Path(sys.prefix), Path(sys.base_prefix)
    with tempfile.TemporaryDirectory() as name:
        first, second, local = (Path(name) / part for part in ("first", "second", "local"))
        for directory in (first, second, local):
            directory.mkdir()
        archive = Path(name) / "environment.tar"
        subprocess.run(
            ["tar", "-cf", archive, "-C", environment.parent, environment.name], check=True
        )
        subprocess.run(["tar", "-xf", archive, "-C", local], check=True)
        size = archive.stat().st_size / 2**20
        runs = {
            "where it is": trace(environment / "bin" / "python", first),
            "unpacked on the node": trace(local / environment.name / "bin" / "python", second),
        }
    print("| the environment is | operations on its files | on Python's standard library |")
    print("| --- | ---: | ---: |")
    for title, calls in runs.items():
        print(f"| {title} | {below(str(environment), calls):,} | {below(str(library), calls):,} |")
    print(f"\nThe archive has {size:.0f} MiB.")


if __name__ == "__main__":
    main()
