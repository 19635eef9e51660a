"""An MPI call of the program that waits for ranks which have left it, and would wait for ever."""

from __future__ import annotations

import ast
import inspect
import linecache
import os
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from mpidask._mpi.exit_barrier import ExitBarrier
from mpidask._threads import in_daemon_thread

if TYPE_CHECKING:
    from mpi4py import MPI

#: Seconds between looks, and how many in a row must find the main thread in the same call.
_INTERVAL, _LOOKS = 1.5, 3


class CallWatch:
    """Looks, in a thread, whether the main thread is in such a call.

    Only when all other ranks are at their end does it look at all: a rank that catches its
    `SystemExit` may come to the call yet.

    Parameters
    ----------
    barrier : ExitBarrier
    on_abandoned_call : callable
        Called in the thread with the call, as text.
    """

    def __init__(self, barrier: ExitBarrier, on_abandoned_call: Callable[[str], object]) -> None:
        self._meeting = barrier
        self._on_abandoned_call = on_abandoned_call
        self._stopped = threading.Event()
        self._watching = in_daemon_thread(self._watch)

    def stop(self) -> None:
        """Stop, before the main thread comes to the end itself."""
        self._stopped.set()
        self._watching.result()

    def _watch(self) -> None:
        seen, looks = None, 0
        while not self._stopped.wait(_INTERVAL):
            if not self._meeting.others_wait():
                continue
            frame = sys._current_frames()[threading.main_thread().ident or 0]
            now = (frame.f_code, frame.f_lasti)
            seen, looks = now, looks + 1 if now == seen else 1
            if looks >= _LOOKS and (call := _abandoned_call(frame, self._meeting.comm)):
                self._on_abandoned_call(call)
                return


def _abandoned_call(frame: Any, left: MPI.Intracomm) -> str | None:
    """Give the call of an MPI communicator that a frame is in, if its other ranks have left."""
    from mpi4py import MPI

    for call in _current_calls(frame):
        comm = _value(call.func.value, frame) if isinstance(call.func, ast.Attribute) else None
        if isinstance(comm, MPI.Intracomm) and comm and comm.Get_size() > 1:
            others = MPI.Group.Difference(comm.Get_group(), left.Get_group())
            if others.Get_size() == 0:
                place = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
                return f"{ast.unparse(call)} ({place})"
    return None


def _current_calls(frame: Any) -> Iterator[ast.Call]:
    """Find in the source what a frame calls now: before Python 3.11, all calls in the line."""
    lines = linecache.getlines(frame.f_code.co_filename, frame.f_globals)
    try:
        tree = ast.parse("".join(lines))
    except (SyntaxError, ValueError):
        return
    where: tuple[Any, ...] = (frame.f_lineno, None, None, None)
    if sys.version_info >= (3, 11):
        where = next(islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), where)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found = (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset)
            if all(want in (None, is_) for want, is_ in zip(where, found, strict=True)):
                yield node


def _value(expression: ast.expr, frame: Any) -> object:
    """Give what a name, or an attribute of one, means in a frame; run no code of the program's."""
    match expression:
        case ast.Name(name):
            return frame.f_locals.get(name, frame.f_globals.get(name))
        case ast.Attribute(value, name):
            return inspect.getattr_static(_value(value, frame), name, None)
        case _:
            return None
