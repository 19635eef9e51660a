"""Files with results for people."""

from __future__ import annotations

import os
import stat

import pytest

from mpidask._dask import output_file
from mpidask._errors import MPIDaskError


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
    output_file.check(str(tmp_path / "a" / "b.json"), "summary")
    assert os.listdir(tmp_path / "a") == []


def test_what_is_no_file_is_not_replaced(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path, "/dev/null"):
        with pytest.raises(MPIDaskError, match=r"the summary can't be written: .* is not a file"):
            output_file.check(str(path), "summary")
    assert fifo.is_fifo()


def test_check_finds_what_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in ("/proc/no/x.json", str(tmp_path / "file" / "x.json")):
        with pytest.raises(MPIDaskError, match="the summary can't be written"):
            output_file.check(path, "summary")
