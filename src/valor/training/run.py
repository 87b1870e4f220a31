"""A complete run of VALOR, or of any system that learns from a manifest: pretraining, fine-tuning.

Everything random is a function of seed, step and sample, so running the same command again goes on
where the last state was written, with exactly the batches and masks of an uninterrupted run.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from valor.checkpoints.card import Origin, card, folder_origin, tower_origins
from valor.checkpoints.folder import save_model
from valor.config import configclass, evolve, fingerprint
from valor.data.collate import collate_training, placed
from valor.data.loader import Loader, ReadingConfig, refuse_many_bad
from valor.data.manifest import Record
from valor.data.mixture import Mixture, rows_of_parts
from valor.data.reading import FileSource, PartSource, Source
from valor.data.samples import SampleStore, load_store
from valor.errors import ConfigError, ManifestError, TrainingError
from valor.models.decoder import Decoder
from valor.models.valor import ValorConfig
from valor.objectives.self_critical import CiderReward
from valor.processes import device, first_rank_first, joined, num_ranks, rank, summed, wait_for_all
from valor.processing.processor import Processor, ProcessorConfig
from valor.training.adapt import AdaptConfig, adapt, merged
from valor.training.loop import Losses, StepLoss, Task, fit
from valor.training.monitor import Report, silent, write_run_page
from valor.training.optim import OptimConfig
from valor.training.parallel import come_to_rest
from valor.training.probe import HeldOut, Probe, ProbeConfig, measured_task
from valor.training.start import FolderConfig, StartConfig, TowersConfig, begin
from valor.training.state import claim, tidied
from valor.training.step import (
    ComputeConfig,
    ObjectivesConfig,
    PartConfig,
    found_terms,
    last_figures,
    shared_losses,
)
from valor.training.token_cache import TokenStore, load_tokens
from valor.types import MEDIA_GROUPS

_Read = SampleStore | TokenStore
"""Sources that have found out what can be read."""


@configclass
class TrainConfig:
    """A complete run."""

    model: StartConfig = ValorConfig()
    """What is trained: fresh weights, a model folder, or pretrained towers."""
    processor: ProcessorConfig = ProcessorConfig()
    """How recordings and texts become tensors; pretrained towers replace what they need
    otherwise."""
    objectives: ObjectivesConfig = ObjectivesConfig()
    """What is learned."""
    adapt: AdaptConfig = AdaptConfig()
    """Which weights are trained, and how."""
    optim: OptimConfig = OptimConfig()
    """Optimizer and schedule."""
    compute: ComputeConfig = ComputeConfig()
    """How a step is computed; may change when a run goes on."""
    mixture: tuple[PartConfig, ...] = ()
    """Parts of the data, of which each step sees one; () draws from all records alike."""
    batch_size: int = 64
    """Of all processes together."""
    num_steps: int = 1000
    """Updates of the weights."""
    num_epochs: int | None = None
    """Passes over the data, in the place of `num_steps`."""
    seed: int = 0
    """Of fresh weights, and of all that is drawn: samples, texts, masks, dropout."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` takes bfloat16 where the processor multiplies matrices in it. All of the model is then
    cast to it, which is no autocast; the optimizer works on float32 weights and moments."""
    save_every: int = 200
    """Steps between two states on disk."""
    max_skipped: int = 10
    """The run ends after so many steps in a row whose loss or gradient is not finite."""
    cache_frozen: bool = False
    """Run towers that are frozen once, on each sample as inference sees it, and keep their tokens
    in the run folder in float16."""
    cache_pool: int = 1
    """Neighbouring tokens of a frame or window that are kept as one, their mean, for so many times
    less disk. 1 keeps all: the decoder then sees what it would see without the cache."""
    probe: ProbeConfig = ProbeConfig()
    """Looks at held-out records, and early stopping."""
    reading: ReadingConfig | None = None
    """How a new view of each sample is read at every step. None decodes media files once, as
    inference sees them; shards are then read at every step with the defaults."""

    def __post_init__(self) -> None:
        """Reject sizes that do not fit together."""
        counts = self.batch_size, self.num_steps, self.save_every, self.max_skipped
        if min(*counts, self.num_epochs or 1) < 1:
            raise ValueError(
                "batch_size, num_steps, num_epochs, save_every and max_skipped must be at least 1"
            )
        if self.cache_pool < 1 or (self.cache_pool > 1 and not self.cache_frozen):
            raise ValueError(f"cache_pool={self.cache_pool} must be 1, or more with cache_frozen")
        if self.cache_frozen and self.reading and self.reading.augment:
            raise ValueError("cache_frozen needs one view of a sample; set reading.augment to null")
        if not isinstance(self.model, FolderConfig | TowersConfig):
            self.model.check(self.processor)

    def steps_on(self, num_records: int) -> int:
        """Steps of the run on so many records."""
        if self.num_epochs is None:
            return self.num_steps
        return math.ceil(self.num_epochs * num_records / self.batch_size)

    @property
    def objectives_by_part(self) -> list[ObjectivesConfig]:
        """What is learned from each part of the mixture, or from all records alike."""
        own = [part.objectives or self.objectives for part in self.mixture]
        return own or [self.objectives]

    def run(
        self,
        records: Sequence[Record],
        out: Path,
        *,
        source: Source | None = None,
        held_out: Source | None = None,
        report: Report = silent,
    ) -> Path:
        """Train a model; see `run` of this module."""
        return run(self, records, out, source=source, held_out=held_out, report=report)


def run(
    config: TrainConfig,
    records: Sequence[Record],
    out: Path,
    *,
    source: Source | None = None,
    held_out: Source | None = None,
    report: Report = silent,
) -> Path:
    """Train a model, or go on with a run that was stopped.

    Args:
        config: The complete run.
        records: Training data.
        out: Run folder; made if needed. Its page is `report.html`.
        source: Holds the samples of the records, row for row; None for their media files.
        held_out: What `config.probe` looks at.
        report: Told about progress in stages `prepare` and `train`.

    Returns:
        The model folder, which is `out/model`, or `out/best` of a run that looks at held-out
        records; its last weights are in `out/model` all the same.

    Raises:
        ConfigError: If the folder holds a run of another configuration, or parts of this one do
            not go together.
        ManifestError: If no record can be read, or two have the same id.
        ValorError: If more records are bad than `reading.max_bad_fraction`.
        TrainingError: If the run cannot go on; see `fit`.
    """
    with joined(), tidied(out):
        _check(config, records, source, held_out)
        if config.num_epochs is not None:
            steps = config.steps_on(len(records))
            config = evolve(config, {"num_steps": steps, "num_epochs": None})
        return _run(config, records, out, source, held_out, report)


def _run(
    config: TrainConfig,
    records: Sequence[Record],
    out: Path,
    source: Source | None,
    held_out: Source | None,
    report: Report,
) -> Path:
    """What each process does; the first one writes."""
    with first_rank_first():
        if rank() == 0:
            claim(out, config, records, may_change=("compute",))
        torch.manual_seed(config.seed)
        model, processor = begin(config.model, config.processor, records)
        _add_bias(model, config)
        _check_lengths(model, config)
        measured = deepcopy(model) if config.probe.every else None
        adapt(model, config.adapt)
        source = source or _source(config, records, processor, out, report)
        exact = {name: p.detach() for name, p in model.named_parameters()}
        model.to(device(), training_dtype(config.precision))
        frozen = {n: exact.pop(n) for n, p in model.named_parameters() if not p.requires_grad}
        if config.cache_frozen:
            source = _kept(config, model, source, records, processor, out, report)
    parts = _parts(config, records, source)
    special = processor.tokenizer.special
    reward = _reward(config, records, processor)
    shared = shared_losses(model, config.objectives, special, config.compute, reward)
    about = _card(config, model.config, source)

    def whole(trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return merged(model, frozen | dict(trained))

    def keep(name: str, trained: Mapping[str, Tensor]) -> None:
        if rank() == 0:
            try:
                save_model(out / name, model.config, whole(trained), processor, card=about)
            except (OSError, SafetensorError) as error:
                raise TrainingError(
                    f"{out / name} could not be written ({error}), the last state is whole; "
                    "make room, and the same command goes on from there"
                ) from None

    look = _look(config, measured, processor, held_out, report)
    task = Task(
        model=model,
        optim=config.optim,
        exact=exact,
        num_steps=config.num_steps,
        save_every=config.save_every,
        seed=config.seed,
        max_skipped=config.max_skipped,
        losses=lambda first: _losses(config, shared, processor, parts, first, source),
        probe=Probe(config.probe, lambda found: look(whole(found)), partial(keep, "best")),
    )
    keep("model", fit(task, out, report=report))
    if rank() == 0:
        write_run_page(out)
    wait_for_all()
    return out / ("best" if config.probe.every else "model")


def _check(
    config: TrainConfig, records: Sequence[Record], source: Source | None, held_out: Source | None
) -> None:
    """Refuse what cannot go well before anything is read; see `run`."""
    if not any(record.captions or record.questions for record in records):
        raise ManifestError(
            f"none of {len(records)} records of split 'train' has a caption or a question; "
            "`valor data stats MANIFEST` counts both"
        )
    counts = Counter(record.id for record in records)
    if len(counts) < len(records):
        twice, count = counts.most_common(1)[0]
        raise ManifestError(f"id {twice!r} stands {count} times in the data; make ids unique")
    if config.mixture:
        rows_of_parts([record.id for record in records], [part.name for part in config.mixture])
    if config.probe.every:
        if not held_out:
            raise ConfigError(
                "probe.every: no held-out records are there; give some, or set it to 0"
            )
        measured_task(config.objectives_by_part, config.probe.task)
    if config.batch_size % num_ranks():
        raise ConfigError(
            f"batch_size={config.batch_size}, {num_ranks()} ranks: give every rank as many rows"
        )
    if config.compute.parallel == "none" and num_ranks() > 1:
        raise ConfigError(f"compute.parallel=none, {num_ranks()} ranks: choose ddp or fsdp")
    if isinstance(source, SampleStore) and config.reading and config.reading.augment:
        raise ConfigError(
            "reading.augment: the samples that were given are the same at every step; leave it "
            "out, or give media files or shards"
        )


def _add_bias(model: Any, config: TrainConfig) -> None:
    """Give a model the bias that pairs are told apart by, if the run learns one."""
    contrasts = [own.alignment for own in config.objectives_by_part if own.alignment]
    if found := [own for own in contrasts if own.loss == "sigmoid"]:
        is_fresh = not isinstance(config.model, FolderConfig)
        model.add_bias(found[0].sigmoid_bias, is_fresh=is_fresh)


def _check_lengths(model: Any, config: TrainConfig) -> None:
    """Refuse to reward captions that the model could not write."""
    decoder = getattr(model, "decoder", None)
    for own in config.objectives_by_part:
        if own.self_critical and isinstance(decoder, Decoder):
            own.self_critical.check(decoder)


def _reward(
    config: TrainConfig, records: Sequence[Record], processor: Processor
) -> CiderReward | None:
    """What captions that the model writes are worth, if any part learns from them."""
    rewarded = [own.self_critical for own in config.objectives_by_part if own.self_critical]
    written = {group for own in rewarded for group in own.groups}
    return CiderReward(records, list(written), processor.tokenizer) if written else None


def _source(
    config: TrainConfig, records: Sequence[Record], processor: Processor, out: Path, report: Report
) -> Source:
    """Media files, read at every step or once."""
    if config.reading is not None:
        return FileSource(records)
    store = load_store(records, processor, out / "cache", progress=partial(report, "prepare"))
    if not len(store):
        raise ManifestError(
            f"none of {len(records)} records can be read ({', '.join({*store.bad.values()})}); "
            "`valor data validate MANIFEST --decode` says what is wrong with each"
        )
    _check_bad(store.bad, len(records), None, report)
    return store


def _kept(
    config: TrainConfig,
    model: nn.Module,
    source: Source,
    records: Sequence[Record],
    processor: Processor,
    out: Path,
    report: Report,
) -> TokenStore:
    """The source with the tokens of frozen towers, kept in the run folder."""
    told, cache, pool = partial(report, "encode"), out / "cache", config.cache_pool
    store = load_tokens(model, source, records, processor, cache, pool=pool, progress=told)
    _check_bad(store.bad, len(records), config.reading, report)
    return store


def _check_bad(
    bad: Mapping[str, str], num_records: int, reading: ReadingConfig | None, report: Report
) -> None:
    """Tell how many records cannot be read, or refuse so many; reasons are by id."""
    if bad:
        last, reason = list(bad.items())[-1]
        limits, reasons = reading or ReadingConfig(), Counter(bad.values())
        refuse_many_bad(reasons, num_records, limits, last=f"{last}: {reason}")
        told = ", ".join(f"{reason} {num}" for reason, num in reasons.most_common())
        report("left out", len(bad), num_records, note=told)


def _look(
    config: TrainConfig,
    model: nn.Module | None,
    processor: Processor,
    source: Source | None,
    report: Report,
) -> Callable[[dict[str, Tensor]], dict[str, float]]:
    """What measures weights on held-out records, with a model of its own; nothing without one."""
    if model is None or source is None:
        return lambda weights: {}
    told = partial(report, "held out")
    own = config.objectives_by_part, config.probe
    return HeldOut(model.to(device()), processor, source, *own, progress=told)


def _losses(
    config: TrainConfig,
    shared: nn.Module,
    processor: Processor,
    parts: list[Source],
    first: int,
    whole: Source,
) -> Losses:
    """Read this process's rows of each step, draw their texts, and compute the objectives."""
    mixture = Mixture(
        [len(part) for part in parts],
        batch_size=config.batch_size,
        seed=config.seed,
        weights=[part.weight for part in config.mixture] or None,
    )
    loader = Loader(
        sources=parts,
        mixture=mixture,
        processor=processor,
        config=config.reading or ReadingConfig(),
        seed=config.seed,
        rank=rank(),
        num_ranks=num_ranks(),
    )
    groups = [part.groups for part in config.mixture] or [MEDIA_GROUPS]
    objectives = config.objectives_by_part
    dtype = training_dtype(config.precision)
    parameters = dict(shared.named_parameters())
    scale = next((p for name, p in parameters.items() if name.endswith("log_scale")), None)
    with closing(loader):
        for loaded in loader.steps(first, config.num_steps):
            terms = {}
            if any(summed([len(loaded.records)])):
                batch = collate_training(
                    loaded.samples,
                    loaded.records,
                    processor,
                    seed=config.seed,
                    step=loaded.step,
                    groups=groups[loaded.source],
                )
                if isinstance(whole, TokenStore):
                    whole.put(batch)
                batch = placed(batch, device(), dtype)
                terms = found_terms(shared(batch, objectives[loaded.source]))
            if not terms:
                come_to_rest(shared)
            figures = last_figures(shared) if terms else {}
            if scale is not None:
                figures["temperature"] = math.exp(-scale.item())
            yield StepLoss(
                terms=terms,
                ids=[record.id for record in loaded.records],
                left_out=config.batch_size // num_ranks() - len(loaded.records),
                figures=figures,
            )


