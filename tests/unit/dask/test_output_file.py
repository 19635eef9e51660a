"""Files with results for people."""

from __future__ import annotations

import os
import stat

import pytest

from mpidask._dask import output_file
from mpidask._dask.summary import BEGINNING
from mpidask._errors import MPIDaskError


def check(path):
    output_file.check(str(path), "summary", BEGINNING)


def test_written_as_other_files_of_the_user_are(tmp_path):
    path = tmp_path / "job.json"
    other = tmp_path / "other"
    other.write_text("")
    output_file.write(str(path), "one")
    output_file.write(str(path), "two")
    assert path.read_text() == "two"
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["job.json", "other"]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    output_file.write(str(tmp_path / "link"), "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "text"


def test_a_draft_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(LookupError), output_file.draft(str(path)) as name:  # noqa: PT012
        assert name.endswith("report.html")
        open(name, "w").close()
        raise LookupError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]


def test_check_makes_the_directory_and_nothing_else(tmp_path):
    check(tmp_path / "a" / "b.json")
    assert os.listdir(tmp_path / "a") == []


def test_what_is_no_file_is_not_replaced(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path, "/dev/null"):
        with pytest.raises(MPIDaskError, match=r"the summary can't be written: .* is not a file"):
            check(path)
    assert fifo.is_fifo()


def test_check_finds_what_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in ("/proc/no/x.json", str(tmp_path / "file" / "x.json")):
        with pytest.raises(MPIDaskError, match="the summary can't be written"):
            check(path)


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "{}", '{"schema": "x"}', "\0"])
def test_what_is_another_file_is_not_replaced(tmp_path, content):
    path = tmp_path / "data.csv"
    path.write_text(content)
    with pytest.raises(MPIDaskError, match=r"data\.csv is another file, and is left as it is"):
        check(path)
    assert path.read_text() == content


def test_a_write_protected_file_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "job.json"
    path.write_text("")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write all
    with pytest.raises(MPIDaskError, match=r"job\.json is write-protected"):
        check(path)
