"""What `submit_mpi` and `PerRank` accept, without MPI."""

from __future__ import annotations

import pickle

import dask.array as da
import numpy as np
import pytest

from mpidask import NotEnoughRanksError, PerRank
from mpidask._gang.protocol import WorkerRanks
from mpidask._gang.submit import _wanted

RANKS = WorkerRanks((2, 3, 4))


def test_ranks_are_a_number_or_a_list():
    assert _wanted(2, None, RANKS) == 2
    assert _wanted(np.int64(2), None, RANKS) == 2
    assert _wanted(None, None, RANKS) == (2, 3, 4)
    assert _wanted(None, 2, RANKS) == 2
    for ranks in ([4, 2], (4, 2), np.array([4, 2])):
        assert _wanted(ranks, None, RANKS) == (4, 2)


@pytest.mark.parametrize("ranks", [2.0, "2", True, [2.0]])
def test_ranks_that_cannot_be(ranks):
    with pytest.raises(TypeError, match="whole numbers"):
        _wanted(ranks, None, RANKS)


def test_more_ranks_than_there_are():
    with pytest.raises(NotEnoughRanksError, match="asked for 4 ranks"):
        _wanted(4, None, RANKS)


def test_pieces_inside_another_argument_are_not_sent():
    with pytest.raises(TypeError, match="can't be inside another one"):
        pickle.dumps([PerRank([1, 2])])


def test_the_pieces_of_a_collection_are_asked_for_by_name():
    with pytest.raises(TypeError, match="futures_of"):
        PerRank(da.ones(4, chunks=2))
