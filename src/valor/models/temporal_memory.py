"""TMANet: what every pixel of a frame shows, decided with a memory of the frames before it.

Every position of the current frame attends to all positions of the past frames; what it reads is
put beside its own features. Source: Temporal Memory Attention for Video Semantic Segmentation
(arXiv 2102.08643).

Axes: slots are the past frames, the oldest first; rows and columns those of the feature map.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from valor.config import configclass
from valor.encoders.pyramid import ConvNorm, Pyramid, PyramidConfig


@configclass
class MemoryHeadConfig:
    """Sizes of the memory and of what follows it; defaults are the released Cityscapes ones."""

    num_slots: int = 2
    """Past frames."""
    key_dim: int = 64
    """Channels by which places of the current and the past frames are compared."""
    value_dim: int = 256
    """Channels that are read from a past frame."""
    bottleneck_dim: int = 512
    """Channels from which the classes are decided."""
    dropout: float = 0.1
    """Of whole channels, before the classes."""
    read: Literal["attention", "mean"] = "attention"
    """`mean` ignores the keys and averages the past values of a position: a baseline."""

    def __post_init__(self) -> None:
        """Reject impossible sizes."""
        if min(self.num_slots, self.key_dim, self.value_dim, self.bottleneck_dim) < 1:
            raise ValueError("num_slots, key_dim, value_dim and bottleneck_dim must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout}, wanted in [0, 1)")


@configclass
class MaskClass:
    """What a pixel can show."""

    name: str
    """Stands in reports."""
    colour: tuple[int, int, int]
    """Red, green and blue in pictures of masks, 0 to 255."""


@configclass
class TemporalMemoryConfig:
    """A complete model."""

    kind: Literal["temporal_memory"] = "temporal_memory"
    backbone: PyramidConfig = PyramidConfig()
    """Turns each frame into maps."""
    head: MemoryHeadConfig = MemoryHeadConfig()
    """Reads the past frames and decides."""
    auxiliary_dim: int = 256
    """Width of the auxiliary head, which decides from the last map but one in training."""
    align_corners: bool = True
    """When enlarging, put the corners of the map on those of the picture, as released."""
    classes: tuple[MaskClass, ...]
    """By label, from 0."""

    def __post_init__(self) -> None:
        """Reject a model that has nothing to decide."""
        if len(self.classes) < 2 or len({c.name for c in self.classes}) < len(self.classes):
            raise ValueError("classes: wanted at least two with different names")


@dataclass(slots=True, kw_only=True)
class MaskLogits:
    """Scores of the classes, per pixel of the current frame."""

    main: Float[Tensor, "batch classes height width"]
    auxiliary: Float[Tensor, "batch classes height width"] | None
    """Of the auxiliary head; in training only."""


def read_memory(
    query: Float[Tensor, "batch key_dim rows columns"],
    keys: Float[Tensor, "batch slots key_dim rows columns"],
    values: Float[Tensor, "batch slots value_dim rows columns"],
) -> Float[Tensor, "batch value_dim rows columns"]:
    """Read the memory at every position: softmax of raw products with all keys, times the values.

    The scores of all pairs of positions never exist at once. Fused kernels want vectors in one
    piece and values as wide as keys, so the values are cut into heads of the keys' width.

    Args:
        query: Of the current frame.
        keys: Of the past frames.
        values: Of the past frames.

    Returns:
        What each position of the current frame reads.
    """
    key_dim, value_dim = query.shape[1], values.shape[2]
    heads = math.ceil(value_dim / key_dim)
    asked = query.flatten(2).mT.contiguous()[:, None].expand(-1, heads, -1, -1)
    known = keys.transpose(1, 2).flatten(2).mT.contiguous()[:, None].expand(-1, heads, -1, -1)
    stored = F.pad(values.transpose(1, 2).flatten(2), (0, 0, 0, heads * key_dim - value_dim))
    stored = stored.unflatten(1, (heads, key_dim)).mT.contiguous()
    found = F.scaled_dot_product_attention(asked, known, stored, scale=1.0)
    return found.mT.flatten(1, 2)[:, :value_dim].unflatten(2, query.shape[2:])


class MemoryHead(nn.Module):
    """Classes of the current frame from its features and those of the past.

    Args:
        config: Sizes.
        in_dim: Channels of the features.
        num_classes: What a position can be.
    """

    def __init__(self, config: MemoryHeadConfig, in_dim: int, num_classes: int) -> None:
        super().__init__()
        self.config = config
        slots = range(config.num_slots)
        self.query_key = _projection(in_dim, config.key_dim)
        self.query_value = _projection(in_dim, config.value_dim)
        self.memory_keys = nn.ModuleList(_projection(in_dim, config.key_dim) for _ in slots)
        self.memory_values = nn.ModuleList(_projection(in_dim, config.value_dim) for _ in slots)
        self.bottleneck = ConvNorm(2 * config.value_dim, config.bottleneck_dim, 3)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classify = nn.Conv2d(config.bottleneck_dim, num_classes, 1)

    def remember(
        self, past: Float[Tensor, "batch slots in_dim rows columns"]
    ) -> tuple[
        Float[Tensor, "batch slots key_dim rows columns"],
        Float[Tensor, "batch slots value_dim rows columns"],
    ]:
        """Keys and values of the past frames; every slot has its own convolutions."""
        frames = past.unbind(1)
        keys = [layers(x) for layers, x in zip(self.memory_keys, frames, strict=True)]
        values = [layers(x) for layers, x in zip(self.memory_values, frames, strict=True)]
        return torch.stack(keys, dim=1), torch.stack(values, dim=1)

    def join(
        self,
        current: Float[Tensor, "batch in_dim rows columns"],
        past: Float[Tensor, "batch slots in_dim rows columns"],
    ) -> Float[Tensor, "batch both_dims rows columns"]:
        """The current frame's values with what they read from the memory behind them."""
        keys, values = self.remember(past)
        if self.config.read == "mean":
            found = values.mean(dim=1)
        else:
            found = read_memory(self.query_key(current), keys, values)
        return torch.cat([self.query_value(current), found], dim=1)

    def forward(
        self,
        current: Float[Tensor, "batch in_dim rows columns"],
        past: Float[Tensor, "batch slots in_dim rows columns"],
    ) -> Float[Tensor, "batch classes rows columns"]:
        """Logits of the classes at every position of the map.

        Args:
            current: Features of the frame to be decided.
            past: Features of the frames before it, the oldest first.

        Returns:
            Logits.
        """
        return self.classify(self.dropout(self.bottleneck(self.join(current, past))))


