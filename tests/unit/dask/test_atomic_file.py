"""Files that are written in one go."""

from __future__ import annotations

import os
import re
import stat
import threading

import pytest

from mpidask._dask import atomic_file
from mpidask._dask.atomic_file import AtomicFile
from mpidask._errors import MPIDaskError


def file(path):
    return AtomicFile(str(path), "summary", re.compile(rb"version \d").match)


def test_written_as_other_files_of_the_user_are(tmp_path):
    path = tmp_path / "job.json"
    other = tmp_path / "other"
    other.write_text("")
    file(path).write(b"version 1")
    file(path).write(b"version 2")
    assert path.read_text() == "version 2"
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["job.json", "other"]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    file(tmp_path / "link").write(b"text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "text"


def test_a_temporary_file_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    report = AtomicFile(str(path), "report", lambda content: True)
    with pytest.raises(LookupError), report._temporary() as name:  # noqa: PT012
        assert name.endswith("report.html")
        open(name, "w").close()
        raise LookupError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]


def test_check_makes_the_directory_and_nothing_else(tmp_path):
    file(tmp_path / "a" / "b.json").prepare()
    assert os.listdir(tmp_path / "a") == []


def test_what_is_no_file_is_not_replaced(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path, "/dev/null"):
        with pytest.raises(
            MPIDaskError,
            match=r"the summary can't be written: .*: it is a .*, which is left as it is",
        ):
            file(path).prepare()
    assert fifo.is_fifo()


def test_check_finds_what_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in ("/proc/no/x.json", tmp_path / "file" / "x.json"):
        with pytest.raises(MPIDaskError, match="the summary can't be written"):
            file(path).prepare()


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "a version 1", "\0"])
def test_what_is_another_file_is_not_replaced(tmp_path, content):
    path = tmp_path / "data.csv"
    summary = file(path)
    summary.prepare()
    path.write_text(content)
    with pytest.raises(
        MPIDaskError, match=r"data\.csv: the file there is not a summary, and is left"
    ):
        summary.prepare()
    with pytest.raises(OSError, match="is left as it is"):  # it came after the start
        summary.write(b"version 1")
    assert path.read_text() == content
    assert os.listdir(tmp_path) == ["data.csv"]


def test_a_write_protected_file_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "job.json"
    path.write_text("")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write all
    with pytest.raises(MPIDaskError, match=r"job\.json: it is write-protected"):
        file(path).prepare()


def test_a_file_system_that_hangs_is_named(tmp_path, monkeypatch):
    hang = threading.Event()
    monkeypatch.setattr(atomic_file, "ANSWER_TIMEOUT", 0.2)
    monkeypatch.setattr(os, "makedirs", lambda *args, **kwargs: hang.wait())
    with pytest.raises(MPIDaskError, match=r"file system of .* does not answer within 0.2 s"):
        file(tmp_path / "job.json").prepare()
    hang.set()
