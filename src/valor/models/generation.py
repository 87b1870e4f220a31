"""Write text with the conditional decoder: greedy and beam search, sampling, streaming.

The decoder predicts the word that belongs at a [MASK]. Each step therefore runs the last word and a
[MASK] over a cache of keys and values in which only words are kept, so that cached and uncached
generation agree. Cross-attention keys and values are projected once per file, not per beam.

Source: VALOR 3.4, upstream `model/pretrain.py`, `decode_greedy` and `decode_beam`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from valor.config import configclass
from valor.encoders.text import Memory, TextCache
from valor.errors import ConfigError
from valor.models.decoder import Decoder
from valor.types import Modality, SpecialIds, TextBatch

_NEVER = float("-inf")


@configclass
class GenerationConfig:
    """How words are chosen."""

    num_beams: int = 1
    """More than one keeps that many partial texts and takes the most probable whole one."""
    min_tokens: int = 0
    """The text does not end before it has this many."""
    max_tokens: int = 30
    """The text ends here if no end token came before."""
    temperature: float = 0.0
    """0 takes the most probable word; above, words are drawn, the likelier the lower it is."""
    top_k: int | None = None
    """Draw from this many most probable words."""
    top_p: float = 1.0
    """Draw from the most probable words that together have this probability."""

    def __post_init__(self) -> None:
        """Reject impossible choices."""
        if min(self.num_beams, self.max_tokens) < 1 or not 0 <= self.min_tokens <= self.max_tokens:
            raise ValueError(
                f"num_beams={self.num_beams}, min_tokens={self.min_tokens}, max_tokens="
                f"{self.max_tokens}, wanted at least 1 beam and token, and 0 <= min <= max"
            )
        if self.num_beams > 1 and self.temperature:
            raise ValueError(f"num_beams={self.num_beams} and temperature: beams draw no words")
        if self.temperature < 0 or (self.top_k is not None and self.top_k < 1):
            raise ValueError("temperature must not be negative and top_k at least 1")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}, wanted above 0 and at most 1")


@dataclass(slots=True, kw_only=True)
class Generated:
    """The text of every row."""

    token_ids: Int[Tensor, "batch length"]
    """Without start and end; padding after the end."""
    log_probability: Float[Tensor, " batch"]
    """Sum over the text's tokens and its end."""
    num_tokens: Int[Tensor, " batch"]
    """How many tokens the sum runs over."""
    ended: Bool[Tensor, " batch"]
    """False for a text that was cut at `max_tokens`."""


def generate(
    decoder: Decoder,
    memory: Memory,
    group: Modality,
    *,
    special: SpecialIds,
    question: TextBatch | None = None,
    config: GenerationConfig | None = None,
) -> Generated:
    """Generate one text per row of the memory.

    Args:
        decoder: In evaluation mode.
        memory: What to describe.
        group: The modalities to look at; a row may lack some of them, not all.
        special: The tokenizer's special ids.
        question: One per row, which the text answers; None asks for captions.
        config: How words are chosen; greedily by default.

    Returns:
        The text found for each row.

    Raises:
        ConfigError: If texts may become longer than the decoder has positions for.
    """
    *_, whole = stream(decoder, memory, group, special=special, question=question, config=config)
    return whole


