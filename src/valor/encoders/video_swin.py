"""Video Swin: attention within shifted windows of space and time, over four shrinking stages.

This is the vision encoder of VALOR-B, with a time stride of 1: every frame keeps its tokens, and
the patch of a frame also covers the next one (the last frame sees zeros there).

Source: Video Swin Transformer (arXiv 2106.13230); upstream `model/videoswin.py`. Kept as released:
masked pairs get -100 rather than being excluded, and a window that is cut to a small picture takes
its biases from the first rows of the full window's table.
"""

import itertools
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from valor.config import configclass
from valor.encoders.layers import FeedForward
from valor.types import EncoderOutput, Tokens

Window = tuple[int, ...]
"""Frames, rows and columns."""

_PATCH_PX = 4
_FRAMES_PER_PATCH = 2
_FAR = -100.0
"""Added to the scores of two tokens that only the cyclic shift brought together."""


@configclass
class VideoSwinConfig:
    """Sizes of the frame encoder; the defaults are Swin-B's."""

    kind: Literal["video_swin"] = "video_swin"
    image_px: int = 224
    """Height and width of a frame."""
    embed_dim: int = 128
    """Width of the first stage; every further one doubles it."""
    depths: tuple[int, ...] = (2, 2, 18, 2)
    """Blocks of each stage."""
    num_heads: tuple[int, ...] = (4, 8, 16, 32)
    """Heads of attention of each stage."""
    window: tuple[int, int, int] = (8, 7, 7)
    """Bursts of frames, rows and columns of tokens that attend to each other."""

    def __post_init__(self) -> None:
        """Reject sizes that do not fit together."""
        if len(self.depths) != len(self.num_heads) or not self.depths:
            raise ValueError(
                f"depths={self.depths} and num_heads={self.num_heads} differ in length"
            )
        for stage, heads in enumerate(self.num_heads):
            if heads < 1 or (self.embed_dim << stage) % heads:
                raise ValueError(
                    f"stage {stage}: {self.embed_dim << stage} is no multiple of {heads}"
                )

    @property
    def dim(self) -> int:
        """Width of the tokens that come out."""
        return self.embed_dim << (len(self.depths) - 1)

    @property
    def frames_per_patch(self) -> int:
        """Every frame has tokens of its own."""
        return 1


class VideoSwinTransformer(nn.Module):
    """Encode the frames of a video together; the mean of a frame's tokens is its summary.

    Args:
        config: Sizes.
    """

    def __init__(self, config: VideoSwinConfig) -> None:
        super().__init__()
        self.config = config
        kernel = (_FRAMES_PER_PATCH, _PATCH_PX, _PATCH_PX)
        self.patch_embedding = nn.Conv3d(
            3, config.embed_dim, kernel, stride=(1, _PATCH_PX, _PATCH_PX)
        )
        self.patch_norm = nn.LayerNorm(config.embed_dim)
        self.stages = nn.ModuleList(
            SwinStage(config.embed_dim << stage, heads, depth, config.window, merges=stage > 0)
            for stage, (depth, heads) in enumerate(
                zip(config.depths, config.num_heads, strict=True)
            )
        )
        self.norm = nn.LayerNorm(config.dim)

    def forward(
        self,
        pixels: Float[Tensor, "batch frames 3 height width"],
        frame_valid: Bool[Tensor, "batch frames"],
    ) -> EncoderOutput:
        """Encode frames; videos of different length never share a window layout.

        Args:
            pixels: Normalised frames; those that are there come first.
            frame_valid: True for frames that are there.

        Returns:
            Tokens `[batch, frames * patches, dim]` and one summary per frame.
        """
        lengths = frame_valid.sum(dim=1)
        counts = [int(count) for count in lengths.unique() if count]
        if counts == [pixels.shape[1]]:
            x = self._encode(pixels)
        else:
            x = None
            for count in counts:
                rows = lengths == count
                part = self._encode(pixels[rows, :count])
                if x is None:
                    x = part.new_zeros(*frame_valid.shape, *part.shape[2:])
                x[rows, :count] = part
            if x is None:
                raise ValueError("no row has a frame")
        token_valid = frame_valid[:, :, None].expand(-1, -1, x.shape[2])
        return EncoderOutput(
            tokens=Tokens(features=x.flatten(1, 2), valid=token_valid.flatten(1)),
            summary=Tokens(features=x.mean(dim=2), valid=frame_valid),
        )

    def _encode(
        self, pixels: Float[Tensor, "batch frames 3 height width"]
    ) -> Float[Tensor, "batch frames patches dim"]:
        x = pixels.transpose(1, 2)
        bottom, right = (-x.shape[3] % _PATCH_PX, -x.shape[4] % _PATCH_PX)
        x = F.pad(x, (0, right, 0, bottom, 0, _FRAMES_PER_PATCH - 1))
        x = self.patch_norm(self.patch_embedding(x).movedim(1, -1))
        for stage in self.stages:
            x = stage(x)
        return self.norm(x).flatten(2, 3)


