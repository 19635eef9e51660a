"""The scheduler file: written whole, for its owner alone, and read with clear errors."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from pathlib import Path

import pytest
from distributed import Client, Scheduler, Security

import mpidask
from mpidask import SchedulerFileError
from mpidask._dask import scheduler_file
from mpidask._dask.atomic_file import AtomicFile
from mpidask._dask.connection_info import ConnectionInfo

ADDRESS = "tls://10.0.0.1:8786"
IDENTITY = {"type": "Scheduler", "id": "Scheduler-1", "address": ADDRESS, "workers": {}}
STRANGER = 12345


def written(tmp_path, security=None):
    path = tmp_path / "scheduler.json"
    scheduler_file.write(str(path), IDENTITY, ConnectionInfo(ADDRESS, security))
    return path


def test_a_link_that_comes_after_the_check_is_not_followed(tmp_path, monkeypatch):
    target = tmp_path / "data"
    target.write_text("data")
    (tmp_path / "scheduler.json").symlink_to(target)
    monkeypatch.setattr(AtomicFile, "check", lambda self: None)
    assert not written(tmp_path).is_symlink()
    assert target.read_text() == "data"


def test_round_trip_with_credentials(tmp_path):
    security = Security.temporary()
    path = written(tmp_path, security)
    assert path.stat().st_mode & 0o777 == 0o600
    cluster = scheduler_file.read(str(path))
    assert cluster.address == ADDRESS
    for role in ("client", "scheduler", "worker"):
        theirs = cluster.security.get_tls_config_for_role(role)
        assert theirs == security.get_tls_config_for_role(role)
    assert cluster.security.require_encryption
    assert set(mpidask.connection(path)) == {"address", "security"}


def test_a_plain_client_asks_for_credentials_in_the_words_of_the_documentation(tmp_path):
    """It does not look for them in the file."""
    path = written(tmp_path, Security.temporary())
    words = "TLS expects a `ssl_context` argument"
    with pytest.raises(TypeError, match=words):
        Client(scheduler_file=str(path), timeout=5)
    page = Path(__file__).parents[3] / "docs" / "troubleshooting.md"
    assert f'"{words}"' in page.read_text()


def test_without_credentials_it_is_as_distributed_writes_it(tmp_path):
    path = written(tmp_path)
    path.chmod(0o644)  # nothing secret in it
    assert mpidask.connection(path) == {"address": ADDRESS}
    assert json.loads(path.read_text()) == IDENTITY


def test_credentials_that_are_none_are_not_written(tmp_path):
    """As of a LocalCluster without security, which has an empty one."""
    path = written(tmp_path, Security())
    assert json.loads(path.read_text()) == IDENTITY


def test_home_directory_in_the_name(tmp_path, monkeypatch):
    path = written(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in "~/scheduler.json", Path("~/scheduler.json"):
        assert mpidask.connection(name) == {"address": ADDRESS}
    path.unlink()
    with pytest.raises(SchedulerFileError, match=f"no scheduler file {path}"):
        mpidask.connection("~/scheduler.json")


def test_written_in_one_go(tmp_path, monkeypatch):
    path = written(tmp_path)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(SchedulerFileError, match="disk full"):
        written(tmp_path)
    assert json.loads(path.read_text()) == IDENTITY
    assert list(tmp_path.iterdir()) == [path]


def test_credentials_that_others_can_read_are_refused(tmp_path):
    path = written(tmp_path, Security.temporary())
    path.chmod(0o640)
    with pytest.raises(SchedulerFileError, match=f"chmod 600 {path}") as caught:
        scheduler_file.read(str(path))
    assert not caught.value.may_pass


@pytest.mark.parametrize("content", ["", '{"address": "tls', "[1]", "3", "{}", "null"])
def test_what_is_no_scheduler_file_may_become_one(tmp_path, content):
    path = tmp_path / "scheduler.json"
    path.write_text(content)
    with pytest.raises(SchedulerFileError, match="is not a scheduler file") as caught:
        scheduler_file.read(str(path))
    assert caught.value.may_pass
    assert str(path) in str(caught.value)


def test_missing_and_unreadable(tmp_path):
    with pytest.raises(SchedulerFileError, match="there is no scheduler file") as caught:
        scheduler_file.read(str(tmp_path / "nonesuch"))
    assert caught.value.may_pass
    with pytest.raises(SchedulerFileError, match="can't read") as caught:
        scheduler_file.read(str(tmp_path))
    assert not caught.value.may_pass


def test_credentials_that_are_broken(tmp_path):
    path = written(tmp_path, Security.temporary())
    path.write_text(path.read_text().replace("BEGIN", "NONE"))
    with pytest.raises(SchedulerFileError, match=f"{path} is broken"):
        scheduler_file.read(str(path))


def test_removes_only_its_own(tmp_path):
    path = written(tmp_path)
    scheduler_file.remove(str(path), IDENTITY | {"id": "Scheduler-2"})
    assert path.exists()
    scheduler_file.remove(str(path), IDENTITY)
    assert not path.exists()
    scheduler_file.remove(str(path), IDENTITY)  # gone already


@pytest.mark.parametrize("content", ["data", "[1]", "{", '{"id": "Scheduler-2"}', '{"a": 1}'])
def test_does_not_remove_what_has_replaced_it(tmp_path, content):
    path = written(tmp_path)
    path.write_text(content)
    scheduler_file.remove(str(path), IDENTITY)
    assert path.read_text() == content


def test_does_not_remove_a_link_that_has_replaced_it(tmp_path):
    path = written(tmp_path)
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    scheduler_file.remove(str(path), IDENTITY)
    assert path.is_symlink()


# -- What may be anything. -----------------------------------------------------------


def make_fifo(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(path))  # such names must be short


SPECIAL = [
    (make_fifo, "a named pipe"),
    (make_socket, "a socket"),
    (lambda path: path.mkdir(), "a directory"),
    (lambda path: path.symlink_to("/dev/null"), "a device"),
]


@pytest.mark.parametrize("make, kind", SPECIAL)
def test_only_files_are_read(tmp_path, monkeypatch, make, kind):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "scheduler.json")
    with pytest.raises(SchedulerFileError, match=r"scheduler\.json") as caught:
        scheduler_file.read(str(tmp_path / "scheduler.json"))
    assert not caught.value.may_pass
    if kind not in ("a socket", "a directory"):  # these can't be opened in the first place
        assert f"is {kind}, not a scheduler file" in str(caught.value)


@pytest.mark.parametrize("make, kind", [*SPECIAL[:3], (SPECIAL[3][0], "a symbolic link")])
def test_only_files_are_replaced(tmp_path, monkeypatch, make, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "scheduler.json"
    make(path)
    before = path.lstat()
    with pytest.raises(SchedulerFileError, match=f"it is {kind}, which is left as it is"):
        written(tmp_path)
    assert path.lstat() == before


def test_links_to_files_are_not_replaced(tmp_path):
    target = written(tmp_path).rename(tmp_path / "older.json")
    (tmp_path / "scheduler.json").symlink_to(target)
    with pytest.raises(SchedulerFileError, match="a symbolic link, which is left as it is"):
        written(tmp_path)
    assert scheduler_file.read(str(tmp_path / "scheduler.json")).address == ADDRESS


@pytest.mark.parametrize(
    "content", ["x,y\n1,2\n", '{"address": "12 High Street"}', "[1]", "\0\1\2", "[" * 100_000]
)
def test_data_are_not_replaced(tmp_path, content):
    path = tmp_path / "scheduler.json"
    path.write_text(content)
    with pytest.raises(SchedulerFileError, match="is not a scheduler file, and is left as it is"):
        written(tmp_path)
    assert path.read_text() == content


def test_what_is_large_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "scheduler.json"
    with path.open("w") as file:
        file.write(json.dumps(IDENTITY))
        file.truncate(1 << 40)
    for act in (lambda: scheduler_file.read(str(path))), (lambda: written(tmp_path)):
        with pytest.raises(SchedulerFileError, match="is not a scheduler file"):
            act()


def test_stale_and_empty_files_are_replaced(tmp_path):
    (tmp_path / "scheduler.json").touch()
    written(tmp_path)
    assert written(tmp_path).read_text()


def test_file_of_a_plain_scheduler_is_replaced(tmp_path):
    async def leave_file():
        given = {"dashboard": False, "dashboard_address": ":0", "host": "127.0.0.1"}
        async with Scheduler(scheduler_file=str(tmp_path / "scheduler.json"), **given):
            content = (tmp_path / "scheduler.json").read_text()
        (tmp_path / "scheduler.json").write_text(content)

    asyncio.run(leave_file())
    assert json.loads(written(tmp_path).read_text()) == IDENTITY


@pytest.mark.parametrize("folder", ["nonesuch", "file"])
def test_a_missing_folder_is_named(tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(SchedulerFileError) as caught:
        written(tmp_path / folder)
    assert str(caught.value).endswith(f"there is no folder {tmp_path / folder}")


# -- Who may have written it. --------------------------------------------------------


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_files_that_others_may_write_are_refused(tmp_path, mode):
    path = written(tmp_path)
    path.chmod(mode)
    with pytest.raises(SchedulerFileError, match=f"chmod go-w {path}") as caught:
        mpidask.connection(path)
    assert not caught.value.may_pass
    assert "trust_scheduler_file" in str(caught.value)
    assert mpidask.connection(path, trust_scheduler_file=True) == {"address": ADDRESS}


@pytest.mark.parametrize("through", ["itself", "a link of one's own"])
def test_files_of_others_are_refused(tmp_path, monkeypatch, through):
    path = written(tmp_path)
    name = path
    if through != "itself":
        name = tmp_path / "link"
        name.symlink_to(path)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    if owner == 0:
        assert mpidask.connection(name) == {"address": ADDRESS}  # root's: believed
        os.chown(path, STRANGER + 1, -1)
    with pytest.raises(SchedulerFileError, match="belongs to user") as caught:
        mpidask.connection(name)
    assert not caught.value.may_pass
    assert "trust_scheduler_file" in str(caught.value)
    assert mpidask.connection(name, trust_scheduler_file=True) == {"address": ADDRESS}


def test_files_of_others_are_not_replaced(tmp_path, monkeypatch):
    path = written(tmp_path)
    before = path.read_text()
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    with pytest.raises(SchedulerFileError, match="the file there belongs to user"):
        written(tmp_path)
    assert path.read_text() == before


# -- A file system that hangs. ---------------------------------------------------------


def test_a_file_that_hangs_is_not_read_again_and_again(monkeypatch):
    answer, reads = threading.Event(), []

    def read(path, trust):
        reads.append(path)
        answer.wait(30)
        return ConnectionInfo(path)

    monkeypatch.setattr(scheduler_file, "read", read)

    async def test():
        for _ in range(3):
            with pytest.raises(SchedulerFileError, match="does not answer") as caught:
                await scheduler_file._read_in_time("file", 0.05, trust=False)
            assert caught.value.may_pass
        answer.set()
        return await scheduler_file._read_in_time("file", 30, trust=False)

    assert asyncio.run(test()) == ConnectionInfo("file")
    assert reads == ["file"]
    assert not scheduler_file._reading


def test_errors_of_the_file_come_through(tmp_path):
    with pytest.raises(SchedulerFileError, match="there is no scheduler file"):
        asyncio.run(scheduler_file._read_in_time(str(tmp_path / "nonesuch"), 30, trust=False))
    assert not scheduler_file._reading
