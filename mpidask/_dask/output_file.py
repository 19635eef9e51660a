"""Files with results for people, each written in one go: nobody reads half of one."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError

from mpidask._errors import MPIDaskError
from mpidask._threads import in_daemon_thread

#: As many bytes of a file tell whether it is an older version.
_HEAD = 4096
#: Seconds that a file system may take to answer.
_ANSWER_TIMEOUT = 10


class OutputFile:
    """A file that is written again and again, and replaces older versions of it alone.

    Parameters
    ----------
    path : str
    what : str
        What is written there, for messages.
    older : re.Pattern
        How each version of it begins.
    """

    def __init__(self, path: str, what: str, older: re.Pattern[bytes]) -> None:
        self.path = path
        self._what = what
        self._older = older

    def check(self) -> None:
        """Make the directory of the file, and raise if it could not or should not be written.

        What can't be written shall be known at the start, and not after hours.

        Raises
        ------
        MPIDaskError
            If it can't, if something else stands there, or if the file system does not answer.
        """
        try:
            in_daemon_thread(self._try).result(_ANSWER_TIMEOUT)
        except FutureTimeoutError:
            problem = f"the file system of {self.path} does not answer within {_ANSWER_TIMEOUT} s"
        except OSError as error:
            problem = str(error)
        else:
            return
        raise MPIDaskError(f"the {self._what} can't be written: {problem}")

    def write(self, content: bytes) -> None:
        """Write the file, or replace it."""
        with self._draft() as name, open(name, "xb") as file:
            file.write(content)

    def _draft(self) -> contextlib.AbstractContextManager[str]:
        return draft(os.path.realpath(self.path), self._check_replaceable)

    def _try(self) -> None:
        path = os.path.realpath(self.path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self._check_replaceable(path)
        with self._draft() as name:
            open(name, "x").close()
            os.unlink(name)

    def _check_replaceable(self, path: str) -> None:
        if not os.path.exists(path):
            return
        if not os.path.isfile(path):
            raise OSError(f"{path} exists, and is not a file")
        if not os.access(path, os.W_OK):  # to replace it takes no right to write it
            raise OSError(f"{path} is write-protected")
        with open(path, "rb") as file:
            head = file.read(_HEAD)
        if head and not self._older.match(head):
            raise OSError(f"{path} is another file, and is left as it is")


@contextlib.contextmanager
def draft(path: str, check: Callable[[str], object]) -> Iterator[str]:
    """Give the name of a file to write, which takes the place of `path` when it exists.

    It lies beside it, and its name ends in the same way. Before it takes the place, `check` is
    called with `path`, and raises if it may not.
    """
    directory, name = os.path.split(path)
    written = os.path.join(directory, f".{uuid.uuid4().hex[:8]}-{name}")
    try:
        yield written
        if os.path.exists(written):
            check(path)
            os.replace(written, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(written)
