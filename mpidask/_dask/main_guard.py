"""Whether a process that multiprocessing spawns would run the cluster of the script again.

It imports the script under another name than ``__main__``. So a call below
``if __name__ == "__main__":`` does not run there; any other does. It would fail in each child,
and a pool starts new children for ever; so none is started.
"""

from __future__ import annotations

import ast
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from mpidask._errors import MPIDaskError

#: The name under which multiprocessing imports the main module in a child.
_MAIN_IN_CHILD = "__mp_main__"
#: What tells a script, while a child imports it, that it is one; `parent_process()` does not yet.
_TELLING = {"__name__", "current_process"}

#: Where the main module has asked for a cluster without a guard; it would in each child.
_unguarded: list[str] = []


def check() -> None:
    """Take note from where a cluster is asked for; raise if it is a child that imports the script.

    Raises
    ------
    MPIDaskError
    """
    frames = list(_frames(sys._getframe()))
    if any(_is_module(frame, _MAIN_IN_CHILD) for frame in frames):
        raise MPIDaskError(_explained("this is a child process, which imports the script"))
    if not _unguarded and (where := _unguarded_line()) is not None:
        _unguarded.append(where)


def require() -> None:
    """Raise `MPIDaskError` if a child that imports the main module would run its program, too."""
    where = _unguarded[0] if _unguarded else _unguarded_line()
    if where is not None:
        raise MPIDaskError(
            _explained(
                "multiprocessing's spawn and forkserver import the script in each child, "
                f"which would run it again from {where}"
            )
        )


def _explained(what: str) -> str:
    return f"{what}: put what starts it below 'if __name__ == \"__main__\":'"


def _unguarded_line() -> str | None:
    """Tell which line of the main module runs now, if it runs in a child as well."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    main = next((each for each in _frames(frame) if _is_module(each, "__main__")), None)
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
    """Tell whether a statement runs what is in this line only if the process is no child."""
    if not isinstance(node, ast.If) or not node.lineno <= line <= (node.end_lineno or 0):
        return False
    parts = list(ast.walk(node.test))
    names = {part.id for part in parts if isinstance(part, ast.Name)}
    return bool(
        _TELLING & (names | {part.attr for part in parts if isinstance(part, ast.Attribute)})
    )


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_module(frame: FrameType, name: str) -> bool:
    return frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == name
