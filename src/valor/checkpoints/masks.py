"""Model folders of models that decide pixels, and such a model at work on a file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from valor.checkpoints.folder import fill_weights, read_config, write_folder
from valor.config import from_dict, parse_json, to_json
from valor.errors import MediaError, ModelError
from valor.media.probe import probe
from valor.media.video import decode_frames
from valor.models.temporal_memory import TemporalMemory, TemporalMemoryConfig
from valor.processing.sequences import SequenceConfig, normalised

_PREPROCESSING = "preprocessor_config.json"
_DECODED_AT_ONCE = 8


def save_mask_model(
    folder: Path,
    config: TemporalMemoryConfig,
    sequence: SequenceConfig,
    weights: Mapping[str, Tensor],
    *,
    card: str,
) -> None:
    """Write a complete model folder, replacing an older one only when it is complete.

    Args:
        folder: Made or replaced.
        config: Of the model.
        sequence: Its preprocessing.
        weights: Parameters and norms' statistics by name.
        card: Text of the `README.md`.

    Raises:
        ModelError: If something else is in the folder's place.
    """

    def save_sequence(partial: Path) -> None:
        (partial / _PREPROCESSING).write_text(to_json(sequence), encoding="utf-8")

    write_folder(folder, config, weights, save_sequence, card=card)


def load_mask_model(folder: Path) -> "MaskModel":
    """Read a model folder.

    Args:
        folder: As written by `save_mask_model`.

    Returns:
        The model, ready to use.

    Raises:
        ModelError: If a file is missing, damaged, or of another kind of model.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no model folder; name the folder of a TMANet")
    values, path = read_config(folder), folder / _PREPROCESSING
    if values.get("kind") != "temporal_memory":
        raise ModelError(f"{folder}: this model makes no masks; name the folder of a TMANet")
    config = from_dict(TemporalMemoryConfig, values, where=str(folder / "config.json"))
    if not path.is_file():
        raise ModelError(f"{folder}: {_PREPROCESSING} is missing; convert it again")
    sequence = from_dict(SequenceConfig, parse_json(path.read_bytes(), str(path)), where=str(path))
    model = TemporalMemory(config)
    fill_weights(model.state_dict(), folder)
    return MaskModel(model.eval(), sequence)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedFrame:
    """A frame with the class of every pixel."""

    time_s: float
    """From the start of the file."""
    frame: UInt8[np.ndarray, "height width 3"]
    labels: UInt8[np.ndarray, "height width"]


class MaskModel:
    """Decides what every pixel of a video shows.

    Args:
        model: Weights, in evaluation mode.
        sequence: Their preprocessing.
    """

    def __init__(self, model: TemporalMemory, sequence: SequenceConfig) -> None:
        self.model = model
        self.sequence = sequence

    def num_frames(self, path: str | Path, fps: float) -> int:
        """How many frames `masks` will yield; a file without picture is a `MediaError`."""
        info = probe(path)
        if not info.has_video:
            raise MediaError(str(path), "no-video", "the file has no video track")
        return max(1, int(info.duration_s * fps + 1e-6))

    @torch.inference_mode()
    def masks(self, path: str | Path, *, fps: float) -> Iterator[MaskedFrame]:
        """Decide frames of a file, one after another.

        Args:
            path: A video.
            fps: Frames per second to be decided, whatever the file's own rate.

        Yields:
            Frames in order, at the size that the model works at. Before the start of the file its
            first frame stands in for the past.

        Raises:
            MediaError: If the file has no picture that can be decoded.
        """
        past = self.sequence.step_s * np.arange(-self.model.config.head.num_slots, 1)
        total, size_px = self.num_frames(path, fps), self.sequence.short_side_px
        for start in range(0, total, _DECODED_AT_ONCE):
            nows = np.arange(start, min(start + _DECODED_AT_ONCE, total)) / fps
            times = np.maximum(nows[:, None] + past, 0.0)
            frames, _ = decode_frames(path, times.ravel(), short_side_px=size_px)
            for now, seen in zip(nows, np.split(frames, len(nows)), strict=True):
                logits = self.model(normalised(torch.from_numpy(seen), self.sequence)[None]).main
                labels = logits[0].argmax(dim=0).to(torch.uint8).numpy()
                yield MaskedFrame(time_s=float(now), frame=seen[-1], labels=labels)
