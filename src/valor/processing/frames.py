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
Channels = tuple[float, float, float]
"""Red, green and blue."""


@configclass
class FrameConfig:
    """Which frames of a segment are taken, and their size."""

    num_bursts: int = 4
    """Positions in time, spread evenly over the segment."""
    frames_per_burst: int = 1
    """Consecutive frames that are taken at each position."""
    burst_step_s: float = 0.125
    """Time between the frames of a burst."""
    image_px: int = 224
    """Height and width of the square that the model gets."""
    crop: Literal["centre", "pad", "stretch"] = "centre"
    """Cut the longer side away, keep it and fill up with black, or press it into the square."""
    margin_px: int = 0
    """Pictures are resized to this much more than the square that is cut out of their middle."""
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    """Kernel of the resizing, which is antialiased."""
    normalise: Literal["clip", "imagenet", "unit"] | tuple[Channels, Channels] = "clip"
    """Means and deviations of the channels in [0, 1], or the name of known ones."""
    max_shift_px: int = 0
    """In training, all frames of a sample are shifted by up to this much in each direction."""

    def __post_init__(self) -> None:
        """Reject impossible sizes."""
        if min(self.num_bursts, self.frames_per_burst, self.image_px) < 1:
            raise ValueError("num_bursts, frames_per_burst and image_px must be at least 1")
        if self.margin_px < 0:
            raise ValueError(f"margin_px={self.margin_px} must not be negative")

    @property
    def resized_px(self) -> int:
        """Size of a picture before the square is cut out: the shorter side, or as `crop` says."""
        return self.image_px + self.margin_px


def to_squares(
    frames: UInt8[np.ndarray, "frames height width 3"], config: FrameConfig
) -> UInt8[np.ndarray, "frames 3 side side"]:
    """Resize and crop, pad or stretch pictures to the encoder's square."""
    height, width = frames.shape[1:3]
    side, resized = config.image_px, config.resized_px
    reach = min(height, width) if config.crop == "centre" else max(height, width)
    size = (max(1, round(height * resized / reach)), max(1, round(width * resized / reach)))
    if config.crop == "stretch":
        size = (resized, resized)
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
    if size != (height, width):
        pixels = F.interpolate(pixels, size, mode=config.resample, antialias=True)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    # Negative padding cuts.
    pixels = F.pad(pixels, (-left, side - size[1] + left, -top, side - size[0] + top))
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
    known = config.normalise
    statistics = _STATISTICS[known] if isinstance(known, str) else known
    mean, deviation = (torch.tensor(values) for values in statistics)
    scale, shift = 1 / (255 * deviation), -mean / deviation
    return pixels.float() * scale[:, None, None] + shift[:, None, None]
