"""Files without a name that processes of a node map."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest

from mpidask import MPIDaskError
from mpidask._broadcast import shared_file
from mpidask._broadcast.shared_file import Location, SharedFile

READ = """
import sys
from mpidask._broadcast.shared_file import Location, SharedFile
*location, nbytes = map(int, sys.argv[1:])
print(bytes(SharedFile.open(Location(*location), nbytes).memory[:5]).decode())
"""


@pytest.fixture
def file(tmp_path):
    file = SharedFile.create(10, str(tmp_path))
    file.write(0, b"01234")
    file.write(5, b"56789")
    return file


def mapped():
    gc.collect()
    return sum(shared_file._mapped.values())


def test_another_process_reads_it(file):
    arguments = [str(number) for number in (*file.location, file.nbytes)]
    command = [sys.executable, "-c", READ, *arguments]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "01234\n"


def test_it_has_no_name_and_is_the_users_alone(file):
    found = os.fstat(file.location.descriptor)
    assert (found.st_nlink, found.st_mode & 0o777) == (0, 0o600)


def test_memory_is_read_only_and_outlives_the_file(file):
    before = mapped()
    memory = file.memory
    with pytest.raises(TypeError):
        memory[0] = 1
    file.close()
    assert bytes(memory) == b"0123456789"
    assert mapped() == before + 10
    memory.release()
    del memory
    assert mapped() == before


def test_a_closed_file_cannot_be_opened(file):
    location = file.location
    file.close()
    with pytest.raises(FileNotFoundError):
        SharedFile.open(location, 10)


@pytest.mark.parametrize("change", ["inode", "device", "size"])
def test_another_file_is_not_taken_for_it(file, change):
    location, nbytes = file.location, file.nbytes + (change == "size")
    if change != "size":
        location = location._replace(**{change: getattr(location, change) + 1})
    with pytest.raises(OSError, match="another file"):
        SharedFile.open(location, nbytes)


def test_no_such_process():
    with pytest.raises(FileNotFoundError):
        SharedFile.open(Location(2**22 + 1, 3, 0, 0), 10)


def test_without_room_in_memory_it_is_on_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(shared_file, "_MEMORY", str(tmp_path / "missing"))
    file = SharedFile.create(10, str(tmp_path))
    assert file.location.device == os.stat(tmp_path).st_dev
    assert list(tmp_path.iterdir()) == []


def test_without_room_at_all(tmp_path):
    with pytest.raises(MPIDaskError, match=r"no room for .* on \S+: /dev/shm has .*, \S+ has "):
        SharedFile.create(2**60, str(tmp_path))


def test_room_that_is_lost_meanwhile(file, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(MPIDaskError, match="ran out of room for 10 B: No space left"):
        file.write(0, b"x")


def test_processes_of_a_node_agree_on_its_identifier():
    command = "from mpidask._broadcast.shared_file import node_id; print(node_id())"
    other = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert other.stdout.strip() == shared_file.node_id()
