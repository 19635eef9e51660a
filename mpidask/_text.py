"""Parts of messages: ranks, lists, errors, calls, numbers."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Sequence
from types import FrameType

#: How many ranks a message lists.
_RANKS = 20


def name_rank(rank: int, host: str | None) -> str:
    """Name a rank and, if known, its host."""
    return f"rank {rank} on {host}" if host else f"rank {rank}"


def name_this_rank(rank: int) -> str:
    """Name the rank of this process, with its host."""
    return name_rank(rank, socket.gethostname())


def name_ranks(ranks: Iterable[int]) -> str:
    """Name ranks by their numbers."""
    listed = list(ranks)
    return f"rank{'s' if len(listed) != 1 else ''} {list_ranks(listed, str)}"


def list_ranks(ranks: Iterable[int], name: Callable[[int], str]) -> str:
    """List ranks, each named by a function, at most 20 of them."""
    listed = sorted(ranks)
    return and_more([name(rank) for rank in listed[:_RANKS]], len(listed))


def and_more(items: Sequence[str], total: int, separator: str = ", ") -> str:
    """List the first few of several items, and how many there are besides.

    Examples
    --------
    >>> and_more(["a", "b"], 5), and_more(["a", "b"], 5, "; "), and_more(["a", "b"], 2)
    ('a, b and 3 more', 'a; b; and 3 more', 'a, b')
    """
    shown, more = separator.join(items), total - len(items)
    return f"{shown}{separator.rstrip(', ')} and {more} more" if more > 0 else shown


def count(number: int, noun: str) -> str:
    """Return "1 node", or "2 nodes"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def describe(error: BaseException | None) -> str:
    """Return the type of an error and its message."""
    return f"{type(error).__name__}: {error}"


def call_in(frame: FrameType) -> str:
    """Return the function that a frame executes, such as "main() (program.py:12)"."""
    return f"{frame.f_code.co_name}() ({line_in(frame)})"


def line_in(frame: FrameType) -> str:
    """Return the line that a frame executes, such as "program.py:12"."""
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


def printable(text: str) -> str:
    """Replace line breaks, escape sequences and the like by spaces."""
    return "".join(one if one.isprintable() else " " for one in text)


def duration(seconds: float) -> str:
    """Format a time with its two largest units.

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
    """Format how often something happens, per second, minute or hour.

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
