"""The processes that multiprocessing spawns, by a program or by nannies, and the main module.

Multiprocessing imports the main module in every process it spawns, under another name than
``__main__``, for functions that are pickled by name. A call below ``if __name__ == "__main__":``
does not run there; any other does. A cluster that is asked for there would fail in each child, and
a pool would start new children forever; so no cluster starts there.
"""

from __future__ import annotations

import ast
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from mpidask._compat.distributed import is_child_of_nanny
from mpidask._compat.python import (
    MAIN_MODULE_IN_CHILD,
    edit_preparation_data,
    imports_main_module,
    skip_main_module,
)
from mpidask._errors import MPIDaskError
from mpidask._threads import current_frame

#: Names in the condition of a main guard. (`parent_process` is not one: in a child that is
#: importing the script, it still returns None.)
_GUARD_NAMES = {"__name__", "current_process"}

#: Where the main module has asked for a cluster without a guard.
_unguarded: list[str] = []


def shield_children() -> None:
    """Keep the children of nannies from the main module and Ctrl-C, and others from a second run.

    Dask pickles functions of a script by value, so the children of nannies need no main module,
    and work for scripts without a main guard. Other children import it, and are refused where that
    would run a cluster again.

    Workers start with SIGINT blocked: a terminal sends it to them too, and a process that is
    importing its modules would show a traceback.
    """
    edit_preparation_data(_shield)


def _shield(name: str, data: dict[str, Any]) -> None:
    if is_child_of_nanny(name):
        skip_main_module(data)
        # In the thread that starts this process, and does nothing else.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    elif imports_main_module(data):
        _require_main_guard()


def check_main_guard() -> None:
    """Note where a cluster is asked for; raise in a child that is importing the script."""
    frames = list(_frames(sys._getframe()))
    if any(_is_module(frame, MAIN_MODULE_IN_CHILD) for frame in frames):
        raise MPIDaskError(_advice("this is a child process, which imports the script"))
    if not _unguarded and (where := _unguarded_line()) is not None:
        _unguarded.append(where)


def _require_main_guard() -> None:
    """Raise if a child that imports the main module would run its program, too."""
    where = _unguarded[0] if _unguarded else _unguarded_line()
    if where is not None:
        raise MPIDaskError(
            _advice(
                "multiprocessing's spawn and forkserver import the script in each child, "
                f"which would run it again from {where}"
            )
        )


def _advice(problem: str) -> str:
    return f"{problem}: put what starts it below 'if __name__ == \"__main__\":'"


def _unguarded_line() -> str | None:
    """Return the line of the main module that runs now, if it would run in a child as well."""
    frames = _frames(current_frame(threading.main_thread()))
    main = next((each for each in frames if _is_module(each, "__main__")), None)
    if main is None:
        return None
    path, line = main.f_code.co_filename, main.f_lineno
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):  # typed in, or frozen
        return None
    return None if any(_guards(node, line) for node in ast.walk(tree)) else f"{path}, line {line}"


def _guards(node: ast.AST, line: int) -> bool:
    """Whether a statement runs this line only if the process is not a child."""
    if not isinstance(node, ast.If) or not node.lineno <= line <= (node.end_lineno or 0):
        return False
    parts = list(ast.walk(node.test))
    names = {part.id for part in parts if isinstance(part, ast.Name)}
    attributes = {part.attr for part in parts if isinstance(part, ast.Attribute)}
    return bool(_GUARD_NAMES & (names | attributes))


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_module(frame: FrameType, name: str) -> bool:
    return frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == name
