"""BERT with optional cross-attention: the text encoder and the decoder's body in one.

VALOR shares these weights between both uses (paper 3.2): called without memory it encodes text
in both directions; called with memory it is the conditional decoder's stack of layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from valor.config import configclass
from valor.encoders.layers import Attention, FeedForward, KeyValue
from valor.types import Modality, TextBatch


@configclass
class BertConfig:
    """Sizes of the text transformer."""

    kind: Literal["bert"] = "bert"
    vocab_size: int = 30_522
    max_length: int = 512
    dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    dropout: float = 0.1
    norm_eps: float = 1e-12
    marks_prompts: bool = False
    """Mark the tokens of a prompt or question, and count positions from 0 again after it, as the
    released models do."""

    def __post_init__(self) -> None:
        """Reject sizes that do not fit together."""
        if self.dim % self.num_heads:
            raise ValueError(f"dim={self.dim} is no multiple of num_heads={self.num_heads}")


@dataclass(slots=True)
class Memory:
    """Everything the decoder can look at: keys and values per layer, projected once per step.

    Several groups of text rows (modality groups in training, beams in generation) share each row
    of the memory; a group is a mask over it.
    """

    layers: list[KeyValue]
    valid: dict[Modality, Bool[Tensor, "batch tokens"]]
    """By single modality: True at its tokens that are there."""

    def has(self, group: Modality) -> Bool[Tensor, " batch"]:
        """True for rows with every modality of the group."""
        if any(modality not in self.valid for modality in group):
            return torch.zeros_like(next(iter(self.valid.values()))[:, 0])
        return torch.stack([self.valid[m].any(dim=1) for m in group]).all(dim=0)

    def allowed(
        self, groups: Sequence[Modality], length: int
    ) -> Bool[Tensor, "batch 1 queries tokens"]:
        """Mask for groups of `length` queries each, one behind the other.

        A row that has nothing of a group sees everything, so that no softmax is empty: what comes
        out there must not be used.
        """
        nowhere = torch.zeros_like(next(iter(self.valid.values())))
        seen = []
        for group in groups:
            parts = [self.valid[m] for m in group if m in self.valid] or [nowhere]
            mask = torch.stack(parts).any(dim=0)
            seen.append(mask | ~mask.any(dim=1, keepdim=True))
        return torch.stack(seen, dim=1).repeat_interleave(length, dim=1)[:, None]


class BertLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward, each with a residual and post-norm.

    Args:
        config: Sizes.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = Attention(config.dim, config.num_heads)
        self.attention_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.cross_attention = Attention(config.dim, config.num_heads)
        self.cross_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.mlp = FeedForward(config.dim, config.mlp_dim)
        self.mlp_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "rows length dim"],
        allowed: Bool[Tensor, "rows 1 length tokens"],
        *,
        past: KeyValue | None = None,
        memory: KeyValue | None = None,
        memory_allowed: Bool[Tensor, "batch 1 queries memory"] | None = None,
    ) -> tuple[Float[Tensor, "rows length dim"], KeyValue]:
        """Run the layer; also returns the self-attention's keys and values, past ones included."""
        present = self.attention.project(x)
        if past is not None:
            present = past.append(present)
        attended = self.attention(x, present, allowed=allowed)
        x = self.attention_norm(x + self.dropout(attended))
        if memory is not None:
            x = self.cross_norm(x + self.dropout(self._look(x, memory, memory_allowed)))
        return self.mlp_norm(x + self.dropout(self.mlp(x))), present

    def _look(self, x: Tensor, memory: KeyValue, allowed: Tensor | None) -> Tensor:
        """Attend to the memory; rows are `[group, batch]`, and groups line up along the length."""
        batch, (rows, length, dim) = memory.key.shape[0], x.shape
        queries = x.view(-1, batch, length, dim).transpose(0, 1).reshape(batch, -1, dim)
        attended = self.cross_attention(queries, memory, allowed=allowed)
        return attended.view(batch, -1, length, dim).transpose(0, 1).reshape(rows, length, dim)


