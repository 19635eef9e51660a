"""Files with results for people, each written in one go: nobody reads half of one."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Iterator

from mpidask._errors import MPIDaskError

#: As many bytes of a file tell whether it is an older version.
_HEAD = 4096


def check(path: str, what: str, older: re.Pattern[bytes]) -> None:
    """Make the directory of a file, and raise if the file could not or should not be written.

    What can't be written shall be known at the start, and not after hours.

    Parameters
    ----------
    path : str
    what : str
        What is going to be written there, for the message.
    older : re.Pattern
        How an older version begins, which alone is replaced.

    Raises
    ------
    MPIDaskError
        If it can't, or if something else stands there.
    """
    path = os.path.realpath(path)
    directory = os.path.dirname(path)
    try:
        os.makedirs(directory, exist_ok=True)
        if os.path.exists(path):
            _check_replaceable(path, older)
        with draft(path) as name:
            open(name, "x").close()
            os.unlink(name)
    except OSError as error:
        raise MPIDaskError(f"the {what} can't be written: {error}") from None


def _check_replaceable(path: str, older: re.Pattern[bytes]) -> None:
    if not os.path.isfile(path):
        raise OSError(f"{path} exists, and is not a file")
    if not os.access(path, os.W_OK):  # to replace it takes no right to write it
        raise OSError(f"{path} is write-protected")
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if head and not older.match(head):
        raise OSError(f"{path} is another file, and is left as it is")


@contextlib.contextmanager
def draft(path: str) -> Iterator[str]:
    """Give the name of a file to write, which takes the place of `path` when it exists.

    It lies beside it, and its name ends in the same way.
    """
    directory, name = os.path.split(os.path.realpath(path))
    written = os.path.join(directory, f".{uuid.uuid4().hex[:8]}-{name}")
    try:
        yield written
        if os.path.exists(written):
            os.replace(written, os.path.join(directory, name))
    finally:
        with contextlib.suppress(OSError):
            os.unlink(written)


def write(path: str, text: str) -> None:
    """Write a text file, or replace it."""
    with draft(path) as name, open(name, "x") as file:
        file.write(text)
