"""Videos whose pixels have classes, and the moments of them that a model with a memory sees."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedClip:
    """A video with the class of every pixel."""

    id: str
    frames: UInt8[np.ndarray, "frames height width 3"]
    labels: UInt8[np.ndarray, "frames height width"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedMoment:
    """A current frame with its past and its mask."""

    frames: UInt8[np.ndarray, "frames height width 3"]
    """The past ones, the oldest first, and the current one."""
    labels: UInt8[np.ndarray, "height width"]
    """The class of each pixel of the current frame."""


def moment_indices(now: int, *, num_past: int, step: int) -> Int[np.ndarray, " moments"]:
    """Indices of the past frames, the oldest first, and of the current one behind them.

    Args:
        now: Index of the current frame.
        num_past: How many past frames.
        step: Frames from one to the next.

    Returns:
        Indices `[num_past + 1]`. Before the first frame the first one is meant.
    """
    return np.maximum(now - step * np.arange(num_past, -1, -1), 0)
