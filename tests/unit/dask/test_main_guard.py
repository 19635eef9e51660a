"""Who is told to put a main guard into the script: spawned for real, without MPI or Dask."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
import concurrent.futures, multiprocessing, sys, threading
from mpidask._dask.spawn import check_main_guard, shield_children

def main():
    check_main_guard()
    shield_children()
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        print(pool.map(abs, [-1]))

def main_of_executor():
    check_main_guard()
    shield_children()
    context = multiprocessing.get_context(sys.argv[1])
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        print(list(pool.map(abs, [-1])))

def in_thread():  # as a task
    check_main_guard()
    shield_children()
    with concurrent.futures.ThreadPoolExecutor() as threads:
        threads.submit(main).result()
"""
UNGUARDED = [
    "main()",
    "main_of_executor()",
    "in_thread()",
    "check_main_guard()\nshield_children()\nmultiprocessing.get_context(sys.argv[1]).Pool(1)",
    "if True:\n    main()",
]
GUARDED = [
    "if __name__ == '__main__':\n    main()",
    "if __name__ != '__main__':\n    pass\nelse:\n    main_of_executor()",
    "if multiprocessing.current_process().name == 'MainProcess':\n    in_thread()",
]


@pytest.fixture
def run(tmp_path):
    def run(call, method):
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(PROGRAM) + call + "\n")
        command = [sys.executable, str(path), method]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    return run


@pytest.mark.parametrize(
    ["call", "method"], [(UNGUARDED[0], "forkserver"), *((call, "spawn") for call in UNGUARDED)]
)
def test_without_a_guard_there_is_one_error(run, call, method):
    done = run(call, method)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("MPIDaskError: multiprocessing's spawn and forkserver import") == 1
    assert done.stderr.count("Traceback") == 1
    assert "program.py, line " in done.stderr
    assert "below 'if __name__ == \"__main__\":'" in done.stderr


@pytest.mark.parametrize(
    ["call", "method"], [(GUARDED[0], "forkserver"), *((call, "spawn") for call in GUARDED)]
)
def test_with_a_guard_children_work(run, call, method):
    done = run(call, method)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[1]\n", "")


def test_forked_children_need_none(run):
    done = run("main()", "fork")
    assert (done.returncode, done.stdout) == (0, "[1]\n"), done.stderr


def test_a_child_that_comes_to_it_all_the_same_is_told(run):
    """It was started before the first cluster."""
    start = "multiprocessing.get_context('spawn').Process(target=abs).start()"
    done = run(f"if __name__ == '__main__':\n    {start}\nelse:\n    main()", "")
    assert done.stderr.count("MPIDaskError: this is a child process, which imports the script") == 1
