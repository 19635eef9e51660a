"""Private API of Python's standard library."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

#: The modules of pools whose threads Python joins when it exits, though they may be daemons.
POOL_MODULES = ("concurrent.futures.thread", "concurrent.futures.process")
#: In the commands of processes of multiprocessing and joblib that end with the one that started
#: them.
HELPER_PROCESSES = ("resource_tracker", "multiprocessing.forkserver")
#: The name under which multiprocessing imports the main module in a spawned child.
MAIN_MODULE_IN_CHILD = "__mp_main__"
#: Where the preparation data of a spawned child name the main module.
_MAIN_MODULE = {"init_main_from_path", "init_main_from_name"}
#: The modules that an ``import`` statement looks names up from.
_IMPORT_SYSTEM = {"importlib._bootstrap", "_frozen_importlib"}


def call_before_threads_are_joined(function: Callable[[], object]) -> None:
    """Call a function when the program has ended, before Python waits for its threads.

    `concurrent.futures` has its pools joined in this way, too; last in is first out. `atexit` is
    too late: its callbacks run once all threads have ended.
    """
    threading._register_atexit(function)  # type: ignore[attr-defined]


def is_asyncios_handler(handler: object) -> bool:
    """Whether a handler of SIGINT is the one that `asyncio.run` installs, a partial of a method."""
    return getattr(getattr(handler, "func", None), "__module__", "") == "asyncio.runners"


def edit_preparation_data(edit: Callable[[str, dict[str, Any]], None]) -> None:
    """Have a function edit the data that multiprocessing passes to the child of some name.

    It is called in the thread that starts the child. Only the first function in a process counts.
    There is no public way to keep a child from importing the main module.
    """
    from multiprocessing import spawn

    if hasattr(spawn.get_preparation_data, "mpidask"):
        return
    original = spawn.get_preparation_data

    def get_preparation_data(name: str) -> dict[str, Any]:
        data = original(name)
        edit(name, data)
        return data

    get_preparation_data.mpidask = True  # type: ignore[attr-defined]
    spawn.get_preparation_data = get_preparation_data


def imports_main_module(data: dict[str, Any]) -> bool:
    """Whether a spawned child with these preparation data imports the main module."""
    return bool(data.keys() & _MAIN_MODULE)


def skip_main_module(data: dict[str, Any]) -> None:
    """Keep a spawned child from importing the main module."""
    for name in _MAIN_MODULE:
        data.pop(name, None)


def is_import_statement(caller: FrameType) -> bool:
    """Whether a module's ``__getattr__`` with this caller serves ``from module import name``.

    The import system would replace an AttributeError by its own ImportError.
    """
    return caller.f_globals.get("__name__") in _IMPORT_SYSTEM


def all_loggers() -> dict[str, logging.Logger]:
    """Return all loggers by name; `logging` has no public list of them."""
    known = logging.root.manager.loggerDict.copy()  # other threads add to it
    return {name: log for name, log in known.items() if isinstance(log, logging.Logger)}
