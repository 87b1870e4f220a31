"""Random changes of what is trained on: crop, flip, colour, and masks in spectrograms.

All frames of a sample change alike. Every draw comes from the generator that is given, so that a
sample in a step is the same whoever prepares it.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8

from valor.config import configclass

_LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601."""


@configclass
class AugmentConfig:
    """What is changed, and how much; zeros and ones change nothing."""

    smallest_crop: float = 0.8
    """A random square with at least this part of the shorter side is cut out of the pictures."""
    flip: float = 0.0
    """How often pictures are mirrored; left and right in captions would then be wrong."""
    brightness: float = 0.2
    """Factors are drawn from 1 minus to 1 plus this, here and below."""
    contrast: float = 0.2
    """Of distances from the mean over all pixels of all frames."""
    saturation: float = 0.2
    """Of distances from a pixel's own grey."""
    num_mel_masks: int = 1
    """Stretches of mel bins that are covered in each window."""
    widest_mel_mask: float = 0.2
    """Part of the mel bins that a mask covers at most."""
    num_hop_masks: int = 1
    """Stretches of time that are covered in each window."""
    widest_hop_mask: float = 0.1
    """Part of a window's hops that a mask covers at most."""

    def __post_init__(self) -> None:
        """Reject what is no fraction."""
        if not 0 < self.smallest_crop <= 1:
            raise ValueError(f"smallest_crop={self.smallest_crop} must be in (0, 1]")
        fractions = ("flip", "brightness", "contrast", "saturation")
        for name in (*fractions, "widest_mel_mask", "widest_hop_mask"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be in [0, 1]")
        if min(self.num_mel_masks, self.num_hop_masks) < 0:
            raise ValueError("num_mel_masks and num_hop_masks must not be negative")


def crop_and_flip(
    frames: UInt8[np.ndarray, "frames height width 3"],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "frames crop_height crop_width 3"]:
    """Cut the same square out of all pictures, and mirror all of them or none."""
    shorter = min(frames.shape[1:3])
    side = max(1, round(rng.uniform(config.smallest_crop, 1.0) * shorter))
    top, left = (int(rng.integers(size - side + 1)) for size in frames.shape[1:3])
    is_flipped = rng.random() < config.flip
    if config.smallest_crop < 1:
        frames = frames[:, top : top + side, left : left + side]
    return np.ascontiguousarray(frames[:, :, ::-1]) if is_flipped else frames


def jitter_colour(
    pixels: UInt8[np.ndarray, "frames 3 height width"],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "frames 3 height width"]:
    """Change brightness, then contrast, then saturation, each by one factor for all frames.

    Source:
        Krizhevsky et al. 2012 as torchvision's ColorJitter does it; here always in this order, and
        with the mean of all frames as the grey that contrast is measured from.
    """
    ranges = (config.brightness, config.contrast, config.saturation)
    brightness, contrast, saturation = (rng.uniform(1 - r, 1 + r) for r in ranges)
    if not any(ranges):
        return pixels
    values = torch.from_numpy(np.ascontiguousarray(pixels)).float() * brightness
    luma = torch.tensor(_LUMA)[:, None, None]
    middle = (values * luma).sum(1).mean()
    values = middle + contrast * (values - middle)
    grey = (values * luma).sum(1, keepdim=True)
    values = grey + saturation * (values - grey)
    return values.round().clamp(0, 255).to(torch.uint8).numpy()


def mask_spectrograms(
    spectrograms: Float[np.ndarray, "windows mels hops"],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> Float[np.ndarray, "windows mels hops"]:
    """Replace random bands of mels and stretches of hops by zero, the mean after normalisation.

    Source:
        SpecAugment (arXiv 1904.08779), frequency and time masking without time warping.
    """
    masked = torch.from_numpy(spectrograms).clone()
    kinds = (
        (0, config.num_mel_masks, config.widest_mel_mask),
        (1, config.num_hop_masks, config.widest_hop_mask),
    )
    for window in masked:
        for axis, num, widest in kinds:
            size = window.shape[axis]
            for _ in range(num):
                width = int(rng.integers(int(widest * size) + 1))
                begin = int(rng.integers(size - width + 1))
                window.narrow(axis, begin, width).zero_()
    return masked.numpy()
