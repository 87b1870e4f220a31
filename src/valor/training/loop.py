"""The one training loop, for pretraining and fine-tuning.

Everything random is a function of seed and step, so running the same command again goes on where
the last state was written, with exactly the batches and masks of an uninterrupted run.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

import torch

from valor.checkpoints.folder import save_model
from valor.config import configclass, evolve, fingerprint, from_dict, to_json
from valor.data.collate import collate_training
from valor.data.loader import Loader, ReadingConfig
from valor.data.manifest import Record
from valor.data.mixture import Mixture, sample_rng, step_rng, step_rows
from valor.data.reading import FileSource, Source
from valor.data.samples import SampleStore, load_store
from valor.errors import ConfigError, ManifestError
from valor.models.valor import Valor, ValorConfig
from valor.processing.processor import Processor, ProcessorConfig
from valor.processing.tokenizer import Tokenizer
from valor.training.monitor import Monitor, Report, silent
from valor.training.optim import OptimConfig, Optimizer
from valor.training.state import load_state, save_state
from valor.training.step import ObjectivesConfig, backward
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
    reading: ReadingConfig | None = None
    """How a random view of each sample is read at every step; None decodes media files once, as
    inference sees them, and reads shards at every step with the defaults."""

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


def run(
    config: TrainConfig,
    records: Sequence[Record],
    out: Path,
    *,
    source: Source | None = None,
    report: Report = silent,
) -> Path:
    """Train a model, or go on with a run that was stopped.

    Args:
        config: The complete run.
        records: Training data.
        out: Run folder; made if needed.
        source: Holds the samples of the records, row for row; None for their media files.
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
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, config, records)
    processor = _processor(config, records)
    model_config = evolve(config.model, {"text.vocab_size": processor.tokenizer.vocab_size})
    data = source if config.reading is None else source or FileSource(records)
    if data is None:
        data = load_store(
            records, processor, out / "cache", progress=lambda *done: report("prepare", *done)
        )
        if not len(data):
            raise ManifestError(f"none of {len(records)} records can be read: {data.bad}")
    torch.manual_seed(config.seed)
    model = Valor(model_config).to(_dtype(config.precision))
    optimizer = Optimizer(model, config.optim, config.num_steps)
    start = load_state(out / "state", optimizer)
    special = processor.tokenizer.special
    model.train()
    with (
        closing(Monitor(out / "metrics.jsonl", first_step=start)) as monitor,
        closing(_batches(config, data, processor, start)) as batches,
    ):
        for step, batch in enumerate(batches, start):
            torch.manual_seed(config.seed * 1_000_003 + step)
            values = backward(model, batch, config.objectives, special) if batch.ids else {}
            values |= {"left_out": n} if (n := config.batch_size - len(batch.ids)) else {}
            values["grad_norm"] = optimizer.step(step)
            values["learning_rate"] = optimizer.learning_rate(step)
            monitor.log(step, values)
            report("train", step + 1, config.num_steps)
            if (step + 1) % config.save_every == 0 or step + 1 == config.num_steps:
                save_state(out / "state", optimizer, next_step=step + 1)
    card = _card(config, data)
    save_model(out / "model", model_config, optimizer.masters, processor, card=card)
    return out / "model"


def _claim(out: Path, config: TrainConfig, records: Sequence[Record]) -> None:
    """Write configuration and data, or check that the folder is a run of the same ones."""
    path, data = out / "config.json", out / "data.sha256"
    digest = hashlib.sha256(repr(records).encode()).hexdigest() + "\n"
    if path.is_file():
        found = from_dict(TrainConfig, json.loads(path.read_text("utf-8")), where=str(path))
        if found != config:
            raise ConfigError(
                f"{out} holds run {fingerprint(found)}, not {fingerprint(config)}; "
                "choose another --out, or delete the folder"
            )
        if data.read_text("utf-8") != digest:
            raise ConfigError(f"{out} holds a run on other data; choose another --out")
    else:
        data.write_text(digest, encoding="utf-8")
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


def _batches(
    config: TrainConfig, data: SampleStore | Source, processor: Processor, start: int
) -> Generator[Batch]:
    """The batches of the steps from `start` on, in the precision of the run."""
    if isinstance(data, SampleStore):
        for step in range(start, config.num_steps):
            yield _cast(_batch(config, data, processor, step), config)
        return
    loader = Loader(
        sources=[data],
        mixture=Mixture([len(data)], batch_size=config.batch_size, seed=config.seed),
        processor=processor,
        config=config.reading or ReadingConfig(),
        seed=config.seed,
    )
    with closing(loader):
        for loaded in loader.steps(start, config.num_steps):
            rng = step_rng(seed=config.seed, step=loaded.step)
            rngs = [
                sample_rng(seed=config.seed, step=loaded.step, id=record.id, of_texts=True)
                for record in loaded.records
            ]
            batch = collate_training(loaded.samples, loaded.records, processor, rng, rngs)
            yield _cast(batch, config)


def _batch(config: TrainConfig, store: SampleStore, processor: Processor, step: int) -> Batch:
    rows = step_rows(num_rows=len(store), batch_size=config.batch_size, seed=config.seed, step=step)
    rng = step_rng(seed=config.seed, step=step)
    samples = [store[int(row)] for row in rows]
    return collate_training(samples, [store.records[int(row)] for row in rows], processor, rng)


def _cast(batch: Batch, config: TrainConfig) -> Batch:
    dtype = _dtype(config.precision)
    batch.pixels = None if batch.pixels is None else batch.pixels.to(dtype)
    batch.spectrograms = None if batch.spectrograms is None else batch.spectrograms.to(dtype)
    return batch


def _card(config: TrainConfig, data: SampleStore | Source) -> str:
    unreadable = f" ({len(data.bad)} unreadable)" if isinstance(data, SampleStore) else ""
    return (
        "---\nlibrary_name: valor\nlicense: mit\npipeline_tag: feature-extraction\n---\n"
        f"# VALOR, run {fingerprint(config)}\n\n"
        f"Trained for {config.num_steps} steps of {config.batch_size} on {len(data)} "
        f"recordings{unreadable}.\n"
    )
