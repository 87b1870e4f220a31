"""Write text with the conditional decoder: greedy and beam search over a key-value cache.

The decoder predicts the word that belongs at a [MASK]. Each step therefore feeds the last word and
a [MASK]; only the word's keys and values are kept, so cached and uncached generation agree exactly.

Source: VALOR 3.4, upstream `model/pretrain.py` generation.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from valor.encoders.layers import KeyValue
from valor.encoders.text import Memory, with_prompt
from valor.models.decoder import Decoder
from valor.types import Modality, SpecialIds, TextBatch


@dataclass(slots=True, kw_only=True)
class Generated:
    """The best text of every row."""

    token_ids: Int[Tensor, "batch length"]
    """Without start and end; padding after the end."""
    log_probability: Float[Tensor, " batch"]
    """Sum over the text's tokens and its end."""
    num_tokens: Int[Tensor, " batch"]
    """How many tokens the sum runs over."""


@dataclass(slots=True)
class _Beams:
    """Partial texts; rows of the cache are ordered `[beam, batch]`."""

    token_ids: Tensor
    score: Tensor
    finished: Tensor
    num_tokens: Tensor

    def select(self, beam: Tensor) -> "_Beams":
        """Keep, per row, the given beams."""
        parts = (self.score, self.finished, self.num_tokens)
        return _Beams(
            self.token_ids.gather(0, beam[..., None].expand(-1, -1, self.token_ids.shape[2])),
            *(part.gather(0, beam) for part in parts),
        )


@torch.no_grad()
def generate(
    decoder: Decoder,
    memory: Memory,
    group: Modality,
    *,
    special: SpecialIds,
    question: TextBatch | None = None,
    num_beams: int = 1,
    max_tokens: int = 30,
) -> Generated:
    """Generate one text per row of the memory.

    Args:
        decoder: In evaluation mode.
        memory: What to describe.
        group: The modalities to look at; a row may lack some of them, not all.
        special: The tokenizer's special ids.
        question: One per row, which the text answers; None asks for captions.
        num_beams: 1 is greedy search.
        max_tokens: The text ends here if no end token came before.

    Returns:
        The most probable text found for each row.
    """
    batch, device = len(memory.layers[0].key), memory.layers[0].key.device
    cache = _Cache(decoder, memory, [group] * num_beams, special, question)
    score = torch.full((num_beams, batch), float("-inf"), device=device)
    score[0] = 0.0
    beams = _Beams(
        token_ids=torch.zeros(num_beams, batch, 0, dtype=torch.long, device=device),
        score=score,
        finished=torch.zeros(num_beams, batch, dtype=torch.bool, device=device),
        num_tokens=torch.zeros(num_beams, batch, dtype=torch.long, device=device),
    )
    token = torch.full((num_beams * batch,), special.start, device=device)
    for _ in range(max_tokens):
        log_probability = cache.next(token).log_softmax(dim=-1).view(num_beams, batch, -1)
        beams, beam = _extend(beams, log_probability, special)
        if bool(beams.finished.all()):
            break
        cache.reorder((beam * batch + torch.arange(batch, device=device)).flatten())
        token = beams.token_ids[:, :, -1].flatten()
    best = beams.select(beams.score.argmax(dim=0, keepdim=True))
    ids = best.token_ids[0]
    return Generated(
        token_ids=ids.masked_fill(ids == special.end, special.pad),
        log_probability=best.score[0],
        num_tokens=best.num_tokens[0],
    )


def _extend(beams: _Beams, log_probability: Tensor, special: SpecialIds) -> tuple[_Beams, Tensor]:
    """Append the best next token to each beam; returns the beams that they came from too."""
    num_beams, _, vocab = log_probability.shape
    stay = torch.full_like(log_probability[0, 0], float("-inf"))
    stay[special.pad] = 0.0
    step = torch.where(beams.finished[..., None], stay, log_probability)
    candidates = (beams.score[..., None] + step).transpose(0, 1).flatten(1)
    score, index = candidates.topk(num_beams, dim=1)
    beam, token = (index // vocab).T, (index % vocab).T
    kept = beams.select(beam)
    return (
        _Beams(
            token_ids=torch.cat([kept.token_ids, token[..., None]], dim=2),
            score=score.T,
            finished=kept.finished | (token == special.end),
            num_tokens=kept.num_tokens + ~kept.finished,
        ),
        beam,
    )


class _Cache:
    """The text so far, with the decoder's keys and values of it; rows are `[beam, batch]`."""

    def __init__(
        self,
        decoder: Decoder,
        memory: Memory,
        groups: list[Modality],
        special: SpecialIds,
        question: TextBatch | None,
    ) -> None:
        self.decoder, self.memory, self.groups, self.mask_id = decoder, memory, groups, special.mask
        key = memory.layers[0].key
        rows = len(key) * len(groups)
        self.past: list[KeyValue] | None = None
        self.text = TextBatch(
            token_ids=torch.zeros(rows, 0, dtype=torch.long, device=key.device),
            valid=torch.zeros(rows, 0, dtype=torch.bool, device=key.device),
        )
        prompt = (
            with_prompt(decoder.prompts.caption, self.text)
            if question is None
            else decoder.question_prompt(question)
        )
        self.num_prefix = prompt.token_ids.shape[1]
        if self.num_prefix:
            copies = rows // len(prompt.token_ids)
            self._append(prompt.token_ids.repeat(copies, 1), prompt.valid.repeat(copies, 1))
            _, self.past = decoder(self.text, memory, groups, num_prefix=self.num_prefix)

    def next(self, token: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
        """Take one token and score every word as the one after it."""
        self._append(token[:, None], torch.ones_like(token[:, None], dtype=torch.bool))
        text = self.text
        self._append(torch.full_like(token[:, None], self.mask_id), text.valid[:, -1:])
        hidden, present = self.decoder(
            self.text, self.memory, self.groups, num_prefix=self.num_prefix, past=self.past
        )
        self.text = text
        self.past = [layer.head(text.valid.shape[1]) for layer in present]
        return self.decoder.word_logits(hidden[:, -1])

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Follow the beams that were kept."""
        self.past = [layer.select(rows) for layer in self.past or []]
        self.text = TextBatch(token_ids=self.text.token_ids[rows], valid=self.text.valid[rows])

    def _append(self, token_ids: Tensor, valid: Tensor) -> None:
        self.text = TextBatch(
            token_ids=torch.cat([self.text.token_ids, token_ids], dim=1),
            valid=torch.cat([self.text.valid, valid], dim=1),
        )
