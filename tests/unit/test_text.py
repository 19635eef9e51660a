"""Parts of messages."""

from __future__ import annotations

import pytest

from mpidask._text import and_more, count, duration, list_ranks, name_ranks, printable, rate


@pytest.mark.parametrize(
    "seconds, text",
    [
        (-3, "0 s"),
        (0, "0 s"),
        (0.4, "0 s"),
        (59.6, "1 min"),
        (60, "1 min"),
        (166, "2 min 46 s"),
        (3600, "1 h"),
        (3605, "1 h"),
        (7800, "2 h 10 min"),
        (93600, "1 d 2 h"),
        (86460, "1 d"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "per_second, text",
    [
        (0, "0/s"),
        (1234.5, "1234/s"),
        (41.3, "41/s"),
        (1, "1/s"),
        (2.54, "2.5/s"),
        (0.5, "30/min"),
        (0.02, "1.2/min"),
        (0.001, "3.6/h"),
        (0.00001, "0/h"),
    ],
)
def test_rate(per_second, text):
    assert rate(per_second) == text


def test_long_lists_are_cut():
    assert and_more(["a", "b"], 2, "; ") == "a; b"
    assert and_more(["a", "b"], 5, "; ") == "a; b; and 3 more"
    assert name_ranks([3]) == "rank 3"
    assert name_ranks(range(22)) == f"ranks {', '.join(map(str, range(20)))} and 2 more"
    assert list_ranks({2, 1}, "node{}".format) == "node1, node2"


def test_counts_and_control_characters():
    assert [count(number, "node") for number in (0, 1, 2)] == ["0 nodes", "1 node", "2 nodes"]
    assert printable("a\x1b[2J\nb") == "a [2J b"
