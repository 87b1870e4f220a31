"""The conditional decoder: the text transformer looking at vision and audio tokens.

Its layers are the text encoder's own, shared (paper 3.2). The memory is the vision and the audio
tokens in a row; a group of modalities is a mask over it, so that all groups of a step share the
encoder states and the cross-attention keys and values.

Source: VALOR 3.2 and 3.4; upstream `model/pretrain.py`, cross-attention type `va_concate`.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from valor.config import configclass
from valor.encoders.layers import KeyValue
from valor.encoders.text import Memory, TextTransformer, prefix_causal_mask, with_prompt
from valor.types import EncoderOutput, Modality, TextBatch, Tokens


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
        self.projection = nn.Linear(source_dim, dim) if projects else nn.Identity()
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
    """Predict words from text and, by cross-attention, from media.

    Args:
        text: The text transformer, shared with the text encoder.
        prompts: Put before captions and into questions.
    """

    def __init__(self, text: TextTransformer, prompts: PromptConfig | None = None) -> None:
        super().__init__()
        config = text.config
        self.prompts = prompts or PromptConfig()
        self.text = text
        self.transform = nn.Linear(config.dim, config.dim)
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def remember(self, memory: dict[Modality, Tokens]) -> Memory:
        """Put all media tokens in a row and project them for every layer.

        Args:
            memory: Projected tokens by single modality.

        Returns:
            Keys and values that every group of text rows shares.

        Raises:
            ValueError: If there is no modality at all.
        """
        if not memory:
            raise ValueError("no media to describe: neither vision nor audio tokens")
        features = torch.cat([tokens.features for tokens in memory.values()], dim=1)
        valid = {}
        for modality in memory:
            parts = [t.valid & (m == modality) for m, t in memory.items()]
            valid[modality] = torch.cat(parts, dim=1)
        return Memory(self.text.project(features), valid)

    def forward(
        self,
        text: TextBatch,
        memory: Memory,
        groups: Sequence[Modality],
        *,
        num_prefix: int = 0,
        past: list[KeyValue] | None = None,
    ) -> tuple[Float[Tensor, "rows new dim"], list[KeyValue]]:
        """Run all layers over text rows ordered `[group, batch]`.

        Args:
            text: Whole rows; with `past`, only the tokens after the past ones are run.
            memory: Shared by all groups.
            groups: What each set of rows may look at.
            num_prefix: This many first tokens are a prompt that is seen in both directions.
            past: Keys and values of earlier tokens, from a previous call.

        Returns:
            Hidden vectors of the tokens run, and keys and values of every layer, past included.
        """
        num_past = past[0].key.shape[2] if past else 0
        allowed = prefix_causal_mask(text.valid, num_prefix)[:, :, num_past:]
        x = self.text.embed(text.token_ids, text.valid, num_prefix=num_prefix, num_past=num_past)
        memory_allowed = memory.allowed(groups, x.shape[1])
        present = []
        for index, layer in enumerate(self.text.layers):
            x, key_value = layer(
                x,
                allowed,
                past=past[index] if past else None,
                memory=memory.layers[index],
                memory_allowed=memory_allowed,
            )
            present.append(key_value)
        return x, present

    def describe_masked(
        self, texts: TextBatch, memory: Memory, group: Modality
    ) -> Float[Tensor, "rows length dim"]:
        """Hidden vectors of captions with masked words, after the task prompt if there is one."""
        num_prefix = len(self.prompts.caption)
        whole = with_prompt(self.prompts.caption, texts)
        hidden, _ = self(whole, memory, [group], num_prefix=num_prefix)
        return hidden[:, num_prefix:]

    def question_prompt(self, questions: TextBatch) -> TextBatch:
        """Complete questions by the task prompt, as a prefix of their answers."""
        first = TextBatch(token_ids=questions.token_ids[:, :1], valid=questions.valid[:, :1])
        rest = TextBatch(token_ids=questions.token_ids[:, 1:], valid=questions.valid[:, 1:])
        rest = with_prompt(self.prompts.answer, rest)
        return TextBatch(
            token_ids=torch.cat([first.token_ids, rest.token_ids], dim=1),
            valid=torch.cat([first.valid, rest.valid], dim=1),
        )

    def word_logits(self, hidden: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows vocab"]:
        """Score every word; the output matrix is the word embedding (BERT's tied head)."""
        x = self.norm(F.gelu(self.transform(hidden)))
        return F.linear(x, self.text.word_embedding.weight, self.bias).float()