def stream(
    decoder: Decoder,
    memory: Memory,
    group: Modality,
    *,
    special: SpecialIds,
    question: TextBatch | None = None,
    config: GenerationConfig | None = None,
) -> Iterator[Generated]:
    """Generate texts and hand out what is written after every word; arguments as of `generate`.

    Args:
        decoder: In evaluation mode.
        memory: What to describe.
        group: The modalities to look at.
        special: The tokenizer's special ids.
        question: One per row, which the text answers; None asks for captions.
        config: How words are chosen.

    Yields:
        The text of each row so far, until all have ended; the last is what `generate` returns. Of
        several beams it is the best one's, so that words may still change.
    """
    config = config or GenerationConfig()
    if config.num_beams > 1:
        steps = beam_search(
            decoder, memory, group, special=special, question=question, config=config
        )
        yield from (beams.best(special) for beams in steps)
        return
    writer = _Writer(decoder, memory, group, special, question, config)
    token = torch.full((memory.num_rows,), special.start, device=decoder.bias.device)
    ids, num_tokens = token[:, None][:, :0], torch.zeros_like(token)
    in_text = torch.ones_like(token, dtype=torch.bool)
    total = torch.zeros_like(token, dtype=torch.float32)
    for _ in range(config.max_tokens):
        log_probability = writer.next(token)
        token = _choose(log_probability, config)
        chosen = log_probability.gather(1, token[:, None])[:, 0]
        total = total + chosen.masked_fill(~in_text, 0.0)
        num_tokens = num_tokens + in_text
        in_text = in_text & (token != special.end)
        token = token.masked_fill(~in_text, special.pad)
        ids = torch.cat([ids, token[:, None]], dim=1)
        yield Generated(token_ids=ids, log_probability=total, num_tokens=num_tokens, ended=~in_text)
        if not bool(in_text.any()):
            return


def _choose(
    log_probability: Float[Tensor, "batch vocab"], config: GenerationConfig
) -> Int[Tensor, " batch"]:
    """The most probable token, or one drawn from the best."""
    if not config.temperature:
        return log_probability.argmax(dim=1)
    scaled = (log_probability / config.temperature).log_softmax(dim=1)
    best, ids = scaled.sort(dim=1, descending=True)
    if config.top_k is not None:
        best[:, config.top_k :] = _NEVER
    before = best.softmax(dim=1).cumsum(dim=1).roll(1, dims=1)
    before[:, 0] = 0.0
    drawn = best.masked_fill(before >= config.top_p, _NEVER).softmax(dim=1).multinomial(1)
    return ids.gather(1, drawn)[:, 0]


@dataclass(slots=True)
class Beams:
    """Partial texts of every row, the best first."""

    token_ids: Int[Tensor, "batch beams length"]
    """With the end token; padding after it."""
    score: Float[Tensor, "batch beams"]
    """Sums of log-probabilities."""
    finished: Bool[Tensor, "batch beams"]
    num_tokens: Int[Tensor, "batch beams"]

    def select(self, beam: Int[Tensor, "batch kept"]) -> "Beams":
        """Keep, per row, the given beams."""
        parts = (self.score, self.finished, self.num_tokens)
        length = self.token_ids.shape[2]
        return Beams(
            self.token_ids.gather(1, beam[..., None].expand(-1, -1, length)),
            *(part.gather(1, beam) for part in parts),
        )

    def best(self, special: SpecialIds) -> Generated:
        """The most probable text of every row."""
        best = self.select(self.score.argmax(dim=1, keepdim=True))
        ids = best.token_ids[:, 0]
        return Generated(
            token_ids=ids.masked_fill(ids == special.end, special.pad),
            log_probability=best.score[:, 0],
            num_tokens=best.num_tokens[:, 0],
            ended=best.finished[:, 0],
        )


def beam_search(
    decoder: Decoder,
    memory: Memory,
    group: Modality,
    *,
    special: SpecialIds,
    question: TextBatch | None = None,
    config: GenerationConfig,
) -> Iterator[Beams]:
    """Find probable texts for each row; arguments as of `generate`.

    A beam that has ended keeps its score, and the best sum of log-probabilities wins, without any
    normalisation for length, as upstream.

    Args:
        decoder: In evaluation mode.
        memory: What to describe.
        group: The modalities to look at.
        special: The tokenizer's special ids.
        question: One per row, which the text answers; None asks for captions.
        config: How many beams, and how long.

    Yields:
        The beams after every word, until all have ended.
    """
    num_beams = config.num_beams
    writer = _Writer(decoder, memory, group, special, question, config)
    start = torch.full((memory.num_rows,), special.start, device=decoder.bias.device)
    score, token = writer.next(start).topk(num_beams, dim=1)
    beams = Beams(
        token_ids=token[..., None],
        score=score,
        finished=token == special.end,
        num_tokens=torch.ones_like(token),
    )
    writer.cache = writer.cache.repeat(num_beams)
    first = torch.arange(0, token.numel(), num_beams, device=token.device)[:, None]
    yield beams
    for _ in range(config.max_tokens - 1):
        if bool(beams.finished.all()):
            return
        log_probability = writer.next(beams.token_ids[:, :, -1].flatten())
        beams, beam = _extend(beams, log_probability.unflatten(0, (-1, num_beams)), special)
        writer.cache.reorder((first + beam).flatten(), first=writer.num_before)
        yield beams


