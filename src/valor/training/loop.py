"""The one training loop, for pretraining and fine-tuning.

Everything random is a function of seed and step, so running the same command again goes on where
the last state was written, with exactly the batches and masks of an uninterrupted run.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from valor.checkpoints.folder import save_model
from valor.config import configclass, evolve, fingerprint, from_dict, to_json
from valor.data.collate import collate_training
from valor.data.manifest import Record
from valor.data.mixture import step_rng, step_rows
from valor.data.samples import SampleStore, load_store
from valor.errors import ConfigError, ManifestError
from valor.models.valor import Valor, ValorConfig
from valor.objectives.base import LossTerm
from valor.processing.processor import Processor, ProcessorConfig
from valor.processing.tokenizer import Tokenizer
from valor.training.monitor import Monitor, Report, silent
from valor.training.optim import OptimConfig, Optimizer
from valor.training.state import load_state, save_state
from valor.training.step import ObjectivesConfig, backward, loss_terms
from valor.types import Batch


@configclass
class TrainConfig:
    """A complete run."""

    model: ValorConfig = ValorConfig()
    processor: ProcessorConfig = ProcessorConfig()
    objectives: ObjectivesConfig = ObjectivesConfig()
    optim: OptimConfig = OptimConfig()
    batch_size: int = 64
    num_steps: int = 1000
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` takes bfloat16 where the processor multiplies matrices in it."""
    save_every: int = 200
    """Steps between two states on disk."""

    def __post_init__(self) -> None:
        """Reject sizes that do not fit together."""
        if min(self.batch_size, self.num_steps, self.save_every) < 1:
            raise ValueError("batch_size, num_steps and save_every must be at least 1")
        frames, vision = self.processor.frames, self.model.vision
        if frames.image_px != vision.image_px:
            raise ValueError(
                f"processor.frames.image_px={frames.image_px} "
                f"but model.vision.image_px={vision.image_px}"
            )
        sound, audio = self.processor.spectrogram, self.model.audio
        if (sound.num_mels, sound.hops_per_window) != (audio.num_mels, audio.hops_per_window):
            raise ValueError(
                f"processor.spectrogram gives {sound.num_mels} mels x {sound.hops_per_window} hops "
                f"but model.audio takes {audio.num_mels} x {audio.hops_per_window}"
            )
        if max(frames.num_bursts, sound.num_windows) > self.model.max_positions:
            raise ValueError(
                f"more bursts or windows than max_positions={self.model.max_positions}"
            )
        if 2 * self.processor.max_text_length + 1 > self.model.text.max_length:
            raise ValueError(
                f"a question and its answer, 2 x max_text_length={self.processor.max_text_length}, "
                f"exceed model.text.max_length={self.model.text.max_length}"
            )
        if frames.frames_per_burst % vision.frames_per_patch:
            raise ValueError("processor.frames.frames_per_burst is no multiple of a patch's frames")

    def run(self, records: Sequence[Record], out: Path, *, report: Report = silent) -> Path:
        """Train a model; see `run` of this module."""
        return run(self, records, out, report=report)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What `fit` needs to know of a run, whatever it trains."""

    model: nn.Module
    optim: OptimConfig
    num_steps: int
    save_every: int
    """Steps between two states on disk."""
    seed: int
    losses: Callable[[int], dict[str, LossTerm]]
    """The loss terms of a step, which depend on step, weights and torch's random numbers alone."""


def run(
    config: TrainConfig, records: Sequence[Record], out: Path, *, report: Report = silent
) -> Path:
    """Train a model, or go on with a run that was stopped.

    Args:
        config: The complete run.
        records: Training data.
        out: Run folder; made if needed.
        report: Told about progress in stages `prepare` and `train`.

    Returns:
        The model folder, `out/model`.

    Raises:
        ConfigError: If the folder holds a run of another configuration.
        ManifestError: If no record can be read, or two have the same id.
    """
    if not any(record.captions or record.questions for record in records):
        raise ManifestError(
            f"none of {len(records)} records has a caption or a question to train on"
        )
    counts = Counter(record.id for record in records)
    if len(counts) < len(records):
        twice, count = counts.most_common(1)[0]
        raise ManifestError(f"id {twice!r} stands {count} times in the data; make ids unique")
    claim(out, config, records)
    processor = _processor(config, records)
    model_config = evolve(config.model, {"text.vocab_size": processor.tokenizer.vocab_size})
    store = load_store(
        records, processor, out / "cache", progress=lambda *done: report("prepare", *done)
    )
    if not len(store):
        raise ManifestError(f"none of {len(records)} records can be read: {store.bad}")
    torch.manual_seed(config.seed)
    model = Valor(model_config).to(_dtype(config.precision))
    special = processor.tokenizer.special

    def losses(step: int) -> dict[str, LossTerm]:
        batch = _batch(config, store, processor, step)
        return loss_terms(model, batch, config.objectives, special)

    task = Task(
        model=model,
        optim=config.optim,
        num_steps=config.num_steps,
        save_every=config.save_every,
        seed=config.seed,
        losses=losses,
    )
    weights = fit(task, out, report=report)
    card = _card(config, store)
    save_model(out / "model", model_config, weights, processor, card=card)
    return out / "model"


