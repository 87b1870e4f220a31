"""Frozen towers run once: their tokens are kept on disk in float16 and read at every step.

A cache belongs to the weights of a tower, the samples and their order; others make a new one.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from valor.config import fingerprint
from valor.data.collate import collate_media, placed
from valor.data.reading import Source
from valor.data.samples import SampleStore
from valor.errors import ConfigError
from valor.models.valor import Valor
from valor.processing.processor import Processor
from valor.types import AUDIOVISUAL, Batch, EncoderOutput, Modality, Sample, Tokens

_AT_ONCE = 16
_PARTS = ("tokens", "tokens_valid", "summary", "summary_valid")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStore:
    """What frozen towers gave, row for row of the samples."""

    rows: dict[str, int]
    """By the id of a record."""
    arrays: dict[Modality, list[np.ndarray]]
    """Features and mask of the tokens, and of their summaries."""

    def put(self, batch: Batch) -> None:
        """Give a batch the towers' outputs in the place of their inputs; it is changed in place."""
        index = [self.rows[id] for id in batch.ids]
        batch.encoded = {}
        inputs = {Modality.VISION: batch.pixels, Modality.AUDIO: batch.spectrograms}
        for modality, arrays in self.arrays.items():
            if inputs[modality] is None:  # No row has it, or none is to learn from it.
                continue
            found = [torch.from_numpy(np.asarray(array[index])) for array in arrays]
            batch.encoded[modality] = EncoderOutput(
                tokens=Tokens(features=found[0], valid=found[1]),
                summary=Tokens(features=found[2], valid=found[3]),
            )
        if Modality.VISION in self.arrays:
            batch.pixels = batch.frame_valid = None
        if Modality.AUDIO in self.arrays:
            batch.spectrograms = batch.window_valid = None


def load_tokens(
    model: Valor,
    source: Source,
    processor: Processor,
    folder: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TokenStore:
    """Return the tokens of all samples from the towers that are frozen, made only the first time.

    Args:
        model: With at least one frozen tower.
        source: The samples.
        processor: Stacks them.
        folder: Holds caches; made if needed.
        progress: Told how many samples of how many are done.

    Returns:
        The tokens of the frozen towers.

    Raises:
        ConfigError: If no tower is frozen, or samples change from step to step.
    """
    if not isinstance(source, SampleStore):
        raise ConfigError(
            "cache_frozen: samples must be the same at every step; leave out `reading`"
        )
    frozen = [modality for modality in AUDIOVISUAL if _is_frozen(model, modality)]
    if not frozen:
        raise ConfigError("cache_frozen: neither the vision nor the audio tower is frozen")
    if processor.config.frames.max_shift_px:
        raise ConfigError("cache_frozen: frames.max_shift_px must be 0, for one view of a sample")
    arrays: dict[Modality, list[np.ndarray]] = {}
    for modality in frozen:
        cache = folder / f"{modality.label}-{_key(model, modality, source, processor)}"
        if not cache.is_dir():
            partial = cache.with_name(f"{cache.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            _fill(partial, model, modality, source, processor, progress)
            partial.rename(cache)
        arrays[modality] = [np.load(cache / f"{part}.npy", mmap_mode="r") for part in _PARTS]
    rows = {record.id: row for row, record in enumerate(source.records)}
    return TokenStore(rows=rows, arrays=arrays)


def _is_frozen(model: Valor, modality: Modality) -> bool:
    return not any(p.requires_grad for p in getattr(model, modality.label).parameters())


def _key(model: Valor, modality: Modality, source: SampleStore, processor: Processor) -> str:
    """First 16 hex digits of the SHA-256 of weights, preprocessing and samples."""
    listing = [(r.id, r.media, r.start_s, r.end_s) for r in source.records]
    digest = hashlib.sha256(f"{fingerprint(processor.config)} {json.dumps(listing)}".encode())
    for name, weight in getattr(model, modality.label).named_parameters():
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def _fill(
    folder: Path,
    model: Valor,
    modality: Modality,
    source: SampleStore,
    processor: Processor,
    progress: Callable[[int, int], None],
) -> None:
    """Run a tower over all samples; rows without the modality stay invalid."""
    was_training = model.training
    model.eval()
    whole = _parts(_encode(model, modality, [_full_sample(source, modality)], processor))
    kinds = (np.float16, np.bool_, np.float16, np.bool_)
    arrays = [
        np.lib.format.open_memmap(folder / f"{part}.npy", "w+", kind, (len(source), *x.shape[1:]))
        for part, kind, x in zip(_PARTS, kinds, whole, strict=True)
    ]
    for first in range(0, len(source), _AT_ONCE):
        rows = [
            row
            for row in range(first, min(first + _AT_ONCE, len(source)))
            if modality in source[row].available
        ]
        if rows:
            samples = [source[row] for row in rows]
            output = _encode(model, modality, samples, processor)
            for array, x in zip(arrays, _parts(output), strict=True):
                array[rows, : x.shape[1]] = x
        progress(min(first + _AT_ONCE, len(source)), len(source))
    for array in arrays:
        array.flush()
    model.train(was_training)


def _full_sample(source: SampleStore, modality: Modality) -> Sample:
    """As long as any sample can be."""
    stored = source.pixels if modality is Modality.VISION else source.spectrograms
    empty = np.zeros(stored.shape[1:], stored.dtype)
    seen = modality is Modality.VISION
    return Sample(id="", pixels=empty if seen else None, spectrograms=None if seen else empty)


def _encode(
    model: Valor, modality: Modality, samples: list[Sample], processor: Processor
) -> EncoderOutput:
    where = model.log_scale
    batch = placed(collate_media(samples, processor), where.device, where.dtype)
    if modality is Modality.VISION:
        batch.spectrograms = None
    else:
        batch.pixels = None
    return model.encode_media(batch)[modality]


def _parts(output: EncoderOutput) -> list[np.ndarray]:
    parts = (output.tokens, output.summary)
    return [x.cpu().numpy() for part in parts for x in (part.features.float(), part.valid)]
