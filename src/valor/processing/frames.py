"""Decoded pictures to the square uint8 frames that an encoder takes, and their normalisation."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from valor.config import configclass

_STATISTICS = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Channel means and deviations by the family of encoders that was trained with them."""


@configclass
class FrameConfig:
    """Which frames of a segment are taken, and their size."""

    num_bursts: int = 4
    """Positions in time, spread evenly over the segment."""
    frames_per_burst: int = 1
    burst_step_s: float = 0.125
    """Time between the frames of a burst."""
    image_px: int = 224
    crop: Literal["centre", "pad", "stretch"] = "centre"
    """Cut the longer side away, keep it and fill up with black, or squeeze it."""
    normalise: Literal["clip", "imagenet", "unit"] = "clip"
    max_shift_px: int = 0
    """In training, all frames of a sample are shifted by up to this much in each direction."""

    def __post_init__(self) -> None:
        """Reject impossible sizes."""
        if min(self.num_bursts, self.frames_per_burst, self.image_px) < 1:
            raise ValueError("num_bursts, frames_per_burst and image_px must be at least 1")


def to_squares(
    frames: UInt8[np.ndarray, "frames height width 3"], config: FrameConfig
) -> UInt8[np.ndarray, "frames 3 side side"]:
    """Resize and crop, pad or stretch pictures to the encoder's square."""
    height, width = frames.shape[1:3]
    side = config.image_px
    reach = min(height, width) if config.crop == "centre" else max(height, width)
    new_height, new_width = round(height * side / reach), round(width * side / reach)
    if config.crop == "stretch":
        new_height = new_width = side
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
    if (new_height, new_width) != (height, width):
        size = (max(1, new_height), max(1, new_width))
        pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True)
    top, left = (pixels.shape[2] - side) // 2, (pixels.shape[3] - side) // 2
    if config.crop != "pad":
        pixels = pixels[:, :, top : top + side, left : left + side]
    else:
        below, right = side - pixels.shape[2] + top, side - pixels.shape[3] + left
        pixels = F.pad(pixels, (-left, right, -top, below))
    return np.ascontiguousarray(pixels.numpy())


def shift(
    pixels: UInt8[np.ndarray, "frames 3 height width"], max_px: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "frames 3 height width"]:
    """Shift all frames alike by a random step; the uncovered border repeats the edge."""
    if not max_px:
        return pixels
    down, right = rng.integers(0, 2 * max_px + 1, size=2)
    padded = np.pad(pixels, ((0, 0), (0, 0), (max_px, max_px), (max_px, max_px)), mode="edge")
    height, width = pixels.shape[2:]
    return padded[:, :, down : down + height, right : right + width]


def normalise(
    pixels: UInt8[Tensor, "*batch 3 height width"], config: FrameConfig
) -> Float[Tensor, "*batch 3 height width"]:
    """Scale bytes to the encoder's range."""
    mean, deviation = (torch.tensor(values) for values in _STATISTICS[config.normalise])
    scale, shift = 1 / (255 * deviation), -mean / deviation
    return pixels.float() * scale[:, None, None] + shift[:, None, None]
