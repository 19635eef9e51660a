"""The scheduler file: written whole, for its owner alone, and read with clear errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from distributed import Security

import mpidask
from mpidask import SchedulerFileError, _scheduler_file
from mpidask._agreement import Cluster

ADDRESS = "tls://10.0.0.1:8786"


def written(tmp_path, security=None):
    path = tmp_path / "scheduler.json"
    _scheduler_file.write(str(path), {"address": ADDRESS}, Cluster(ADDRESS, security))
    return path


def test_round_trip_with_credentials(tmp_path):
    security = Security.temporary()
    path = written(tmp_path, security)
    assert path.stat().st_mode & 0o777 == 0o600
    cluster = _scheduler_file.read(str(path))
    assert cluster.address == ADDRESS
    for role in ("client", "scheduler", "worker"):
        theirs = cluster.security.get_tls_config_for_role(role)
        assert theirs == security.get_tls_config_for_role(role)
    assert cluster.security.require_encryption
    assert set(mpidask.connection(path)) == {"address", "security"}


def test_without_credentials_it_is_as_distributed_writes_it(tmp_path):
    path = written(tmp_path)
    path.chmod(0o644)  # nothing secret in it
    assert mpidask.connection(path) == {"address": ADDRESS}
    assert json.loads(path.read_text()) == {"address": ADDRESS}


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

    monkeypatch.setattr(_scheduler_file.json, "dump", fail)
    with pytest.raises(OSError, match="disk full"):
        written(tmp_path)
    assert json.loads(path.read_text()) == {"address": ADDRESS}
    assert list(tmp_path.iterdir()) == [path]


def test_credentials_that_others_can_read_are_refused(tmp_path):
    path = written(tmp_path, Security.temporary())
    path.chmod(0o640)
    with pytest.raises(SchedulerFileError, match=f"chmod 600 {path}") as caught:
        _scheduler_file.read(str(path))
    assert not caught.value.may_pass


@pytest.mark.parametrize("content", ["", '{"address": "tls', "[1]", "3", "{}", "null"])
def test_what_is_no_scheduler_file_may_become_one(tmp_path, content):
    path = tmp_path / "scheduler.json"
    path.write_text(content)
    with pytest.raises(SchedulerFileError, match="is not a scheduler file") as caught:
        _scheduler_file.read(str(path))
    assert caught.value.may_pass
    assert str(path) in str(caught.value)


def test_missing_and_unreadable(tmp_path):
    with pytest.raises(SchedulerFileError, match="there is no scheduler file") as caught:
        _scheduler_file.read(str(tmp_path / "nonesuch"))
    assert caught.value.may_pass
    with pytest.raises(SchedulerFileError, match="can't read") as caught:
        _scheduler_file.read(str(tmp_path))
    assert not caught.value.may_pass


def test_removes_only_its_own(tmp_path):
    path = written(tmp_path)
    _scheduler_file.remove(str(path), Cluster("tls://10.0.0.9:1"))
    assert path.exists()
    _scheduler_file.remove(str(path), Cluster(ADDRESS))
    assert not path.exists()
    _scheduler_file.remove(str(path), Cluster(ADDRESS))  # gone already
