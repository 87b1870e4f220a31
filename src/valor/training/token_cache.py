"""Frozen towers run once: their tokens are kept on disk in float16 and read at every step.

A cache belongs to the weights of a tower, its preprocessing, and the records in their order; others
make a new one. It consists of shards of bounded size. Each is followed by a list of what its rows
have, which says that it is whole, so that a fill that was stopped goes on with the next one.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from valor.config import fingerprint
from valor.data.collate import collate_media, placed, restricted
from valor.data.loader import read_row
from valor.data.manifest import Record
from valor.data.reading import Draw, Source
from valor.data.samples import SampleStore, change_stamp
from valor.data.storage import write_whole
from valor.errors import ConfigError, ManifestError, MediaError
from valor.processing.processor import Processor, ProcessorConfig
from valor.types import AUDIOVISUAL, Batch, EncoderOutput, Modality, Sample, Tokens

_AT_ONCE = 16
_SHARD_BYTES = 2**30
_STAND_INS: dict[Modality, np.ndarray] = {
    Modality.VISION: np.zeros((1, 3, 1, 1), np.uint8),
    Modality.AUDIO: np.zeros((1, 1, 1), np.float16),
}
"""What a batch holds, until `TokenStore.put`, of media that no tower will see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenShards:
    """The tokens of one tower, row by row."""

    folder: Path
    rows_per_shard: int
    found: list[bool | str]
    """Of each row, whether it has the modality, or why it could not be read."""

    def read(self, rows: Sequence[int]) -> EncoderOutput:
        """What the tower gave for some rows."""
        places = [divmod(row, self.rows_per_shard) for row in rows]
        picked = [_opened(self.folder / f"{shard:05d}.npy")[row] for shard, row in places]

        def part(name: str) -> Shaped[Tensor, "rows *sizes"]:
            return torch.from_numpy(np.stack([row[name] for row in picked]))

        return EncoderOutput(
            tokens=Tokens(features=part("tokens"), valid=part("tokens_valid")),
            summary=Tokens(features=part("summary"), valid=part("summary_valid")),
        )


