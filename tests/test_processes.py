"""What two processes tell each other, and that one alone waits for nobody."""

import json
from pathlib import Path

import pytest
import torch
from torch import distributed

from tests.ranks import run_two_ranks
from valor.processes import (
    device,
    first_rank_first,
    gather,
    joined,
    num_ranks,
    rank,
    share,
    summed,
    wait_for_all,
)


def as_rank(folder: str) -> None:
    out = Path(folder)
    with joined() as is_first:
        with first_rank_first():
            seen = (out / "written").exists()
            (out / "written").touch()
        with joined() as is_first_again:
            pass
        found = {
            "is_first": [is_first, is_first_again],
            "seen": seen,
            "place": [rank(), num_ranks()],
            "share": list(share("abcde")),
            "gather": gather({"rank": rank()}),
            "summed": summed([1.0, rank()]),
        }
        own = out / f"{rank()}.json"
    found["left"] = not distributed.is_initialized()
    own.write_text(json.dumps(found))


def test_two_processes_know_their_places_and_each_other(tmp_path):
    run_two_ranks(as_rank, tmp_path)
    found = [json.loads((tmp_path / f"{n}.json").read_text()) for n in range(2)]
    common = {"gather": [{"rank": 0}, {"rank": 1}], "summed": [2.0, 1.0], "left": True}
    assert found == [
        {"is_first": [True] * 2, "seen": False, "place": [0, 2], "share": list("ace"), **common},
        {"is_first": [False] * 2, "seen": True, "place": [1, 2], "share": list("bd"), **common},
    ]


def fail_as_second() -> None:
    with joined() as is_first:
        if not is_first:
            raise ValueError("the second rank fails")
        wait_for_all()


def test_a_rank_that_fails_ends_the_test_at_once_and_is_told():
    with pytest.raises(AssertionError, match="the second rank fails"):
        run_two_ranks(fail_as_second)


def test_one_process_alone_has_everything():
    with joined() as is_first, first_rank_first():
        wait_for_all()
        assert is_first
        assert not distributed.is_initialized()
    assert (rank(), num_ranks()) == (0, 1)
    assert share("abc") == "abc"
    assert gather("abc") == ["abc"]
    assert summed([1.0, 2.0]) == [1.0, 2.0]


@pytest.mark.parametrize(("place", "gpu"), [("0", 0), ("1", 1), ("2", 0)])
def test_more_processes_than_gpus_share_them(place, gpu, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", place)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device() == torch.device("cuda", gpu)
