"""What front ends share."""

from __future__ import annotations

import pytest

from mpidask import MPIDaskError, cli
from mpidask._lifecycle import front_end
from mpidask._options import Options


def test_errors_of_use_are_told_from_those_of_ours():
    _, error = front_end._attempt(Options.resolve, {"nthreads": "many"}, {})
    assert isinstance(error, ValueError | TypeError) and front_end.is_usage_error(error)
    assert front_end.is_usage_error(MPIDaskError("no MPI"))
    assert not front_end.is_usage_error(TypeError("of ours"))


def test_the_command_shows_where_an_error_of_ours_was_raised(monkeypatch):
    def serve(options, front_end):
        raise TypeError("of ours")

    monkeypatch.setattr(cli, "serve", serve)
    with pytest.raises(TypeError, match="of ours"):
        cli.run(None, True, False)