class TextTransformer(nn.Module):
    """BERT's embeddings and layers.

    Args:
        config: Sizes.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.word_embedding = nn.Embedding(config.vocab_size, config.dim)
        self.position_embedding = nn.Embedding(config.max_length, config.dim)
        # The words are the decoder's output matrix too: this keeps the size of its signals.
        nn.init.normal_(self.word_embedding.weight, std=config.dim**-0.5)
        nn.init.normal_(self.position_embedding.weight, std=0.02)
        self.prompt_mark = (
            nn.Parameter(torch.randn(config.dim) * 0.02) if config.marks_prompts else None
        )
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.num_layers))

    @property
    def cross_attentions(self) -> list[Attention]:
        """Of every layer."""
        return [layer.cross_attention for layer in self.layers if isinstance(layer, BertLayer)]

    def project(self, features: Float[Tensor, "batch tokens dim"]) -> list[KeyValue]:
        """Cross-attention keys and values of every layer."""
        return [attention.project(features) for attention in self.cross_attentions]

    def forward(
        self,
        token_ids: Int[Tensor, "rows length"],
        valid: Bool[Tensor, "rows length"],
        *,
        num_prefix: int = 0,
    ) -> Float[Tensor, "rows length dim"]:
        """Encode text in both directions; vectors at padded positions are meaningless."""
        x = self.embed(token_ids, valid, num_prefix=num_prefix)
        # A row without text sees its padding, so that no row's softmax is empty.
        seen = valid | ~valid.any(dim=1, keepdim=True)
        allowed = seen[:, None, None, :].expand(-1, 1, token_ids.shape[1], -1)
        for layer in self.layers:
            x, _ = layer(x, allowed)
        return x

    def embed(
        self,
        token_ids: Int[Tensor, "rows length"],
        valid: Bool[Tensor, "rows length"],
        *,
        num_prefix: int = 0,
        num_past: int = 0,
    ) -> Float[Tensor, "rows new dim"]:
        """Sum of word and position embeddings, normalised.

        Args:
            token_ids: Whole rows.
            valid: Positions count these only.
            num_prefix: This many first tokens are a prompt.
            num_past: This many first tokens need no embedding any more.

        Returns:
            The embedded tokens after the past ones.
        """
        if self.prompt_mark is None:
            positions = _count(valid)
        else:
            parts = (valid[:, :num_prefix], valid[:, num_prefix:])
            positions = torch.cat([_count(part) for part in parts], dim=1)
        x = self.word_embedding(token_ids[:, num_past:])
        x = x + self.position_embedding(positions[:, num_past:])
        if self.prompt_mark is not None:
            is_prompt = torch.arange(num_past, token_ids.shape[1], device=x.device) < num_prefix
            x = x + is_prompt[:, None] * self.prompt_mark
        return self.dropout(self.norm(x))


def _count(valid: Bool[Tensor, "rows length"]) -> Int[Tensor, "rows length"]:
    """Position of every valid token among the valid ones."""
    return valid.cumsum(dim=1).sub(1).clamp(min=0)


def prefix_causal_mask(
    valid: Bool[Tensor, "rows length"], num_prefix: int = 0
) -> Bool[Tensor, "rows 1 length length"]:
    """True where position i may see position j: the prefix, and what stands before or at i."""
    length = valid.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool, device=valid.device).tril()
    seen[:, :num_prefix] = True
    diagonal = torch.eye(length, dtype=torch.bool, device=valid.device)
    return ((seen & valid[:, None, :]) | diagonal)[:, None]


def with_prompt(prompt: Sequence[int], texts: TextBatch) -> TextBatch:
    """Put the same token ids before every row."""
    if not prompt:
        return texts
    rows = len(texts.token_ids)
    ids = texts.token_ids.new_tensor(prompt).expand(rows, -1)
    return TextBatch(
        token_ids=torch.cat([ids, texts.token_ids], dim=1),
        valid=torch.cat([torch.ones_like(ids, dtype=torch.bool), texts.valid], dim=1),
    )
