"""What each of two processes does for `test_parallel.py`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch

from tests.tiny import SPECIAL, small_run, tiny_batch, tiny_model
from valor.config import evolve
from valor.data.collate import batch_of, collate_training, tensors_of
from valor.data.manifest import Record, read_manifest
from valor.data.mixture import step_rows
from valor.objectives.answering import AnsweringConfig
from valor.processes import joined, rank
from valor.training.optim import OptimConfig, Optimizer
from valor.training.parallel import complete
from valor.training.run import TrainConfig, run
from valor.training.state import States
from valor.training.step import (
    ComputeConfig,
    ObjectivesConfig,
    backward,
    found_terms,
    shared_losses,
)
from valor.types import Batch, Modality

OBJECTIVES = ObjectivesConfig(answering=AnsweringConfig())
CASES = {
    "ddp, no sound on rank 1": ("ddp", slice(3), None),
    "fsdp, no sound on rank 1": ("fsdp", slice(3), None),
    "ddp, nothing on rank 1, some rows at a time": ("ddp", slice(5), 2),
    "fsdp, nothing on rank 1, some rows at a time": ("fsdp", slice(5), 2),
}
"""How weights are shared, the rows of rank 0, and rows at a time."""


def joined_batch() -> Batch:
    """Five rows, of which only the first three have sound and captions about it."""
    batch = tiny_batch(5)
    batch.row_seeds = torch.arange(5)
    batch.window_valid[3:] = False
    for texts in (batch.aligned_texts, batch.caption_texts):
        texts[Modality.AUDIO].valid[3:] = False
    return batch


def rows(cut: slice) -> Batch:
    """Some rows, as a rank collates them: without what none of them has."""
    whole = joined_batch()
    batch = batch_of(whole.ids[cut], {place: x[cut] for place, x in tensors_of(whole).items()})
    if batch.window_valid.any():
        return batch
    alone = replace(batch, spectrograms=None, window_valid=None)
    for texts in (alone.aligned_texts, alone.caption_texts):
        del texts[Modality.AUDIO]
    if not batch.ids:
        alone = Batch(
            ids=[], pixels=None, frame_valid=None, spectrograms=None, window_valid=None,
            row_seeds=batch.row_seeds,
        )  # fmt: skip
    return alone


def gradients(how: str, first: slice, micro_batch: int | None, out: Path) -> dict[str, object]:
    """Values and gradients of one step, then the weights and the state after another."""
    model = tiny_model()
    again = micro_batch is not None
    compute = ComputeConfig(parallel=how, micro_batch=micro_batch, recompute_layers=again)
    shared = shared_losses(model, OBJECTIVES, SPECIAL, compute)
    own = first if rank() == 0 else slice(first.stop, 5)
    values = backward(found_terms(shared(rows(own))))
    found = {n: complete(p.grad).clone() for n, p in model.named_parameters() if p.grad is not None}
    optimizer = Optimizer(model, OptimConfig(), num_steps=10)
    norms = optimizer.step(0)
    states = States(out, optimizer)
    states.save(next_step=1)
    states.close()
    return {"values": values, "gradients": found, "norms": norms, "weights": optimizer.weights}


def sparse_run(how: str = "ddp") -> TrainConfig:
    """Answers alone, of which most steps have none."""
    changes = {"objectives.alignment": None, "objectives.captioning": None, "save_every": 1}
    changes |= {"batch_size": 2, "model.text.dropout": 0.0, "compute.parallel": how}
    return evolve(small_run(), changes)


def sparse_records(world: str | Path) -> list[Record]:
    """Records whose questions are seen in the first and the third step alone, by rank 0 alone."""
    records = read_manifest(world, split="train")
    asked = [int(step_rows(num_rows=len(records), batch_size=2, seed=0, step=n)[0]) for n in (0, 2)]
    return [r if row in asked else replace(r, questions=()) for row, r in enumerate(records)]


@contextmanager
def seen() -> Iterator[dict[int, list[str]]]:
    """Ids of the rows that this process is given at each step, in their order."""
    ids: dict[int, list[str]] = {}

    def collate(samples, records, processor, *, step, **options):
        ids[step] = [record.id for record in records]
        return collate_training(samples, records, processor, step=step, **options)

    with patch("valor.training.run.collate_training", collate):
        yield ids


def main(out: Path, world: str) -> None:
    torch.set_num_threads(1)
    with joined():
        for name, (how, first, micro_batch) in CASES.items():
            found = gradients(how, first, micro_batch, out / f"state of {name}")
            torch.save(found, out / f"{name} {rank()}.pt")
        config = evolve(small_run(), {"model.text.dropout": 0.0, "compute.parallel": "fsdp"})
        with seen() as ids:
            run(config, read_manifest(world, split="train"), out / "run")
        torch.save(ids, out / f"ids {rank()}.pt")
        for how in ("ddp", "fsdp"):
            run(sparse_run(how), sparse_records(world), out / f"sparse {how}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
