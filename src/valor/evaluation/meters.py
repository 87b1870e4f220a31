"""Evaluation on several processes, as `torchrun` starts them: each reads its share of the records.

What they found is gathered whole, ordered by id and reduced once, so that the figures are those of
one process bit for bit, given the same vectors and texts, and no record is padded or counted twice.
"""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch.distributed as dist

Part = TypeVar("Part")


@contextmanager
def process_group() -> Generator[bool]:
    """Join the processes that `torchrun` has started, if it has.

    Yields:
        True in the process that writes and prints.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield _place()[0] == 0
        return
    dist.init_process_group("gloo")
    try:
        yield dist.get_rank() == 0
    finally:
        dist.destroy_process_group()


def share(rows: Sequence[Part]) -> Sequence[Part]:
    """This process's part of the rows; all of them where it is alone."""
    rank, num_processes = _place()
    return rows[rank::num_processes]


def gather(part: Part) -> list[Part]:
    """The parts of all processes, in every process."""
    num_processes = _place()[1]
    if num_processes == 1:
        return [part]
    parts: list[Any] = [None] * num_processes
    dist.all_gather_object(parts, part)  # pyright: ignore[reportUnknownMemberType]
    return parts


def _place() -> tuple[int, int]:
    """Rank of this process and number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1
