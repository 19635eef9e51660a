"""Plugins that need nannies, which do nothing where workers have none."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from mpidask._log import logger

if TYPE_CHECKING:
    from distributed import Scheduler


def tell_of_nanny_plugins(scheduler: Scheduler) -> None:
    """Say so when a plugin such as `Environ` or `UploadDirectory` reaches no nanny.

    Dask accepts it without a word: a nanny might come later.
    """
    register: Any = scheduler.handlers["register_nanny_plugin"]

    @functools.wraps(register)  # distributed looks at the parameters
    async def register_nanny_plugin(*args: Any, **kwargs: Any) -> Any:
        if not any(worker.nanny for worker in scheduler.workers.values()):
            logger.warning(
                "the plugin %s has no effect: it is for nannies, and workers run without them "
                "unless you give nanny=True",
                kwargs.get("name"),
            )
        return await register(*args, **kwargs)

    scheduler.handlers["register_nanny_plugin"] = register_nanny_plugin
