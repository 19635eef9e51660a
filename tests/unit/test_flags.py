"""The options as flags of a command line, made from their declaration."""

from __future__ import annotations

import dataclasses

import click
import pytest

from mpidask import cli
from mpidask._flags import flags, given
from mpidask._options import Options

#: Flags of the command that are none of the options.
NO_OPTIONS = {"scheduler", "diagnose"}


def test_every_option_has_a_flag():
    names = {flag.name for flag in flags()}
    assert names == {field.name for field in dataclasses.fields(Options)} - {"comm", "exit"}
    assert {flag.name for flag in flags(leave_out={"name"})} == names - {"name"}


def test_defaults_are_left_to_the_declaration():
    context = click.Context(cli.main)
    cli.main.parse_args(context, [])
    assert given({k: v for k, v in context.params.items() if k not in NO_OPTIONS}) == {}


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--nthreads", "3"], "nthreads", 3),
        (["--nthreads", "auto"], "nthreads", "auto"),
        (["--wait-for-workers", "2"], "wait_for_workers", 2),
        (["--wait-for-workers", "False"], "wait_for_workers", False),
        (["--inclusive-workers"], "exclusive_workers", False),
        (["--no-nanny"], "nanny", False),
        (
            ["--worker-options", '{"resources": {"GPU": 1}}'],
            "worker_options",
            {"resources": {"GPU": 1}},
        ),
        (["--scheduler-rank", "2"], "scheduler_rank", 2),
        (["--memory-limit", "4 GiB"], "memory_limit", "4 GiB"),
    ],
)
def test_flags_give_what_options_take(arguments, name, value):
    context = click.Context(cli.main)
    cli.main.parse_args(context, arguments)
    found = given({k: v for k, v in context.params.items() if k not in NO_OPTIONS})
    assert found == {name: value}
    assert getattr(Options.resolve(found), name) == value


def test_help_stands_in_groups():
    text = cli.main.get_help(click.Context(cli.main))
    places = [text.index(f"\n{group}:") for group in ("Roles", "Network and security", "Workers")]
    assert places == sorted(places)
    assert text.index("--nthreads") > text.index("\nWorkers:")


def test_a_digit_that_is_no_number_is_left_to_the_check():
    assert given({"nthreads": "²"}) == {"nthreads": "²"}
    with pytest.raises(TypeError, match="option nthreads='²' must be"):
        Options.resolve(given({"nthreads": "²"}))
