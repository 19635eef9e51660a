"""What is said of uses of a cluster that an MPI job could not repeat."""

from __future__ import annotations

import logging
import sys

import pytest

from mpidask._lifecycle import single_use


@pytest.mark.parametrize("interactive", [False, True])
def test_a_second_cluster_is_warned_of_once_and_not_in_a_notebook(caplog, monkeypatch, interactive):
    monkeypatch.setattr(single_use, "_warned", False)
    monkeypatch.setattr(single_use, "_would_have_left", True)
    if interactive:
        monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    else:
        monkeypatch.delattr(sys, "ps1", raising=False)
    with caplog.at_level(logging.WARNING, "mpidask"):
        single_use.warn_if_only_local()
        single_use.warn_if_only_local()
    assert len(caplog.records) == (0 if interactive else 1)
