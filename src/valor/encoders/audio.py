"""Audio Spectrogram Transformer over windows of sound.

Source: AST (arXiv 2104.01778) as VALOR uses it (paper 3.2): each window of the log-mel spectrogram
is cut into patches, with one CLS token per window as its summary.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from valor.config import configclass
from valor.encoders.layers import PreNormBlock, check_heads
from valor.types import EncoderOutput, Tokens


@configclass
class AstConfig:
    """Sizes of the audio encoder."""

    kind: Literal["ast"] = "ast"
    num_mels: int = 64
    """Mel bins of a spectrogram window."""
    hops_per_window: int = 512
    """Spectra of a window."""
    patch_mels: int = 16
    """Mel bins that one patch covers; a divisor of `num_mels`."""
    patch_hops: int = 16
    """Spectra that one patch covers; a divisor of `hops_per_window`."""
    dim: int = 768
    """Width of the tokens."""
    num_layers: int = 12
    """Transformer layers."""
    num_heads: int = 12
    """Heads of attention of each layer; they share `dim` evenly."""
    mlp_dim: int = 3072
    """Width between the two linear maps that follow attention in a layer."""
    norm_eps: float = 1e-5
    """Added to the variance in layer norms."""

    def __post_init__(self) -> None:
        """Reject sizes that do not fit together."""
        if min(self.patch_mels, self.patch_hops) < 1:
            raise ValueError(f"patches of {self.patch_mels} mels by {self.patch_hops} hops")
        if self.num_mels % self.patch_mels:
            raise ValueError(f"num_mels={self.num_mels}, not in patches of {self.patch_mels}")
        if self.hops_per_window % self.patch_hops:
            raise ValueError(
                f"hops_per_window={self.hops_per_window}, not in patches of {self.patch_hops}"
            )
        check_heads(self.dim, self.num_heads)

    @property
    def num_patches(self) -> int:
        """Patches per window."""
        return (self.num_mels // self.patch_mels) * (self.hops_per_window // self.patch_hops)


class AudioTransformer(nn.Module):
    """Encode windows of a spectrogram independently of each other.

    Args:
        config: Sizes.
    """

    def __init__(self, config: AstConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Linear(config.patch_mels * config.patch_hops, config.dim)
        self.cls_token = nn.Parameter(torch.randn(config.dim) * 0.02)
        self.position = nn.Parameter(torch.randn(1 + config.num_patches, config.dim) * 0.02)
        self.blocks = nn.ModuleList(
            PreNormBlock(config.dim, config.num_heads, config.mlp_dim, norm_eps=config.norm_eps)
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)

    def forward(
        self,
        spectrograms: Float[Tensor, "batch windows mels hops"],
        window_valid: Bool[Tensor, "batch windows"],
    ) -> EncoderOutput:
        """Encode spectrogram windows.

        Args:
            spectrograms: Normalised log-mel energies.
            window_valid: True for windows that hold sound.

        Returns:
            Tokens `[batch, windows * (1 + patches), dim]` and one summary per window.
        """
        mels, hops = self.config.patch_mels, self.config.patch_hops
        batch, windows = window_valid.shape
        x = spectrograms.flatten(0, 1).unflatten(1, (-1, mels)).unflatten(3, (-1, hops))
        x = self.patch_embedding(x.permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2))
        x = torch.cat([self.cls_token.expand(batch * windows, 1, -1).to(x.dtype), x], dim=1)
        x = x + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x).view(batch, windows, x.shape[1], -1)
        token_valid = window_valid[:, :, None].expand(-1, -1, x.shape[2])
        return EncoderOutput(
            tokens=Tokens(features=x.flatten(1, 2), valid=token_valid.flatten(1)),
            summary=Tokens(features=x[:, :, 0], valid=window_valid),
        )
