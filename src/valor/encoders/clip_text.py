"""CLIP's text encoder: a causal transformer whose last token is the text's summary.

Source: CLIP (arXiv 2103.00020); upstream `model/clip.py`, `encode_text`.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from valor.config import configclass
from valor.encoders.layers import Activation, PreNormBlock, check_heads
from valor.encoders.text import prefix_causal_mask


@configclass
class ClipTextConfig:
    """Sizes of the text encoder; the defaults are those of CLIP ViT-B/16."""

    kind: Literal["clip_text"] = "clip_text"
    vocab_size: int = 49_408
    """Words and parts of words that the tokenizer knows."""
    max_length: int = 77
    """Most tokens of a text; there is a learned position for each."""
    dim: int = 512
    """Width of the tokens."""
    num_layers: int = 12
    """Transformer layers."""
    num_heads: int = 8
    """Heads of attention of each layer; they share `dim` evenly."""
    activation: Activation = "quick_gelu"
    """What stands between the two linear maps of a layer's MLP."""

    def __post_init__(self) -> None:
        """Reject sizes that do not fit together."""
        check_heads(self.dim, self.num_heads)


class ClipTextTransformer(nn.Module):
    """Encode texts; every token sees itself and the ones before it.

    Args:
        config: Sizes.
    """

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.config = config
        self.word_embedding = nn.Embedding(config.vocab_size, config.dim)
        self.position = nn.Parameter(torch.randn(config.max_length, config.dim) * 0.01)
        nn.init.normal_(self.word_embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(
            PreNormBlock(config.dim, config.num_heads, 4 * config.dim, activation=config.activation)
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.dim)

    def forward(
        self, token_ids: Int[Tensor, "rows length"], valid: Bool[Tensor, "rows length"]
    ) -> Float[Tensor, "rows length dim"]:
        """Encode texts; vectors at padded positions are meaningless."""
        x = self.word_embedding(token_ids) + self.position[: token_ids.shape[1]]
        allowed = prefix_causal_mask(valid)
        for block in self.blocks:
            x = block(x, allowed=allowed)
        return self.norm(x)


def last_token(
    features: Float[Tensor, "rows length dim"], token_ids: Int[Tensor, "rows length"]
) -> Float[Tensor, "rows dim"]:
    """Pick each text's summary: CLIP's end token has the largest id of its vocabulary."""
    rows = torch.arange(len(token_ids), device=token_ids.device)
    return features[rows, token_ids.argmax(dim=1)]