def _parts(config: TrainConfig, records: Sequence[Record], source: Source) -> list[Source]:
    """What each step sees one of."""
    if not config.mixture:
        return [source]
    readable = source.records if isinstance(source, _Read) else records
    names = [part.name for part in config.mixture]
    rows = rows_of_parts([record.id for record in readable], names)
    return [PartSource(source, own.tolist()) for own in rows]


def training_dtype(precision: str) -> torch.dtype:
    """What a run's precision means on this machine."""
    if precision == "auto":
        if device().type == "cuda":
            return torch.bfloat16
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def _card(config: TrainConfig, model: Any, source: Source) -> str:
    """Of what the run makes: from what, and under which licences."""
    start, origins = config.model, tower_origins(model)
    if isinstance(start, FolderConfig):
        origins = [folder_origin(Path(start.path)), *origins]
    if isinstance(start, TowersConfig) and (start.vision or "").endswith(".pth"):
        file = Path(start.vision or "").name
        origins = [Origin(part="vision", source=file, licence="unknown"), *origins]
    unreadable = f" ({len(source.bad)} unreadable)" if isinstance(source, _Read) else ""
    text = (
        f"Trained for {config.num_steps} steps of {config.batch_size} on {len(source)} "
        f"recordings{unreadable}."
    )
    return card(f"VALOR, run {fingerprint(config)}", text, origins)
