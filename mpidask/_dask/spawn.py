"""What the processes that multiprocessing spawns run when they start."""

from __future__ import annotations

import signal
from typing import Any

from mpidask._dask import main_guard


def shield_worker_processes() -> None:
    """Keep spawned processes from running the user's script, and nannies' from Ctrl-C.

    Python's multiprocessing imports the main module in every process it spawns. That is
    for functions pickled by name. Dask does not do that with those of a script, and it
    breaks scripts without a ``__main__`` guard; so for the processes that nannies name as
    theirs, the private preparation data are made without the main module (there is no public
    way to turn it off for one process). Others need it, and are refused where it would run
    a cluster again.

    The same place is good to let workers start with SIGINT blocked: a terminal sends it to
    them too, and a process that is importing its modules would show where.
    """
    from multiprocessing import spawn

    if hasattr(spawn.get_preparation_data, "mpidask"):
        return
    original = spawn.get_preparation_data

    def get_preparation_data(name: str) -> dict[str, Any]:
        data = original(name)
        if name.startswith("Dask Worker process"):
            data.pop("init_main_from_path", None)
            data.pop("init_main_from_name", None)
            # In the thread that starts this process, and does nothing else.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        elif data.keys() & {"init_main_from_path", "init_main_from_name"}:
            main_guard.require()
        return data

    get_preparation_data.mpidask = True  # type: ignore[attr-defined]
    spawn.get_preparation_data = get_preparation_data