def _extend(
    beams: Beams, log_probability: Float[Tensor, "batch beams vocab"], special: SpecialIds
) -> tuple[Beams, Int[Tensor, "batch beams"]]:
    """Append the best next token to each beam; returns the beams that they came from too."""
    num_beams, vocab = log_probability.shape[1:]
    stay = torch.full_like(log_probability[0, 0], _NEVER)
    stay[special.pad] = 0.0
    step = torch.where(beams.finished[..., None], stay, log_probability)
    score, index = (beams.score[..., None] + step).flatten(1).topk(num_beams, dim=1)
    beam, token = index // vocab, index % vocab
    kept = beams.select(beam)
    return (
        Beams(
            token_ids=torch.cat([kept.token_ids, token[..., None]], dim=2),
            score=score,
            finished=kept.finished | (token == special.end),
            num_tokens=kept.num_tokens + ~kept.finished,
        ),
        beam,
    )


class _Writer:
    """The texts so far, as keys and values; one row per text of the batch, or `[batch, beams]`."""

    @torch.no_grad()
    def __init__(
        self,
        decoder: Decoder,
        memory: Memory,
        group: Modality,
        special: SpecialIds,
        question: TextBatch | None,
        config: GenerationConfig,
    ) -> None:
        if config.max_tokens > decoder.most_tokens:
            raise ConfigError(
                f"max_tokens={config.max_tokens}, but the decoder has positions for texts of at "
                f"most {decoder.most_tokens} tokens; use fewer"
            )
        self.decoder, self.special, self.min_tokens = decoder, special, config.min_tokens
        self.seen = memory.seen_from(group)
        batch = memory.num_rows
        prompt = (
            decoder.caption_prompt(batch) if question is None else decoder.question_prompt(question)
        )
        num_prefix = prompt.token_ids.shape[1]
        num_media = 0 if memory.sources else memory.select(group).valid.shape[1]
        self.num_before = num_media + num_prefix
        room = self.num_before + 1 + config.max_tokens + 1
        cache = decoder.text.new_cache(batch, room)
        if self.num_before:
            decoder(prompt, memory, group, num_prefix=num_prefix, cache=cache)
            cache.num_kept = self.num_before
        self.cache: TextCache = cache

    @torch.no_grad()
    def next(self, token: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
        """Take one token and return the log-probability of every word as the one after it."""
        cache, text = self.cache, self.decoder.text
        ids = token[:, None]
        if not self.decoder.causal:
            ids = torch.cat([ids, torch.full_like(ids, self.special.mask)], dim=1)
        num_new, num_kept = ids.shape[1], cache.num_kept
        position = num_kept - self.num_before
        positions = torch.arange(position, position + num_new, device=ids.device)[None]
        x = text.embed(ids, positions)
        valid = cache.valid[:, None, None, : num_kept + num_new]
        order = torch.ones(num_new, num_kept + num_new, dtype=torch.bool, device=ids.device)
        allowed = valid & order.tril(num_kept)
        hidden = text.run(x, allowed, seen=self.seen, cache=cache, only_last=True)
        cache.num_kept += 1
        logits = self.decoder.word_logits(hidden[:, -1])
        if position < self.min_tokens:
            logits[:, self.special.end] = _NEVER
        return logits.log_softmax(dim=-1)
