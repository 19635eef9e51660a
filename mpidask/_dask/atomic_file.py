"""Files that are replaced atomically, and the rule for what they may replace."""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from mpidask._errors import MPIDaskError
from mpidask._threads import in_daemon_thread

#: Seconds that a file system may take to answer.
ANSWER_TIMEOUT = 10
#: Bytes that are read of a file at most.
_LARGEST = 1 << 20
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}


class AtomicFile:
    """A file that may be rewritten, and replaces nothing but older versions of itself.

    `is_older` says whether some bytes are (the beginning of) an older version, and `what` is in the
    file, for messages. A private one is for its owner alone: with mode 0600, never in place of a
    symbolic link, nor of another user's file. Others are written through links.
    """

    def __init__(
        self, path: str, what: str, is_older: Callable[[bytes], object], *, private: bool = False
    ) -> None:
        self.path = path
        self._what = what
        self._is_older = is_older
        self._private = private

    def check(self) -> None:
        """Raise OSError if the file can't or must not be written."""
        target = self._target
        directory = os.path.dirname(target)
        if not os.path.isdir(directory):
            raise OSError(f"there is no folder {directory}")
        try:
            status = os.lstat(target)
        except FileNotFoundError:
            return
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"it is {kind_of(status)}, which is left as it is")
        if self._private and status.st_uid != os.geteuid():
            raise OSError(f"the file there belongs to {owner_of(status)}")
        if not self._private and not os.access(target, os.W_OK):  # replacing needs no such right
            raise OSError("it is write-protected")
        if status.st_size and not self._is_older(read_regular_file(target, os.O_NOFOLLOW)[0]):
            raise OSError(f"the file there is not a {self._what}, and is left as it is")

    def prepare(self) -> None:
        """Make the directory, and check at the start, not at the end, that the file can be written.

        Raise `MPIDaskError` if it can't or must not be, or if the file system hangs.
        """
        try:
            call_in_time(self.path, self._prepare)
        except OSError as error:
            raise MPIDaskError(
                f"the {self._what} can't be written: {self.explain(error)}"
            ) from None

    def _prepare(self) -> None:
        os.makedirs(os.path.dirname(self._target), exist_ok=True)
        self.check()
        with self._temporary() as temporary:
            open(temporary, "x").close()
            os.unlink(temporary)

    def explain(self, error: OSError) -> str:
        """Format an error of this file for a message."""
        if isinstance(error, SlowFileSystemError):  # names the file
            return str(error)
        return f"{self.path}: {error.strerror or error}"

    def write(self, content: bytes) -> None:
        """Write the file, or replace it; raise OSError if that can't or must not be."""
        self.check()
        with self._temporary() as temporary, open(temporary, "xb", opener=self._open) as file:
            file.write(content)

    @property
    def _target(self) -> str:
        return self.path if self._private else os.path.realpath(self.path)

    def _open(self, path: str, flags: int) -> int:
        return os.open(path, flags, 0o600 if self._private else 0o666)

    def temporary_path(self) -> str:
        """Return the path of a file to write beside the target, for `replace_by`."""
        directory, name = os.path.split(self._target)
        return os.path.join(directory, f".{uuid.uuid4().hex[:8]}-{name}")

    def replace_by(self, temporary: str) -> None:
        """Move a temporary file to the target; raise OSError if that can't or must not be."""
        self.check()  # writing may have taken long
        os.replace(temporary, self._target)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[str]:
        """Yield the name of a file to write, which then replaces the target if it exists."""
        temporary = self.temporary_path()
        try:
            yield temporary
            if os.path.exists(temporary):
                self.replace_by(temporary)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def read_regular_file(path: str, flags: int = 0) -> tuple[bytes, os.stat_result]:
    """Return the beginning of a file, and its status, without waiting for a writer or a terminal.

    Raise OSError if it can't be read, or is something else.
    """

    def open_at_once(path: str, mode: int) -> int:
        return os.open(path, mode | flags | os.O_NONBLOCK | os.O_NOCTTY)

    with open(path, "rb", opener=open_at_once) as file:
        status = os.fstat(file.fileno())  # the name may mean another file by now
        if not stat.S_ISREG(status.st_mode):
            raise NotRegularError(kind_of(status))
        return file.read(_LARGEST), status


class NotRegularError(OSError):
    """Something is not a regular file but, says the message, ``a directory`` or the like."""


def kind_of(status: os.stat_result) -> str:
    """Name the kind of what is not a regular file."""
    return _KINDS.get(stat.S_IFMT(status.st_mode), "a device")


def owner_of(status: os.stat_result) -> str:
    """Name the owner of a file."""
    try:
        return f"user {pwd.getpwuid(status.st_uid).pw_name}"
    except KeyError:
        return f"user {status.st_uid}"


def call_in_time(path: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function that uses a file, and abandon it if the file system hangs."""
    try:
        return in_daemon_thread(function, *args).result(ANSWER_TIMEOUT)
    except FutureTimeoutError:
        raise SlowFileSystemError(path, ANSWER_TIMEOUT) from None


class SlowFileSystemError(OSError):
    """A file system does not answer."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__(f"the file system of {path} does not answer within {timeout:.3g} s")