def fit(task: Task, out: Path, *, report: Report = silent) -> dict[str, Tensor]:
    """Train any model, or go on with a run that was stopped.

    Args:
        task: Model and losses.
        out: Run folder, which holds `state/` and `metrics.jsonl`; claimed before.
        report: Told about progress in stage `train`.

    Returns:
        All weights by name, in float32.
    """
    optimizer = Optimizer(task.model, task.optim, task.num_steps)
    start = load_state(out / "state", optimizer)
    task.model.train()
    with closing(Monitor(out / "metrics.jsonl", first_step=start)) as monitor:
        for step in range(start, task.num_steps):
            torch.manual_seed(task.seed * 1_000_003 + step)
            values = backward(task.losses(step))
            values["grad_norm"] = optimizer.step(step)
            values["learning_rate"] = optimizer.learning_rate(step)
            monitor.log(step, values)
            report("train", step + 1, task.num_steps)
            if (step + 1) % task.save_every == 0 or step + 1 == task.num_steps:
                save_state(out / "state", optimizer, next_step=step + 1)
    return optimizer.weights


def claim(out: Path, config: object, data: Sequence[object]) -> None:
    """Make the run folder, or check that it is a run of the same configuration and data.

    Args:
        out: Run folder.
        config: Of the run.
        data: What it learns from.

    Raises:
        ConfigError: If the folder holds another run.
    """
    out.mkdir(parents=True, exist_ok=True)
    path, stamp = out / "config.json", out / "data.sha256"
    digest = hashlib.sha256(repr(data).encode()).hexdigest() + "\n"
    if path.is_file():
        found = from_dict(type(config), json.loads(path.read_text("utf-8")), where=str(path))
        if found != config:
            raise ConfigError(
                f"{out} holds run {fingerprint(found)}, not {fingerprint(config)}; "
                "choose another --out, or delete the folder"
            )
        if stamp.read_text("utf-8") != digest:
            raise ConfigError(f"{out} holds a run on other data; choose another --out")
    else:
        stamp.write_text(digest, encoding="utf-8")
        path.write_text(to_json(config), encoding="utf-8")


def _processor(config: TrainConfig, records: Sequence[Record]) -> Processor:
    """Learn the vocabulary from the training texts; the same records give the same one."""
    texts = {caption.text for record in records for caption in record.captions}
    for record in records:
        for question in record.questions:
            texts |= {question.text, *question.answers}
    tokenizer = Tokenizer.train(texts, vocab_size=config.model.text.vocab_size)
    return Processor(config.processor, tokenizer)


def _dtype(precision: str) -> torch.dtype:
    if precision == "auto":
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def _batch(config: TrainConfig, store: SampleStore, processor: Processor, step: int) -> Batch:
    rows = step_rows(num_rows=len(store), batch_size=config.batch_size, seed=config.seed, step=step)
    rng = step_rng(seed=config.seed, step=step)
    samples = [store[int(row)] for row in rows]
    batch = collate_training(samples, [store.records[int(row)] for row in rows], processor, rng)
    dtype = _dtype(config.precision)
    batch.pixels = None if batch.pixels is None else batch.pixels.to(dtype)
    batch.spectrograms = None if batch.spectrograms is None else batch.spectrograms.to(dtype)
    return batch


def _card(config: TrainConfig, store: SampleStore) -> str:
    return (
        "---\nlibrary_name: valor\nlicense: mit\npipeline_tag: feature-extraction\n---\n"
        f"# VALOR, run {fingerprint(config)}\n\n"
        f"Trained for {config.num_steps} steps of {config.batch_size} on {len(store)} recordings "
        f"({len(store.bad)} unreadable).\n"
    )
