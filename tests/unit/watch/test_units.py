"""Numbers as people write them."""

from __future__ import annotations

import pytest

from mpidask._watch.task_counts import duration, rate


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