class SwinStage(nn.Module):
    """Blocks at one resolution; every second one shifts its windows by half.

    Args:
        dim: Width of the tokens.
        num_heads: Number of attention heads.
        depth: Number of blocks.
        window: Largest window.
        merges: Halve the resolution of the stage before first, which is half as wide.
    """

    def __init__(
        self, dim: int, num_heads: int, depth: int, window: Window, *, merges: bool
    ) -> None:
        super().__init__()
        self.window = window
        self.merge = PatchMerging(dim // 2) if merges else None
        self.blocks = nn.ModuleList(SwinBlock(dim, num_heads, window) for _ in range(depth))

    def forward(
        self, x: Float[Tensor, "batch frames rows columns narrow"]
    ) -> Float[Tensor, "batch frames fewer_rows fewer_columns dim"]:
        """Merge patches, then attend within windows."""
        if self.merge is not None:
            x = self.merge(x)
        sizes = x.shape[1:4]
        window = tuple(min(s, w) for s, w in zip(sizes, self.window, strict=True))
        shift = tuple(w // 2 if s > w else 0 for s, w in zip(sizes, self.window, strict=True))
        far = _far(sizes, window, shift, x) if any(shift) else None
        for index, block in enumerate(self.blocks):
            x = block(x, window, shift if index % 2 else (0, 0, 0), far if index % 2 else None)
        return x


class PatchMerging(nn.Module):
    """Put two by two neighbours into one token of twice the width.

    Args:
        dim: Width in.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(
        self, x: Float[Tensor, "batch frames rows columns dim"]
    ) -> Float[Tensor, "batch frames fewer_rows fewer_columns double"]:
        """Merge; an odd row or column is completed with zeros."""
        x = F.pad(x, (0, 0, 0, x.shape[3] % 2, 0, x.shape[2] % 2))
        corners = [x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


class SwinBlock(nn.Module):
    """Window attention and feed-forward, each with a residual and pre-norm.

    Args:
        dim: Width of the tokens.
        num_heads: Number of attention heads.
        window: Largest window.
    """

    def __init__(self, dim: int, num_heads: int, window: Window) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = WindowAttention(dim, num_heads, window)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, 4 * dim)

    def forward(
        self,
        x: Float[Tensor, "batch frames rows columns dim"],
        window: Window,
        shift: Window,
        far: Float[Tensor, "windows tokens tokens"] | None,
    ) -> Float[Tensor, "batch frames rows columns dim"]:
        """Attend within the windows of a picture shifted by `shift`."""
        x = x + self._attend(self.attention_norm(x), window, shift, far)
        return x + self.mlp(self.mlp_norm(x))

    def _attend(self, x: Tensor, window: Window, shift: Window, far: Tensor | None) -> Tensor:
        sizes = x.shape[1:4]
        x = _pad(x, window)
        padded = x.shape[1:4]
        back = tuple(-s for s in shift)
        x = torch.roll(x, back, dims=(1, 2, 3)) if any(shift) else x
        x = _join(self.attention(_windows(x, window), far), window, padded)
        x = torch.roll(x, shift, dims=(1, 2, 3)) if any(shift) else x
        return x[:, : sizes[0], : sizes[1], : sizes[2]]


class WindowAttention(nn.Module):
    """Multi-head attention among the tokens of a window, with a bias for their distance.

    Args:
        dim: Width of the tokens.
        num_heads: Number of attention heads.
        window: Largest window; sets the size of the table of biases.
    """

    def __init__(self, dim: int, num_heads: int, window: Window) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        spans = [2 * size - 1 for size in window]
        self.distance_bias = nn.Parameter(
            torch.randn(spans[0] * spans[1] * spans[2], num_heads) * 0.02
        )
        axes = torch.meshgrid(*(torch.arange(size) for size in window), indexing="ij")
        place = torch.stack([axis.flatten() for axis in axes])
        frames, rows, columns = place[:, :, None] - place[:, None, :]
        index = (frames + window[0] - 1) * spans[1] + rows + window[1] - 1
        index = index * spans[2] + columns + window[2] - 1
        self.register_buffer("distance_index", index, persistent=False)

    def forward(
        self,
        x: Float[Tensor, "batch windows tokens dim"],
        far: Float[Tensor, "windows tokens tokens"] | None,
    ) -> Float[Tensor, "batch windows tokens dim"]:
        """Attend; `far` is added to the scores."""
        tokens = x.shape[2]
        parts = self.query_key_value(x).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = parts.permute(3, 0, 1, 4, 2, 5)
        index = self.get_buffer("distance_index")[:tokens, :tokens]
        bias = self.distance_bias[index].permute(2, 0, 1)
        if far is not None:
            bias = bias + far[:, None].to(bias.dtype)
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.output(x.transpose(2, 3).flatten(3))


def _pad(x: Tensor, window: Window) -> Tensor:
    """Complete the last windows with zeros."""
    frames, rows, columns = (-s % w for s, w in zip(x.shape[1:4], window, strict=True))
    return F.pad(x, (0, 0, 0, columns, 0, rows, 0, frames))


def _windows(x: Tensor, window: Window) -> Tensor:
    """Cut `[batch, frames, rows, columns, dim]` to `[batch, windows, tokens, dim]`."""
    for axis, size in zip((1, 3, 5), window, strict=True):
        x = x.unflatten(axis, (-1, size))
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).flatten(1, 3)


def _join(x: Tensor, window: Window, sizes: torch.Size) -> Tensor:
    """Undo `_windows`."""
    counts = [s // w for s, w in zip(sizes, window, strict=True)]
    x = x.unflatten(2, window).unflatten(1, counts)
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(x.shape[0], *sizes, x.shape[-1])


def _far(sizes: torch.Size, window: Window, shift: Window, like: Tensor) -> Tensor:
    """Score that is added between tokens of a shifted window: 0 for neighbours, else `_FAR`."""
    region = like.new_zeros(1, *sizes, 1)
    region = _pad(region, window)
    bounds = [
        (slice(-w), slice(-w, -s), slice(-s, None)) for w, s in zip(window, shift, strict=True)
    ]
    for number, (frames, rows, columns) in enumerate(itertools.product(*bounds)):
        region[:, frames, rows, columns] = number
    label = _windows(region, window)[0, :, :, 0]
    return (label[:, :, None] != label[:, None, :]).to(like.dtype) * _FAR
