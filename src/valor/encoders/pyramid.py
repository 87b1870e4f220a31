"""Convolutional backbones: a picture to maps of features, coarser and wider from stage to stage.

The residual blocks are those of the transformers library, so that weights published for it fit.
A stage may keep its resolution and dilate its convolutions instead of halving the picture, which
is what a decision per pixel needs (arXiv 1606.00915).
"""

from collections.abc import Iterator
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from valor.config import configclass


@configclass
class PyramidConfig:
    """Sizes of a backbone; defaults are ResNet-50 at an eighth of the picture's resolution."""

    kind: Literal["resnet"] = "resnet"
    block: Literal["bottleneck", "basic"] = "bottleneck"
    """Three convolutions a block, the middle one narrow, or two of 3x3."""
    stem: Literal["single", "deep"] = "single"
    """One convolution of 7x7, or three of 3x3 (ResNet-C of arXiv 1812.01187)."""
    stem_dim: int = 64
    """Channels before the first stage."""
    stem_pool: bool = True
    """Halve once more before the first stage."""
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    """Channels of each stage's map."""
    depths: tuple[int, ...] = (3, 4, 6, 3)
    """Blocks of each stage."""
    strides: tuple[int, ...] = (1, 2, 1, 1)
    """By how much each stage reduces height and width."""
    dilations: tuple[int, ...] = (1, 1, 2, 4)
    """Of each stage's 3x3 convolutions; its first block dilates half as much."""

    def __post_init__(self) -> None:
        """Reject sizes that do not fit together."""
        lengths = {len(x) for x in (self.widths, self.depths, self.strides, self.dilations)}
        if len(lengths) != 1 or len(self.widths) < 2:
            raise ValueError("widths, depths, strides and dilations: wanted as many of each, 2 up")
        if min(*self.depths, *self.strides, *self.dilations, self.stem_dim) < 1:
            raise ValueError("depths, strides, dilations and stem_dim must be at least 1")
        if self.strides[0] > 1 and self.widths[0] == self.stem_dim:
            raise ValueError("a first stage with a stride must be wider than stem_dim")


class ConvNorm(nn.Module):
    """A convolution without bias, batch norm and ReLU.

    Args:
        in_dim: Channels in.
        out_dim: Channels out.
        kernel: Side of the kernel in positions; odd.
        stride: Positions from one place to the next.
    """

    def __init__(self, in_dim: int, out_dim: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            in_dim, out_dim, kernel, stride=stride, padding=kernel // 2, bias=False
        )
        self.normalization = nn.BatchNorm2d(out_dim)
        _without_counts(self)
        nn.init.kaiming_normal_(self.convolution.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self, x: Float[Tensor, "rows channels height width"]
    ) -> Float[Tensor, "rows out_channels rows_out columns_out"]:
        """Apply the three."""
        return F.relu(self.normalization(self.convolution(x)))


class Pyramid(nn.Module):
    """Encode pictures one by one.

    Args:
        config: Sizes.
    """

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__()
        from transformers import ResNetBackbone, ResNetConfig

        built: Any = ResNetBackbone(
            ResNetConfig(
                embedding_size=config.stem_dim,
                hidden_sizes=list(config.widths),
                depths=list(config.depths),
                layer_type=config.block,
            )
        )
        half, dim = config.stem_dim // 2, config.stem_dim
        self.config = config
        self.stem: nn.Module = built.embedder.embedder
        if config.stem == "deep":
            self.stem = nn.Sequential(
                ConvNorm(3, half, 3, stride=2), ConvNorm(half, half, 3), ConvNorm(half, dim, 3)
            )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if config.stem_pool else nn.Identity()
        self.stages: nn.ModuleList = built.encoder.stages
        for stage, stride, dilation in zip(
            self.stages, config.strides, config.dilations, strict=True
        ):
            _set_steps(stage, stride, dilation)
        _without_counts(self)

    def forward(
        self, pixels: Float[Tensor, "rows 3 height width"]
    ) -> list[Float[Tensor, "rows channels rows_out columns_out"]]:
        """The map of every stage, the finest first.

        Args:
            pixels: Normalised pictures.

        Returns:
            Maps `[rows, widths[stage], height, width]`.
        """
        x = self.pool(self.stem(pixels))
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def load_published(self, source: str) -> None:
        """Take over the weights of a ResNet of the transformers library, such as its ResNet-50.

        Args:
            source: Its folder or hub id; it has this backbone's sizes and a single stem.

        Raises:
            RuntimeError: If its sizes are others.
        """
        from transformers import ResNetBackbone

        theirs: Any = _without_counts(ResNetBackbone.from_pretrained(source))
        self.stem.load_state_dict(theirs.embedder.embedder.state_dict())
        self.stages.load_state_dict(theirs.encoder.stages.state_dict())


def _without_counts(module: nn.Module) -> nn.Module:
    """Leave out the batch norms' counts of batches, which nothing depends on."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.num_batches_tracked = None
    return module


def _set_steps(stage: nn.Module, stride: int, dilation: int) -> None:
    """Give the convolutions of a stage their stride and dilation."""
    blocks: Any = stage.get_submodule("layers")
    for index, block in enumerate(blocks):
        reach = dilation if index else max(1, dilation // 2)
        wide = list(_wide_convolutions(block))
        for convolution in wide:
            convolution.dilation = convolution.padding = (reach, reach)
        if index == 0:
            wide[0].stride = (stride, stride)
            if not isinstance(block.shortcut, nn.Identity):
                block.shortcut.convolution.stride = (stride, stride)


def _wide_convolutions(block: Any) -> Iterator[nn.Conv2d]:
    for layer in block.layer:
        if layer.convolution.kernel_size == (3, 3):
            yield layer.convolution