@cache
def _opened(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r")


@dataclass(slots=True, kw_only=True)
class TokenStore:
    """Samples whose frozen towers have run: a `Source` of the rows that can be read."""

    records: list[Record]
    bad: dict[str, str]
    """Reason by id of every record that could not be read."""
    source: Source
    """Of what the towers that learn see."""
    towers: dict[Modality, TokenShards]
    rows: dict[str, int]
    """Of the source and the shards, by the id of a record."""

    def __len__(self) -> int:
        return len(self.records)

    def load(self, index: int, processor: Processor, draw: Draw | None) -> tuple[Record, Sample]:
        """A record and its sample as the source reads it, with stand-ins for what is kept."""
        record = self.records[index]
        row, sample = self.rows[record.id], Sample(id=record.id, pixels=None, spectrograms=None)
        if self.towers.keys() != set(AUDIOVISUAL):
            _, sample = self.source.load(row, processor, draw)
        media = {Modality.VISION: sample.pixels, Modality.AUDIO: sample.spectrograms}
        for modality, tower in self.towers.items():
            media[modality] = _STAND_INS[modality] if tower.found[row] else None
        vision, audio = media[Modality.VISION], media[Modality.AUDIO]
        return record, Sample(id=record.id, pixels=vision, spectrograms=audio)

    def put(self, batch: Batch) -> None:
        """Give a batch the towers' outputs in the place of their inputs; it is changed in place."""
        rows = [self.rows[id] for id in batch.ids]
        inputs = {Modality.VISION: batch.pixels, Modality.AUDIO: batch.spectrograms}
        batch.encoded = {
            modality: tower.read(rows)
            for modality, tower in self.towers.items()
            if inputs[modality] is not None  # Else no row has it, or none is to learn from it.
        }
        if Modality.VISION in self.towers:
            batch.pixels = batch.frame_valid = None
        if Modality.AUDIO in self.towers:
            batch.spectrograms = batch.window_valid = None


def load_tokens(
    model: Any,
    source: Source,
    records: Sequence[Record],
    processor: Processor,
    folder: Path,
    *,
    pool: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TokenStore:
    """Return the tokens of all samples from the towers that are frozen, made only the first time.

    Args:
        model: With at least one frozen tower.
        source: The samples, of which the towers see what inference would see.
        records: Row for row of the source, unless it has found out what can be read.
        processor: Stacks samples.
        folder: Holds caches; made if needed.
        pool: How many neighbouring tokens of a frame or window are averaged.
        progress: Told how many samples of how many are done.

    Returns:
        What can be read, with the tokens of the frozen towers.

    Raises:
        ConfigError: If no tower is frozen, or one is whose frames are shifted at every step.
        ManifestError: If nothing can be read.
    """
    frozen = [modality for modality in AUDIOVISUAL if is_frozen(model, modality)]
    if not frozen:
        raise ConfigError("cache_frozen: neither the vision nor the audio tower is frozen")
    if Modality.VISION in frozen and processor.config.frames.max_shift_px:
        raise ConfigError("cache_frozen: frames.max_shift_px must be 0, for one view of a sample")
    bad: dict[str, str] = {}
    if isinstance(source, SampleStore):
        records, bad = source.records, source.bad
    towers = {}
    for modality in frozen:
        tower = _Tower(model, modality, processor, pool)
        own = folder / f"{modality.label}-{_key(tower, records)}"
        towers[modality] = _filled(own, tower, source, len(records), progress)
    reasons = {
        record.id: reason
        for tower in towers.values()
        for record, reason in zip(records, tower.found, strict=True)
        if isinstance(reason, str)
    }
    if len(reasons) == len(records):
        several = ", ".join(sorted(set(reasons.values())))
        raise ManifestError(f"cache_frozen: none of {len(records)} can be read ({several})")
    return TokenStore(
        records=[record for record in records if record.id not in reasons],
        bad=bad | reasons,
        source=source,
        towers=towers,
        rows={record.id: row for row, record in enumerate(records)},
    )


def is_frozen(model: Any, modality: Modality) -> bool:
    """Whether nothing of a modality's tower learns."""
    return not any(p.requires_grad for p in getattr(model, modality.label).parameters())


@dataclass(frozen=True, slots=True)
class _Tower:
    """What makes the tokens of one modality."""

    model: Any
    modality: Modality
    processor: Processor
    pool: int

    def encode(self, samples: Sequence[Sample]) -> dict[str, Shaped[np.ndarray, "samples *sizes"]]:
        """Run the tower; returns tokens and summaries with their masks."""
        where = next(self.model.parameters())
        own = [restricted(sample, self.modality) for sample in samples]
        batch = placed(collate_media(own, self.processor), where.device, where.dtype)
        output = self.model.encode_media(batch)[self.modality]
        tokens, summary = pooled(output, self.pool), output.summary
        found = {
            "tokens": tokens.features.float(),
            "tokens_valid": tokens.valid,
            "summary": summary.features.float(),
            "summary_valid": summary.valid,
        }
        return {name: x.cpu().numpy() for name, x in found.items()}

    def row_type(self) -> np.dtype:
        """Of one row of a shard, as long as any sample can make it."""
        whole = self.encode([_longest(self.processor.config)])
        return np.dtype(
            [
                (name, np.bool_ if x.dtype == np.bool_ else np.float16, x.shape[1:])
                for name, x in whole.items()
            ]
        )


def pooled(output: EncoderOutput, num: int) -> Tokens:
    """Average neighbouring tokens of the same frame or window, as far as they are valid.

    Args:
        output: Tokens position by position, equally many of each.
        num: How many become one; the last of a position may be of fewer.

    Returns:
        The tokens; one is valid if any of those that it is made of is.
    """
    positions = output.summary.valid.shape[1]

    def grouped(
        x: Shaped[Tensor, "batch tokens *dim"],
    ) -> Shaped[Tensor, "batch groups num *dim"]:
        apart = x.unflatten(1, (positions, -1))
        room = apart.new_zeros(*apart.shape[:2], -apart.shape[2] % num, *apart.shape[3:])
        return torch.cat([apart, room], dim=2).unflatten(2, (-1, num)).flatten(1, 2)

    if num == 1:
        return output.tokens
    features, valid = grouped(output.tokens.features), grouped(output.tokens.valid)
    total = features.masked_fill(~valid[..., None], 0.0).sum(dim=2)
    mean = total / valid.sum(dim=2).clamp(min=1)[..., None]
    return Tokens(features=mean, valid=valid.any(dim=2))


def _longest(config: ProcessorConfig) -> Sample:
    """A sample with as many frames and windows as any has."""
    frames, sound = config.frames, config.spectrogram
    num = frames.num_bursts * frames.frames_per_burst
    windows = (sound.num_windows, sound.num_mels, sound.hops_per_window)
    return Sample(
        id="",
        pixels=np.zeros((num, 3, frames.image_px, frames.image_px), np.uint8),
        spectrograms=np.zeros(windows, np.float16),
    )


def _key(tower: _Tower, records: Sequence[Record]) -> str:
    """First 16 hex digits of the SHA-256 of all that the tokens depend on."""
    label = tower.modality.label
    parts = [
        fingerprint(tower.processor.config),
        fingerprint(getattr(tower.model.config, label)),
        str(tower.pool),
        json.dumps([(r.id, r.media, r.start_s, r.end_s, change_stamp(r.media)) for r in records]),
    ]
    digest = hashlib.sha256(" ".join(parts).encode())
    for name, weight in getattr(tower.model, label).state_dict().items():
        digest.update(name.encode())
        digest.update(weight.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def _filled(
    folder: Path,
    tower: _Tower,
    source: Source,
    num_rows: int,
    progress: Callable[[int, int], None],
) -> TokenShards:
    """Run a tower over the rows of all shards that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    was_training = tower.model.training
    tower.model.eval()
    known = (folder / "00000.json").is_file()
    kind = _opened(folder / "00000.npy").dtype if known else tower.row_type()
    size = max(_AT_ONCE, _SHARD_BYTES // kind.itemsize)
    found: list[bool | str] = []
    for shard, first in enumerate(range(0, num_rows, size)):
        path = folder / f"{shard:05d}.npy"
        listing = path.with_suffix(".json")
        if not listing.is_file():
            rows = range(first, min(first + size, num_rows))
            array = np.lib.format.open_memmap(path, "w+", kind, (len(rows),))
            own = _fill(array, tower, source, rows, lambda done: progress(done, num_rows))
            array.flush()
            write_whole(listing, json.dumps(own))
        found += json.loads(listing.read_text("utf-8"))
    tower.model.train(was_training)
    return TokenShards(folder=folder, rows_per_shard=size, found=found)


def _fill(
    array: np.ndarray,
    tower: _Tower,
    source: Source,
    rows: range,
    progress: Callable[[int], None],
) -> list[bool | str]:
    """Run a tower over the rows of one shard; those without the modality stay invalid."""
    found: list[bool | str] = []
    for first in range(0, len(rows), _AT_ONCE):
        samples: dict[int, Sample] = {}
        for place, row in enumerate(rows[first : first + _AT_ONCE], start=first):
            loaded = read_row(source, row, tower.processor, None, name=f"row {row}")
            if isinstance(loaded, MediaError):
                found.append(loaded.reason)
                continue
            found.append(tower.modality in loaded[1].available)
            if found[-1]:
                samples[place] = loaded[1]
        if samples:
            for name, x in tower.encode(list(samples.values())).items():
                array[name][list(samples), : x.shape[1]] = x
        progress(rows[first] + len(rows[first : first + _AT_ONCE]))
    return found
