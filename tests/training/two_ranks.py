"""What each of two processes does for `test_parallel.py`."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from tests.tiny import SPECIAL, small_run, tiny_batch, tiny_bridge, tiny_config
from valor.config import evolve
from valor.data.collate import batch_of, collate_training, tensors_of
from valor.data.manifest import Record, read_manifest
from valor.data.mixture import step_rows
from valor.models.bridge import Bridge
from valor.models.valor import Valor
from valor.objectives import self_critical
from valor.objectives.alignment import AlignmentConfig
from valor.objectives.answering import AnsweringConfig
from valor.objectives.captioning import CaptioningConfig
from valor.objectives.distillation import DistillationConfig
from valor.objectives.masked_language import MaskedLanguageConfig
from valor.objectives.matching import MatchingConfig
from valor.objectives.self_critical import SelfCriticalConfig, write
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
from valor.types import Batch, Modality, TextBatch

OBJECTIVES = ObjectivesConfig(answering=AnsweringConfig())
VISION, AUDIO, TEXT = Modality.VISION, Modality.AUDIO, Modality.TEXT
PAIRS = ((VISION, AUDIO), (VISION | TEXT, AUDIO), (AUDIO | TEXT, VISION))
ALONE = ObjectivesConfig(alignment=None, captioning=None)
LEARNED = {
    "softmax": OBJECTIVES,
    "sigmoid and words": ObjectivesConfig(
        alignment=AlignmentConfig(loss="sigmoid", pairs=PAIRS),
        captioning=None,
        masked_language=MaskedLanguageConfig(),
    ),
    "volume and distillation": ObjectivesConfig(
        alignment=AlignmentConfig(loss="volume", pairs=PAIRS),
        captioning=None,
        distillation=DistillationConfig(),
    ),
    "reward": replace(ALONE, self_critical=SelfCriticalConfig(num_samples=2, max_tokens=5)),
    "bridge": replace(ALONE, captioning=CaptioningConfig()),
    "matching": replace(ALONE, matching=MatchingConfig()),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """How two processes share a step."""

    how: str
    learned: str = "softmax"
    num_first: int = 3
    """Rows of the first one."""
    num_rows: int = 5
    micro_batch: int | None = None


CASES = {
    "ddp, no sound on rank 1": Case(how="ddp"),
    "fsdp, no sound on rank 1": Case(how="fsdp"),
    "ddp, nothing on rank 1, some rows at a time": Case(how="ddp", num_first=5, micro_batch=2),
    "fsdp, nothing on rank 1, some rows at a time": Case(how="fsdp", num_first=5, micro_batch=2),
}
CASES |= {
    f"{learned}, {how}, {micro_batch or 'all'} rows at a time": Case(
        how=how, learned=learned, micro_batch=micro_batch
    )
    for learned in ("sigmoid and words", "volume and distillation", "reward", "bridge")
    for how in ("ddp", "fsdp")
    for micro_batch in (None, 2)
}
# With two rows each, nothing is drawn: there is one wrong item for each.
CASES |= {
    f"matching, {how}": Case(how=how, learned="matching", num_first=2, num_rows=4)
    for how in ("ddp", "fsdp")
}


def model_for(learned: str = "softmax", seed: int = 0) -> Valor | Bridge:
    """A model that can learn all of it, or one around a language model."""
    if learned == "bridge":
        return tiny_bridge()
    torch.manual_seed(seed)
    model = Valor(replace(tiny_config(), matches=True)).eval()
    model.add_bias(-10.0)
    return model


def reward(ids: Sequence[str], group: Modality, texts: TextBatch) -> np.ndarray:
    """Any function of the words alone."""
    words = texts.token_ids.masked_fill(~texts.valid, 0).sum(dim=1)
    return (words % 7 / 7).numpy()


@contextmanager
def nothing_drawn() -> Generator[None]:
    """Let a shorter text stand for one that is drawn, so that the loss depends on nothing else."""

    def shorter(decoder, memory, group, special, max_tokens, temperature=0.0):
        return write(decoder, memory, group, special, 2 if temperature else max_tokens)

    with patch.object(self_critical, "write", shorter):
        yield


def joined_batch(num_rows: int = 5) -> Batch:
    """Rows of which only the first three have sound and captions about it."""
    batch = tiny_batch(num_rows)
    batch.row_seeds = torch.arange(num_rows)
    batch.window_valid[3:] = False
    for texts in (batch.aligned_texts, batch.caption_texts):
        texts[Modality.AUDIO].valid[3:] = False
    return batch


def rows(whole: Batch, cut: slice) -> Batch:
    """Some rows, as a rank collates them: without what none of them has."""
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


def gradients(case: Case, out: Path) -> dict[str, object]:
    """Values and gradients of one step, then the weights and the state after another."""
    model, again = model_for(case.learned), case.micro_batch is not None
    compute = ComputeConfig(parallel=case.how, micro_batch=case.micro_batch, recompute_layers=again)
    criticised = reward if case.learned == "reward" else None
    shared = shared_losses(model, OBJECTIVES, SPECIAL, compute, criticised)
    cuts = slice(case.num_first), slice(case.num_first, case.num_rows)
    own = rows(joined_batch(case.num_rows), cuts[rank()])
    values = backward(found_terms(shared(own, LEARNED[case.learned])))
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


def main(folder: str, world: str) -> None:
    out = Path(folder)
    torch.set_num_threads(1)
    with joined(), nothing_drawn():
        for name, case in CASES.items():
            found = gradients(case, out / f"state of {name}")
            torch.save(found, out / f"{name} {rank()}.pt")
        config = evolve(small_run(), {"model.text.dropout": 0.0, "compute.parallel": "fsdp"})
        with seen() as ids:
            run(config, read_manifest(world, split="train"), out / "run")
        torch.save(ids, out / f"ids {rank()}.pt")
        for how in ("ddp", "fsdp"):
            run(sparse_run(how), sparse_records(world), out / f"sparse {how}")
