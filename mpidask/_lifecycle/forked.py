"""A child process that the user's function forked, and that leaves it."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from mpidask._lifecycle.mpi_cluster import exit_status
from mpidask._log import flush_output


def leave(error: BaseException | None) -> NoReturn:
    """End the child with the status, and the words, that Python would end it with.

    At Python's own end it would finalise MPI, and close the connections to Dask, in the
    place of its parent.
    """
    if isinstance(error, SystemExit):
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    elif error is not None:
        sys.excepthook(type(error), error, error.__traceback__)
    flush_output()
    os._exit(exit_status(error))
