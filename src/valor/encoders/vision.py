"""Patch transformer for frames, with mixing over time in its last layers.

Frames come in bursts of `frames_per_patch` consecutive ones: a patch then covers a little time as
well as space, so that one patch already sees motion. With bursts of one frame and no temporal
layers this is the plain ViT that VALOR applies to each frame (paper 3.2).
"""

import itertools
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from valor.config import configclass
from valor.encoders.layers import Activation, PreNormBlock, check_heads
from valor.types import EncoderOutput, Tokens


@configclass
class VitConfig:
    """Sizes of the frame encoder."""

    kind: Literal["vit"] = "vit"
    image_px: int = 224
    """Height and width of a frame."""
    patch_px: int = 16
    """Height and width of a patch; a divisor of `image_px`."""
    frames_per_patch: int = 1
    """Consecutive frames that one patch covers."""
    stem: Literal["linear", "convolution"] = "linear"
    """What turns patches into tokens. Overlapping convolutions learn from far less data than one
    linear map of the pixels (arXiv 2106.14881)."""
    dim: int = 768
    """Width of the tokens."""
    num_layers: int = 12
    """Transformer layers."""
    num_heads: int = 12
    """Heads of attention of each layer; they share `dim` evenly."""
    mlp_dim: int = 3072
    """Width between the two linear maps that follow attention in a layer."""
    temporal_layers: int = 0
    """How many of the last layers attend over all frames; the others see one burst each."""
    max_bursts: int = 32
    """Most positions in time that layers over all frames can tell apart."""
    pre_norm: bool = False
    """Normalise the embedded patches before the first layer, as CLIP does."""
    activation: Activation = "gelu"
    """What stands between the two linear maps of a layer's MLP."""
    norm_eps: float = 1e-5
    """Added to the variance in layer norms."""

    def __post_init__(self) -> None:
        """Reject sizes that do not fit together."""
        if min(self.image_px, self.patch_px, self.frames_per_patch) < 1:
            raise ValueError(
                f"image_px={self.image_px}, patch_px={self.patch_px} and "
                f"frames_per_patch={self.frames_per_patch} must be at least 1"
            )
        if self.image_px % self.patch_px:
            raise ValueError(f"image_px={self.image_px} is no multiple of patch_px={self.patch_px}")
        if self.stem == "convolution" and self.patch_px.bit_count() != 1:
            raise ValueError(f"patch_px={self.patch_px}, wanted a power of two for convolutions")
        check_heads(self.dim, self.num_heads)
        if not 0 <= self.temporal_layers <= self.num_layers:
            raise ValueError(f"temporal_layers={self.temporal_layers}, wanted 0..{self.num_layers}")

    @property
    def num_patches(self) -> int:
        """Patches per burst."""
        return (self.image_px // self.patch_px) ** 2


class VisionTransformer(nn.Module):
    """Encode bursts of frames; one CLS token per burst is its summary.

    Args:
        config: Sizes.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        channels = 3 * config.frames_per_patch
        self.patch_embedding = (
            ConvolutionStem(config)
            if config.stem == "convolution"
            else nn.Conv2d(channels, config.dim, config.patch_px, stride=config.patch_px)
        )
        self.cls_token = nn.Parameter(torch.randn(config.dim) * 0.02)
        self.patch_position = nn.Parameter(torch.randn(1 + config.num_patches, config.dim) * 0.02)
        self.time_position = nn.Parameter(torch.randn(config.max_bursts, config.dim) * 0.02)
        self.pre_norm = (
            nn.LayerNorm(config.dim, eps=config.norm_eps) if config.pre_norm else nn.Identity()
        )
        self.blocks = nn.ModuleList(
            PreNormBlock(
                config.dim,
                config.num_heads,
                config.mlp_dim,
                norm_eps=config.norm_eps,
                activation=config.activation,
            )
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)

    def forward(
        self,
        pixels: Float[Tensor, "batch frames 3 height width"],
        frame_valid: Bool[Tensor, "batch frames"],
    ) -> EncoderOutput:
        """Encode frames.

        Args:
            pixels: Normalised frames; `frames` is a multiple of `frames_per_patch`.
            frame_valid: True for frames that are there.

        Returns:
            Tokens `[batch, bursts * (1 + patches), dim]` and one summary per burst.
        """
        config = self.config
        batch, frames = pixels.shape[:2]
        bursts = frames // config.frames_per_patch
        stacked = pixels.reshape(batch * bursts, -1, *pixels.shape[3:])
        x = self.patch_embedding(stacked).flatten(2).transpose(1, 2).unflatten(0, (batch, bursts))
        x = torch.cat([self.cls_token.expand(batch, bursts, 1, -1).to(x.dtype), x], dim=2)
        x = self.pre_norm(x + self.patch_position + self.time_position[:bursts, None])
        per_burst = x.shape[2]
        valid = frame_valid.view(batch, bursts, -1).all(dim=2)
        token_valid = valid[:, :, None].expand(-1, -1, per_burst).flatten(1)
        num_spatial = config.num_layers - config.temporal_layers
        x = x.flatten(0, 1)
        for block in self.blocks[:num_spatial]:
            x = block(x)
        x = x.view(batch, bursts * per_burst, -1)
        allowed = None if bool(valid.all()) else token_valid[:, None, None, :]
        for block in self.blocks[num_spatial:]:
            x = block(x, allowed=allowed)
        x = self.norm(x)
        summary = x.view(batch, bursts, per_burst, -1)[:, :, 0]
        return EncoderOutput(
            tokens=Tokens(features=x, valid=token_valid),
            summary=Tokens(features=summary, valid=valid),
        )


class ConvolutionStem(nn.Module):
    """Halve each frame until a patch is left, then merge the frames of a burst.

    Frames share all but the last layer, so that what a shape looks like is learned once, and only
    the last one sees how it moves.

    Args:
        config: Sizes.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        halvings = config.patch_px.bit_length() - 1
        widths = [3, *(config.dim >> (halvings - 1 - i) for i in range(halvings - 1))]
        self.frames_per_patch = config.frames_per_patch
        self.frame_layers = nn.ModuleList(
            nn.Conv2d(narrow, wide, 3, stride=2, padding=1)
            for narrow, wide in itertools.pairwise(widths)
        )
        merged = widths[-1] * config.frames_per_patch
        self.burst_layer = nn.Conv2d(merged, config.dim, 3, stride=2, padding=1)

    def forward(
        self, pixels: Float[Tensor, "bursts channels height width"]
    ) -> Float[Tensor, "bursts dim rows columns"]:
        """Map the frames of each burst, one behind the other, to patch vectors."""
        x = pixels.unflatten(1, (self.frames_per_patch, 3)).flatten(0, 1)
        for layer in self.frame_layers:
            x = F.gelu(layer(x))
        return self.burst_layer(x.unflatten(0, (-1, self.frames_per_patch)).flatten(1, 2))
