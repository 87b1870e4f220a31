"""Frames of a video as a model with a memory takes them: how far apart, how large, normalised."""

from typing import Literal

from jaxtyping import Float, UInt8
from torch import Tensor

from valor.config import configclass
from valor.processing.frames import FrameConfig, normalise


@configclass
class SequenceConfig:
    """Preprocessing of a frame and the frames before it."""

    short_side_px: int
    """Pictures are scaled to this; the longer side follows."""
    step_s: float
    """Time from one past frame to the next, and to the current one."""
    normalise: Literal["clip", "imagenet", "unit"] = "imagenet"
    """Whose means and deviations of the channels in [0, 1]."""

    def __post_init__(self) -> None:
        """Reject impossible values."""
        if self.short_side_px < 1 or not self.step_s > 0:
            raise ValueError(
                f"short_side_px={self.short_side_px} and step_s={self.step_s} must be above 0"
            )


def normalised(
    frames: UInt8[Tensor, "*rows height width 3"], config: SequenceConfig
) -> Float[Tensor, "*rows 3 height width"]:
    """Decoded RGB pictures as the backbone takes them."""
    pixels = frames.movedim(-1, -3).contiguous()
    return normalise(pixels, FrameConfig(normalise=config.normalise))
