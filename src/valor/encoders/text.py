"""BERT with optional cross-attention: the text encoder and the decoder's body in one.

VALOR shares these weights between both uses (paper 3.2): called without memory it encodes text
in both directions; called with memory it is the conditional decoder's stack of layers.

Source: VALOR 3.4 and table 6; upstream `model/bert.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from valor.config import configclass
from valor.encoders.layers import Attention, FeedForward, KeyValue, check_heads
from valor.types import AUDIOVISUAL, Groups, Modality, TextBatch, Tokens, as_groups, union

CrossAttentionKind = Literal["concatenated", "parallel", "vision_audio", "audio_vision", "none"]

_SOURCES: dict[CrossAttentionKind, dict[str, Modality]] = {
    "concatenated": {"media": AUDIOVISUAL},
    "parallel": {"vision": Modality.VISION, "audio": Modality.AUDIO},
    "vision_audio": {"vision": Modality.VISION, "audio": Modality.AUDIO},
    "audio_vision": {"audio": Modality.AUDIO, "vision": Modality.VISION},
    "none": {},
}
"""What each cross-attention of a layer looks at, in the order in which they run."""


@configclass
class BertConfig:
    """Sizes of the text transformer."""

    kind: Literal["bert"] = "bert"
    vocab_size: int = 30_522
    """Words and parts of words that the tokenizer knows."""
    max_length: int = 512
    """Most tokens of a text; there is a learned position for each."""
    dim: int = 768
    """Width of the tokens."""
    num_layers: int = 12
    """Transformer layers."""
    num_heads: int = 12
    """Heads of attention of each layer; they share `dim` evenly."""
    mlp_dim: int = 3072
    """Width between the two linear maps that follow attention in a layer."""
    dropout: float = 0.1
    """Share of values set to zero in training, of embeddings and of what each layer adds."""
    norm_eps: float = 1e-12
    """Added to the variance in layer norms."""
    cross_attention: CrossAttentionKind = "concatenated"
    """How a layer looks at media: at vision and audio in a row, at each by itself with the results
    added, or at one after the other. With `none`, media stand before the text and are part of
    self-attention (the paper's merged attention)."""

    def __post_init__(self) -> None:
        """Reject sizes that do not fit together."""
        check_heads(self.dim, self.num_heads)

    @property
    def cross_attention_names(self) -> tuple[str, ...]:
        """Names of a layer's cross-attentions, in the order in which they run."""
        return tuple(_SOURCES[self.cross_attention])


@dataclass(slots=True)
class Seen:
    """What one cross-attention sees of the memory."""

    source: KeyValue
    allowed: Bool[Tensor, "batch #texts tokens"] | None
    """Of each row's texts; None if there is nothing to hide."""
    present: Bool[Tensor, "batch #texts"] | None
    """False for texts whose row has none of it; None if all have."""


@dataclass(slots=True)
class Memory:
    """Everything the decoder can look at, projected once however many texts follow."""

    tokens: dict[Modality, Tokens]
    """By single modality, in the decoder's width."""
    layers: list[dict[str, KeyValue]]
    """Of every layer, keys and values by cross-attention."""
    sources: Mapping[str, Modality]
    """The modalities of each cross-attention."""

    @property
    def num_rows(self) -> int:
        """Rows of the batch."""
        return len(next(iter(self.tokens.values())).valid)

    def rows(self, rows: Int[Tensor, " some"]) -> "Memory":
        """The memory of these rows, in this order."""
        tokens = {
            modality: Tokens(features=tokens.features[rows], valid=tokens.valid[rows])
            for modality, tokens in self.tokens.items()
        }
        layers = [
            {name: KeyValue(*(part[rows] for part in source)) for name, source in layer.items()}
            for layer in self.layers
        ]
        return Memory(tokens, layers, self.sources)

    def has(self, group: Modality) -> Bool[Tensor, " batch"]:
        """True for rows with every modality of the group."""
        if any(modality not in self.tokens for modality in group):
            return torch.zeros_like(next(iter(self.tokens.values())).valid[:, 0])
        return torch.stack([self.tokens[m].valid.any(dim=1) for m in group]).all(dim=0)

    def select(self, group: Modality) -> Tokens:
        """The tokens of a group's modalities in a row."""
        parts = [tokens for modality, tokens in self.tokens.items() if modality in group]
        if not parts:
            raise ValueError(f"nothing to describe: no tokens of {group.label!r}")
        return Tokens(
            features=torch.cat([part.features for part in parts], dim=1),
            valid=torch.cat([part.valid for part in parts], dim=1),
        )

    def valid_for(self, groups: Groups) -> Bool[Tensor, "batch groups tokens"]:
        """True where a group sees a token, of those that any of the groups sees."""
        several = as_groups(groups)
        parts = [
            tokens.valid[:, None] & tokens.valid.new_tensor([[modality in g] for g in several])
            for modality, tokens in self.tokens.items()
            if modality in union(several)
        ]
        return torch.cat(parts, dim=2)

    def seen_from(self, groups: Groups) -> list[dict[str, Seen]]:
        """What each layer sees for a group, or for that of each of a row's texts."""
        views: dict[str, tuple[slice, Tensor | None, Tensor | None]] = {}
        for name, modalities in self.sources.items():
            seen = [modalities & group for group in as_groups(groups)]
            if any(m in self.tokens for m in union(seen)):
                valid = self.valid_for(seen)
                whole = bool(valid.all())
                present = valid.any(dim=2)
                views[name] = (
                    self._stretch(modalities, union(seen)),
                    None if whole else valid | ~present[..., None],
                    None if whole else present,
                )
        return [
            {
                name: Seen(layer[name].cut(stretch), allowed, present)
                for name, (stretch, allowed, present) in views.items()
            }
            for layer in self.layers
        ]

    def _stretch(self, modalities: Modality, group: Modality) -> slice:
        """Where a group's tokens stand among those that a cross-attention projected."""
        stop, bounds = 0, list[int]()
        for modality, tokens in self.tokens.items():
            if modality in modalities:
                start, stop = stop, stop + tokens.valid.shape[1]
                bounds += [start, stop] if modality in group else []
        return slice(bounds[0], bounds[-1])


@dataclass(slots=True)
class TextCache:
    """Keys and values of a text in the making: room for all of it, and how much is kept.

    What is written behind the kept tokens can be attended to in the same step and is overwritten
    in the next one, which is how a [MASK] is asked without ever being remembered.
    """

    layers: list[KeyValue]
    valid: Bool[Tensor, "rows room"]
    num_kept: int = 0

    def repeat(self, copies: int) -> "TextCache":
        """Copies of every row, next to each other."""
        layers = [KeyValue(*(t.repeat_interleave(copies, 0) for t in kv)) for kv in self.layers]
        return TextCache(layers, self.valid.repeat_interleave(copies, 0), self.num_kept)

    def reorder(self, rows: Int[Tensor, " rows"], first: int) -> None:
        """Give each row another row's tokens from `first` on, as when beams are reordered."""
        changed = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
        if len(changed):
            for layer in self.layers:
                for part in layer:
                    text = part[:, :, first : self.num_kept]
                    text[changed] = text[rows[changed]]


class CrossAttention(nn.Module):
    """Attention to media, with residual and norm.

    Args:
        config: Sizes.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = Attention(config.dim, config.num_heads)
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "rows length dim"], seen: Seen
    ) -> Float[Tensor, "rows length dim"]:
        """Look at the memory; the rows of `x` are `[batch, copies]` and copies share a memory."""
        batch = len(seen.source.key)
        queries, allowed = x.view(batch, -1, x.shape[-1]), seen.allowed
        if allowed is not None:
            copies = 1 if allowed.shape[1] == 1 else queries.shape[1] // allowed.shape[1]
            allowed = allowed.repeat_interleave(copies, dim=1)[:, None]
        attended = self.attention(queries, seen.source, allowed=allowed)
        return self.norm(x + self.dropout(attended.view(x.shape)))


class BertLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward, each with a residual and post-norm.

    Args:
        config: Sizes.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.adds = config.cross_attention == "parallel"
        self.attention = Attention(config.dim, config.num_heads)
        self.attention_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.cross = nn.ModuleDict(
            {name: CrossAttention(config) for name in config.cross_attention_names}
        )
        self.mlp = FeedForward(config.dim, config.mlp_dim)
        self.mlp_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    @property
    def cross_attentions(self) -> dict[str, CrossAttention]:
        """By what they look at."""
        return {n: m for n, m in self.cross.items() if isinstance(m, CrossAttention)}

    def project_media(
        self, name: str, features: Float[Tensor, "rows tokens dim"]
    ) -> tuple[Float[Tensor, "rows heads tokens head_dim"], ...]:
        """Keys and values of what one cross-attention looks at."""
        return tuple(self.cross_attentions[name].attention.project(features))

    def forward(
        self,
        x: Float[Tensor, "rows length dim"],
        allowed: Bool[Tensor, "#rows 1 #length tokens"] | None,
        *,
        seen: Mapping[str, Seen] | None = None,
        cache: KeyValue | None = None,
        num_kept: int = 0,
        only_last: bool = False,
    ) -> Float[Tensor, "rows out dim"]:
        """Run the layer; with a cache, its new keys and values are written behind the kept ones.

        With `only_last`, the other tokens are seen, and nothing comes out for them.
        """
        source = self.attention.project(x)
        if cache is not None:
            source = cache.write(source, num_kept)
        if only_last:
            x, allowed = x[:, -1:].contiguous(), None if allowed is None else allowed[:, :, -1:]
        x = self.attention_norm(x + self.dropout(self.attention(x, source, allowed=allowed)))
        if seen:
            x = self._look(x, seen)
        return self.mlp_norm(x + self.dropout(self.mlp(x)))

    def _look(self, x: Tensor, seen: Mapping[str, Seen]) -> Tensor:
        """Look at media; what a row does not have leaves it as it is."""
        results = []
        for name, attention in self.cross.items():
            if name in seen:
                looked, present = attention(x, seen[name]), seen[name].present
                if present is not None:
                    copies = len(x) // present.numel()
                    there = present.flatten().repeat_interleave(copies)[:, None, None]
                    looked = torch.where(there, looked, 0.0 if self.adds else x)
                results.append(looked)
                x = x if self.adds else looked
        return torch.stack(results).sum(dim=0) if len(results) > 1 and self.adds else results[-1]


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
        self.prompt_mark = nn.Parameter(torch.randn(config.dim) * 0.02)
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.num_layers))

    @property
    def bert_layers(self) -> list[BertLayer]:
        """All layers, by their type."""
        return [layer for layer in self.layers if isinstance(layer, BertLayer)]

    def remember(self, tokens: dict[Modality, Tokens]) -> Memory:
        """Project media tokens for every cross-attention of every layer.

        Args:
            tokens: In this transformer's width, by single modality.

        Returns:
            What decoders of any group of these modalities look at.

        Raises:
            ValueError: If there is no modality at all.
        """
        if not tokens:
            raise ValueError("no media to describe: neither vision nor audio tokens")
        sources = _SOURCES[self.config.cross_attention]
        memory = Memory(tokens, [{} for _ in self.layers], sources)
        for name, modalities in sources.items():
            if any(modality in tokens for modality in modalities):
                features = memory.select(modalities).features
                for layer, projected in zip(self.bert_layers, memory.layers, strict=True):
                    projected[name] = KeyValue(*layer.project_media(name, features))
        return memory

    def forward(
        self,
        token_ids: Int[Tensor, "rows length"],
        valid: Bool[Tensor, "rows length"],
        *,
        num_prefix: int = 0,
    ) -> Float[Tensor, "rows length dim"]:
        """Encode text in both directions; vectors at padded positions are meaningless."""
        x = self.embed(token_ids, count_positions(valid, num_prefix), num_prefix=num_prefix)
        # A row without text sees its padding, so that no row's softmax is empty.
        seen = valid | ~valid.any(dim=1, keepdim=True)
        return self.run(x, seen[:, None, None, :])

    def embed(
        self,
        token_ids: Int[Tensor, "rows length"],
        positions: Int[Tensor, "#rows length"],
        *,
        num_prefix: int = 0,
    ) -> Float[Tensor, "rows length dim"]:
        """Sum of word and position embeddings, normalised; the prefix is marked as a prompt."""
        x = self.word_embedding(token_ids) + self.position_embedding(positions)
        is_prompt = torch.arange(x.shape[1], device=x.device) < num_prefix
        x = x + is_prompt[:, None] * self.prompt_mark
        return self.dropout(self.norm(x))

    def run(
        self,
        x: Float[Tensor, "rows length dim"],
        allowed: Bool[Tensor, "#rows 1 #length tokens"] | None,
        *,
        seen: Sequence[Mapping[str, Seen]] | None = None,
        cache: TextCache | None = None,
        only_last: bool = False,
    ) -> Float[Tensor, "rows out dim"]:
        """Run all layers over embedded tokens; returns all vectors, or the last token's only."""
        for index, layer in enumerate(self.layers):
            x = layer(
                x,
                allowed,
                seen=seen[index] if seen else None,
                cache=cache.layers[index] if cache else None,
                num_kept=cache.num_kept if cache else 0,
                only_last=only_last and index == len(self.layers) - 1,
            )
        return x

    def new_cache(self, rows: int, room: int) -> TextCache:
        """An empty cache for texts of up to `room` tokens."""
        config, weight = self.config, self.word_embedding.weight
        sizes = (rows, config.num_heads, room, config.dim // config.num_heads)
        layers = [KeyValue(weight.new_empty(sizes), weight.new_empty(sizes)) for _ in self.layers]
        return TextCache(layers, torch.ones(rows, room, dtype=torch.bool, device=weight.device))


def count_positions(
    valid: Bool[Tensor, "rows length"], num_prefix: int = 0
) -> Int[Tensor, "rows length"]:
    """Position of every valid token among the valid ones of its part, prefix or text."""
    parts = (valid[:, :num_prefix], valid[:, num_prefix:])
    return torch.cat([part.cumsum(dim=1).sub(1).clamp(min=0) for part in parts], dim=1)


def prefix_causal_mask(
    valid: Bool[Tensor, "rows length"], num_prefix: int = 0
) -> Bool[Tensor, "rows 1 length length"]:
    """True where position i may see position j: the prefix, and what stands before or at i."""
    length = valid.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool, device=valid.device).tril()
    seen[:, :num_prefix] = True
    diagonal = torch.eye(length, dtype=torch.bool, device=valid.device)
    return ((seen & valid[:, None, :]) | diagonal)[:, None]


def fully_masked_mask(
    valid: Bool[Tensor, "rows length"], num_prefix: int = 0
) -> Bool[Tensor, "rows 1 whole whole"]:
    """The mask of a text with a [MASK] after each of its words, all of which stand at the end.

    The [MASK] of position i sees what position i sees, and itself; no other token sees it.

    Args:
        valid: Of prefix and text.
        num_prefix: Length of the prefix, which has no [MASK].

    Returns:
        The mask over prefix, text and as many [MASK] as the text has positions.
    """
    text = prefix_causal_mask(valid, num_prefix)
    num_masks = valid.shape[1] - num_prefix
    itself = torch.eye(num_masks, dtype=torch.bool, device=valid.device)
    itself = itself.expand(len(valid), 1, -1, -1)
    unseen = torch.zeros_like(text[..., :num_masks])
    above = torch.cat([text, unseen], dim=3)
    below = torch.cat([text[:, :, num_prefix:], itself], dim=3)
    return torch.cat([above, below], dim=2)


def with_prompt(prompt: Sequence[int], texts: TextBatch) -> TextBatch:
    """Put the same token ids before every row."""
    if not prompt:
        return texts
    ids = texts.token_ids.new_tensor(prompt).expand(len(texts.token_ids), -1)
    return join_texts(TextBatch(token_ids=ids, valid=torch.ones_like(ids, dtype=torch.bool)), texts)


def interleave(texts: Sequence[TextBatch]) -> TextBatch:
    """Put the texts of each row next to each other, so that rows are `[row, text]`."""
    length = max(text.token_ids.shape[1] for text in texts)

    def together(parts: Sequence[Shaped[Tensor, "rows _"]]) -> Shaped[Tensor, "texts length"]:
        padded = [F.pad(part, (0, length - part.shape[1])) for part in parts]
        return torch.stack(padded, dim=1).flatten(0, 1)

    return TextBatch(
        token_ids=together([text.token_ids for text in texts]),
        valid=together([text.valid for text in texts]),
    )


def join_texts(first: TextBatch, second: TextBatch) -> TextBatch:
    """Put each row of the second behind the same row of the first."""
    return TextBatch(
        token_ids=torch.cat([first.token_ids, second.token_ids], dim=1),
        valid=torch.cat([first.valid, second.valid], dim=1),
    )
