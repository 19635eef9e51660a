"""The ends of ranks, and what is told of them."""

from __future__ import annotations

import ast
import subprocess
import sys
import threading

import pytest

from mpidask._mpi import exit_blockers, job_exit


@pytest.mark.parametrize(
    ("status", "launcher"),
    [
        (3, 0),
        (130, 130),  # Old versions of MPICH's mpirun drop the statuses of the last ranks then.
        (143, 143),
    ],
)
def test_a_rank_that_served_has_a_status_for_python_and_after_signals_for_the_launcher(
    status, launcher
):
    error = job_exit.ServedExit(status)
    assert (error.code, error.args) == (status, (status,))
    program = (
        "from mpidask._mpi.job_exit import ServedExit\n"
        f"try:\n    raise ServedExit({status})\n"
        "except SystemExit as error:\n    print(error.code, flush=True)\n    raise\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (launcher, f"{status}\n", "")


def test_many_leftovers_are_counted():
    assert exit_blockers._listed(["a", "b"]) == "a; b"
    assert exit_blockers._listed(list("abcdefg")) == "a; b; c; d; e; and 2 more"


class Holder:
    def __init__(self, inner):
        self.inner = inner

    @property
    def computed(self):
        raise AssertionError("code of the program's was run")


def test_the_call_that_a_frame_is_in_is_found_and_its_names_without_running_code():
    inside, leave = threading.Event(), threading.Event()
    holder = Holder(leave)

    def wait():
        here = holder
        inside.set(), here.inner.wait(30)

    thread = threading.Thread(target=wait)
    thread.start()
    inside.wait()
    # The call of a lock, in threading.Event.wait, is innermost; that of `wait` lies around it.
    frame = sys._current_frames()[thread.ident]
    while frame.f_code is not wait.__code__:
        frame = frame.f_back
    calls = list(exit_blockers._current_calls(frame))
    leave.set()
    thread.join()
    assert "here.inner.wait(30)" in map(ast.unparse, calls)
    (call,) = (call for call in calls if ast.unparse(call) == "here.inner.wait(30)")
    assert exit_blockers._value(call.func.value, frame) is leave
    computed = ast.parse("here.computed.wait").body[0].value.value
    assert isinstance(exit_blockers._value(computed, frame), property)
