"""Memory that processes of one node share: an unnamed file that each of them maps."""

from __future__ import annotations

import functools
import mmap
import os
import tempfile
import uuid
import weakref
from typing import Any, NamedTuple

from mpidask._errors import MPIDaskError
from mpidask._placement.limits import granted_memory

#: Where files are memory. Linux allows half of the node's by default, containers often less.
_MEMORY = "/dev/shm"
#: Most bytes of one write: Linux writes no more than 2 GiB less a page at once.
_WRITE = 2**30

#: Sizes of the mappings of this process, by a number for each.
_mapped: dict[int, int] = {}


class Location(NamedTuple):
    """Where other processes of the node find an open file: as a descriptor of a process.

    `device` and `inode` tell it from the file of another process that has the number meanwhile.
    """

    pid: int
    descriptor: int
    device: int
    inode: int


class SharedFile:
    """A file without a name, of which all processes of the node see the same pages.

    Nothing is left of it when the last process that has opened or mapped it is gone, however
    that ended.

    Parameters
    ----------
    descriptor : int
        Of the open file. This object closes it.
    nbytes : int
    """

    def __init__(self, descriptor: int, nbytes: int) -> None:
        self.nbytes = nbytes
        self._descriptor = descriptor
        self._close = weakref.finalize(self, os.close, descriptor)

    @classmethod
    def create(cls, nbytes: int, fallback: str) -> SharedFile:
        """Create a file in memory, or in a directory if there is no room.

        Raises
        ------
        MPIDaskError
            If there is none there either.
        """
        from dask.utils import format_bytes

        problems = []
        for directory in (_MEMORY, fallback):
            problem = _lack_of_room(directory, nbytes)
            if not problem:
                with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
                    file.truncate(nbytes)
                    return cls(os.dup(file.fileno()), nbytes)
            problems.append(problem)
        raise MPIDaskError(
            f"broadcast: no room for {format_bytes(nbytes)} on {os.uname().nodename}: "
            f"{', '.join(problems)}"
        )

    @classmethod
    def open(cls, location: Location, nbytes: int) -> SharedFile:
        """Open the file of another process of this node.

        Raises
        ------
        OSError
            If that process is gone, or has closed it.
        """
        path = f"/proc/{location.pid}/fd/{location.descriptor}"
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        file = cls(descriptor, nbytes)
        found = os.fstat(descriptor)
        expected = location.device, location.inode, nbytes, os.geteuid()
        if (found.st_dev, found.st_ino, found.st_size, found.st_uid) != expected:
            raise FileNotFoundError(f"{path} is another file by now")
        return file

    @property
    def location(self) -> Location:
        """Where other processes of this node find it."""
        found = os.fstat(self._descriptor)
        return Location(os.getpid(), self._descriptor, found.st_dev, found.st_ino)

    def write(self, offset: int, data: Any) -> None:
        """Write bytes at an offset.

        Unlike a store into mapped memory, which raises SIGBUS, this fails for lack of room with
        an error that can be caught; and it takes no page faults.

        Raises
        ------
        MPIDaskError
            If there is no room any more.
        """
        from dask.utils import format_bytes

        view = memoryview(data).cast("B")
        try:
            while view:
                written = os.pwrite(self._descriptor, view[:_WRITE], offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            raise MPIDaskError(
                f"broadcast: {os.uname().nodename} ran out of room for "
                f"{format_bytes(self.nbytes)}: {error.strerror}"
            ) from error

    @functools.cached_property
    def memory(self) -> memoryview:
        """The bytes, read-only; valid for as long as anything refers to them."""
        mapping = mmap.mmap(self._descriptor, self.nbytes, prot=mmap.PROT_READ)
        _mapped[id(mapping)] = self.nbytes
        weakref.finalize(mapping, _mapped.pop, id(mapping)).atexit = False
        return memoryview(mapping)

    def close(self) -> None:
        """Close it; memory that is in use stays valid."""
        self.__dict__.pop("memory", None)
        self._close()


def _lack_of_room(directory: str, nbytes: int) -> str:
    import psutil
    from dask.utils import format_bytes

    try:
        found = os.statvfs(directory)
    except OSError as error:
        return f"{directory}: {error.strerror}"
    free = found.f_bavail * found.f_frsize
    if directory == _MEMORY:
        free = min([free, psutil.virtual_memory().available, *granted_memory()])
    return f"{directory} has {format_bytes(free)}" if free < nbytes else ""


@functools.cache
def node_id() -> str:
    """Return what is the same for processes that find each other's files, and for no others.

    They run on one machine since its last boot, as one user, and see each other's process IDs.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}-{os.geteuid()}"
    except OSError:  # no Linux: each process is on its own
        return uuid.uuid4().hex


def resident_bytes() -> int:
    """Return how much of this process's resident memory is that of mapped files of this module."""
    mapped = sum(list(_mapped.values()))
    return min(mapped, _resident_shared()) if mapped else 0


def _resident_shared() -> int:
    """Return the resident bytes of all files that this process has mapped."""
    import psutil

    return int(psutil.Process().memory_info().shared)
