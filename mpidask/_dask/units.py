"""Numbers as people write them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Write a time with its two largest units.

    Examples
    --------
    >>> duration(9.4), duration(166), duration(7800), duration(93600)
    ('9 s', '2 min 46 s', '2 h 10 min', '1 d 2 h')
    """
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    rest = round(max(seconds, 0))
    largest = next((n for n, (size, _) in enumerate(units) if rest >= size), len(units) - 1)
    parts = []
    for size, name in units[largest : largest + 2]:
        count, rest = divmod(rest, size)
        parts.append((count, name))
    return " ".join(f"{count} {name}" for count, name in parts if count) or "0 s"


def rate(per_second: float) -> str:
    """Write how often something happens, per second, minute or hour.

    Examples
    --------
    >>> rate(41.3), rate(0.5), rate(0.001), rate(0)
    ('41/s', '30/min', '3.6/h', '0/s')
    """
    seconds, name = 1, "s"
    if 0 < per_second < 1:
        seconds, name = (60, "min") if per_second * 60 >= 1 else (3600, "h")
    value = per_second * seconds
    return f"{value:.0f}/{name}" if value >= 10 else f"{value:.1f}".removesuffix(".0") + f"/{name}"