class TemporalMemory(nn.Module):
    """Backbone, memory head and auxiliary head.

    Args:
        config: Of all of them.
    """

    def __init__(self, config: TemporalMemoryConfig) -> None:
        super().__init__()
        self.config = config
        widths, num_classes = config.backbone.widths, len(config.classes)
        self.backbone = Pyramid(config.backbone)
        self.head = MemoryHead(config.head, widths[-1], num_classes)
        self.auxiliary = nn.Sequential(
            ConvNorm(widths[-2], config.auxiliary_dim, 3),
            nn.Dropout2d(config.head.dropout),
            nn.Conv2d(config.auxiliary_dim, num_classes, 1),
        )

    def forward(self, pixels: Float[Tensor, "batch frames 3 height width"]) -> MaskLogits:
        """Decide every pixel of the last frame.

        Args:
            pixels: Normalised frames: `num_slots` past ones, the oldest first, then the current.

        Returns:
            Logits at the resolution of the pixels.

        Raises:
            ValueError: If the number of frames is another.
        """
        batch, frames = pixels.shape[:2]
        if frames != 1 + self.config.head.num_slots:
            raise ValueError(f"{frames} frames, wanted {self.config.head.num_slots} past and 1 now")
        maps = self.backbone(pixels.flatten(0, 1))
        features = maps[-1].unflatten(0, (batch, frames))
        main = self.head(features[:, -1], features[:, :-1])
        auxiliary = None
        if self.training:
            auxiliary = self.auxiliary(maps[-2].unflatten(0, (batch, frames))[:, -1])
        return MaskLogits(
            main=self._enlarge(main, pixels),
            auxiliary=None if auxiliary is None else self._enlarge(auxiliary, pixels),
        )

    def _enlarge(self, logits: Tensor, pixels: Tensor) -> Tensor:
        return F.interpolate(
            logits,
            pixels.shape[-2:],
            mode="bilinear",
            align_corners=self.config.align_corners,
        )


def _projection(in_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(ConvNorm(in_dim, out_dim, 1), ConvNorm(out_dim, out_dim, 3))
