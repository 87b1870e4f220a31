"""The processes that `torchrun` starts: who is in which place, and what they tell each other.

One process alone shares nothing, and every function here then returns at once what it was given.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

Part = TypeVar("Part")
_LONGEST_WAIT = timedelta(hours=2)
"""For each other; the first rank may have to decode all media before the others can go on."""


@contextmanager
def joined() -> Iterator[bool]:
    """Join the processes that `torchrun` has started, if it has and nobody has joined them yet.

    Yields:
        True in the process that writes and prints.
    """
    if num_started() == 1 or _are_joined():
        yield rank() == 0
        return
    backend = "gloo"
    if device().type == "cuda":
        torch.cuda.set_device(device())
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=_LONGEST_WAIT)
    try:
        yield rank() == 0
    finally:
        distributed.destroy_process_group()


def device() -> torch.device:
    """What this process computes on; processes share a GPU where there are more of them."""
    if torch.cuda.is_available():
        place = int(os.environ.get("LOCAL_RANK", "0"))
        return torch.device("cuda", place % torch.cuda.device_count())
    return torch.device("cpu")


def num_started() -> int:
    """How many processes `torchrun` has started, joined or not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def num_ranks() -> int:
    """How many processes have joined."""
    return distributed.get_world_size() if _are_joined() else 1


def rank() -> int:
    """The number of this process; 0 writes what all have in common."""
    return distributed.get_rank() if _are_joined() else 0


def wait_for_all() -> None:
    """Return when every rank has come here."""
    if num_ranks() > 1:
        distributed.barrier()


@contextmanager
def first_rank_first() -> Iterator[None]:
    """Let the other ranks in when the first one is done, so that they find what it has written."""
    if rank() > 0:
        wait_for_all()
    yield
    if rank() == 0:
        wait_for_all()


def share(rows: Sequence[Part]) -> Sequence[Part]:
    """This rank's part of the rows; each row is in the part of one rank."""
    return rows[rank() :: num_ranks()]


def gather(part: Part) -> list[Part]:
    """What each rank has, in their order and on every rank."""
    parts: list[Any] = [part] * num_ranks()
    if num_ranks() > 1:
        distributed.all_gather_object(parts, part)
    return parts


def summed(values: Sequence[float]) -> list[float]:
    """Sums over all ranks."""
    if num_ranks() == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=device())
    distributed.all_reduce(total)
    return total.tolist()


def _are_joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()
