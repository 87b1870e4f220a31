"""The conditional decoder: a text transformer looking at vision and audio tokens.

Its layers are the text encoder's own where the two are shared (paper 3.2). A group of modalities is
a part of the memory, so that all groups of a step share the encoder states and the cross-attention
keys and values.

Source: VALOR 3.2 and 3.4; upstream `model/pretrain.py`.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from valor.config import configclass
from valor.encoders.layers import Linear, linear, packed
from valor.encoders.text import (
    Memory,
    TextCache,
    TextTransformer,
    count_positions,
    fully_masked_mask,
    join_texts,
    prefix_causal_mask,
    with_prompt,
)
from valor.types import EncoderOutput, Groups, TextBatch, Tokens, as_groups, union


class MemoryProjection(nn.Module):
    """Bring one modality's tokens to the decoder's width and mark where they come from.

    Args:
        source_dim: Width of the encoder's tokens.
        dim: Width of the decoder.
        max_positions: Largest number of frames or windows.
        projects: Whether there is a projection at all; without one the widths must be equal.
    """

    def __init__(
        self, source_dim: int, dim: int, max_positions: int, *, projects: bool = True
    ) -> None:
        super().__init__()
        self.projection = Linear(source_dim, dim) if projects else nn.Identity()
        self.norm = nn.LayerNorm(dim) if projects else nn.Identity()
        self.position = nn.Parameter(torch.randn(max_positions, dim) * 0.02)
        self.modality = nn.Parameter(torch.randn(dim) * 0.02)

    def forward(self, encoded: EncoderOutput) -> Tokens:
        """Project, then add the embedding of the frame or window and of the modality."""
        positions = encoded.summary.features.shape[1]
        per_position = encoded.tokens.features.shape[1] // positions
        place = self.position[:positions].repeat_interleave(per_position, dim=0)
        features = self.norm(self.projection(encoded.tokens.features)) + place + self.modality
        return Tokens(features=features, valid=encoded.tokens.valid)


@dataclass(slots=True, kw_only=True)
class Remembered:
    """What a system that describes returns of a batch."""

    memory: Memory | None
    """What the decoder looks at; None if the batch has nothing to describe."""


@runtime_checkable
class Predictor(Protocol):
    """What objectives ask of the part of a system that predicts words."""

    def caption_prompt(self, num_rows: int) -> TextBatch:
        """What stands before captions."""
        ...

    def question_prompt(self, questions: TextBatch) -> TextBatch:
        """What stands before answers."""
        ...

    def read(
        self, prompt: TextBatch, texts: TextBatch, memory: Memory, groups: Groups
    ) -> Float[Tensor, "rows length dim"]:
        """Hidden vectors of texts behind a prompt; of each row of the memory and each group."""
        ...

    def word_logits(self, hidden: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows vocab"]:
        """Score every word."""
        ...


@configclass
class PromptConfig:
    """Token ids of the task prompts that VALOR-L was trained with; empty for none."""

    align: tuple[int, ...] = ()
    """Stands beside a text that is embedded: "project language in common space"."""
    caption: tuple[int, ...] = ()
    """Stands before a caption: "describe the video with natural language"."""
    answer: tuple[int, ...] = ()
    """Stands in a question, after its first token: "answer the question", without start and end."""


class Decoder(nn.Module):
    """Predict words from text and, by attention, from media.

    Args:
        text: The text transformer; the text encoder's own where the two are shared.
        prompts: Put before captions and into questions.
        causal: Whether a word is predicted by the one before it, as in plain language models, and
            not by a [MASK] in its place.
    """

    def __init__(
        self, text: TextTransformer, prompts: PromptConfig | None = None, *, causal: bool = False
    ) -> None:
        super().__init__()
        config = text.config
        self.prompts = prompts or PromptConfig()
        self.causal = causal
        self.text = text
        self.transform = Linear(config.dim, config.dim)
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self._packed_words: Tensor | None = None

    def forward(
        self,
        text: TextBatch,
        memory: Memory,
        groups: Groups,
        *,
        num_prefix: int = 0,
        cache: TextCache | None = None,
    ) -> Float[Tensor, "rows length dim"]:
        """Run all layers over whole texts.

        Args:
            text: Prompt and text, of each row of the memory and each of the groups.
            memory: What to look at.
            groups: The part of the memory to look at, or that of each of a row's texts.
            num_prefix: This many first tokens are a prompt that is seen in both directions.
            cache: Filled with the keys and values of everything that was run.

        Returns:
            Hidden vectors of prompt and text.
        """
        positions = count_positions(text.valid, num_prefix)
        x = self.text.embed(text.token_ids, positions, num_prefix=num_prefix)
        x, valid, num_media = self._behind_media(x, text.valid, memory, groups)
        if cache:
            cache.valid[:, : x.shape[1]] = valid
        allowed = prefix_causal_mask(valid, num_media + num_prefix)
        return self.text.run(x, allowed, seen=memory.seen_from(groups), cache=cache)[:, num_media:]

    def _behind_media(
        self, x: Tensor, valid: Tensor, memory: Memory, groups: Groups
    ) -> tuple[Tensor, Tensor, int]:
        """With merged attention, put the media tokens before the text."""
        if memory.sources:
            return x, valid, 0
        several = as_groups(groups)
        media = memory.select(union(several)).features.to(x.dtype)
        x = torch.cat([media.repeat_interleave(len(several), dim=0), x], dim=1)
        media_valid = memory.valid_for(several).flatten(0, 1)
        return x, torch.cat([media_valid, valid], dim=1), media.shape[1]

    def read(
        self, prompt: TextBatch, texts: TextBatch, memory: Memory, groups: Groups
    ) -> Float[Tensor, "rows length dim"]:
        """Hidden vectors of texts behind a prompt, which is seen whole and never sees the text."""
        num_prefix = prompt.token_ids.shape[1]
        whole = join_texts(prompt, texts)
        return self(whole, memory, groups, num_prefix=num_prefix)[:, num_prefix:]

    def read_fully_masked(
        self,
        prompt: TextBatch,
        texts: TextBatch,
        memory: Memory,
        groups: Groups,
        *,
        mask_id: int,
    ) -> Float[Tensor, "rows length dim"]:
        """Hidden vectors of a [MASK] after every word, so that one pass predicts all words.

        Args:
            prompt: May be empty.
            texts: As they are.
            memory: What to look at.
            groups: The part of the memory to look at, or that of each of a row's texts.
            mask_id: Token id of [MASK].

        Returns:
            At position i, the vector that predicts word i + 1 from the words up to i.

        Source:
            Upstream `model/pretrain.py`, option `full_masker`, used for VQA v2.
        """
        num_prefix = prompt.token_ids.shape[1]
        whole = join_texts(prompt, texts)
        positions = count_positions(whole.valid, num_prefix)
        ids = torch.cat([whole.token_ids, torch.full_like(texts.token_ids, mask_id)], dim=1)
        positions = torch.cat([positions, positions[:, num_prefix:] + 1], dim=1)
        x = self.text.embed(ids, positions, num_prefix=num_prefix)
        x, valid, num_media = self._behind_media(x, whole.valid, memory, groups)
        allowed = fully_masked_mask(valid, num_media + num_prefix)
        hidden = self.text.run(x, allowed, seen=memory.seen_from(groups))
        return hidden[:, num_media + whole.token_ids.shape[1] :]

    def caption_prompt(self, num_rows: int) -> TextBatch:
        """What stands before captions; empty if there is no task prompt."""
        ids = torch.tensor(self.prompts.caption, dtype=torch.long, device=self.bias.device)
        ids = ids.expand(num_rows, -1)
        return TextBatch(token_ids=ids, valid=torch.ones_like(ids, dtype=torch.bool))

    def question_prompt(self, questions: TextBatch) -> TextBatch:
        """What stands before answers: the question, completed by the task prompt."""
        first = TextBatch(token_ids=questions.token_ids[:, :1], valid=questions.valid[:, :1])
        rest = TextBatch(token_ids=questions.token_ids[:, 1:], valid=questions.valid[:, 1:])
        return join_texts(first, with_prompt(self.prompts.answer, rest))

    @property
    def most_tokens(self) -> int:
        """Words of the longest text that it can write: each has a position, and so has a [MASK]."""
        return self.text.config.max_length - (not self.causal)

    def pack(self) -> None:
        """Speed up writing on the CPU by half; afterwards the decoder is for inference only.

        Its layers' weights change their layout; the words, which are read one by one too, get a
        copy, which is all the memory that it takes.
        """
        if self.bias.device.type == "cpu" and self.bias.dtype == torch.float32:
            for module in self.text.layers.modules():
                if isinstance(module, Linear):
                    module.pack()
            self._packed_words = packed(self.text.word_embedding.weight)

    def word_logits(self, hidden: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows vocab"]:
        """Score every word; the output matrix is the word embedding (BERT's tied head)."""
        x = self.norm(linear(hidden, self.transform.weight, self.transform.bias, gelu=True))
        words = self.text.word_embedding.weight
        return linear(
            x, words if self._packed_words is None else self._packed_words, self.bias
        ).float()
