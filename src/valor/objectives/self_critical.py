"""Self-critical training: texts that the model writes are rewarded against the one it would give.

The policy gradient of the reward's expectation. Texts are drawn, and their words scored again for
the gradient, without dropout in the decoder: by the same probabilities.

Source: SCST (arXiv 1612.00563); the released VALOR trains COCO and VATEX captions so, after
cross-entropy. Other samples as baseline: arXiv 2003.09971.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from valor.config import configclass
from valor.data.collate import written_captions
from valor.data.manifest import Record
from valor.encoders.text import Memory
from valor.errors import ConfigError
from valor.metrics.cider import CiderCorpus
from valor.metrics.ptb import tokenize
from valor.models.decoder import Decoder, Remembered
from valor.models.generation import GenerationConfig, generate
from valor.objectives.base import LossTerm
from valor.objectives.captioning import Masking, predict_words
from valor.processing.tokenizer import Tokenizer
from valor.types import MEDIA_GROUPS, Batch, Modality, SpecialIds, TextBatch


@configclass
class SelfCriticalConfig:
    """Which groups are described, and what a text has to beat."""

    groups: tuple[Modality, ...] = MEDIA_GROUPS
    """Media that texts are written from; one term for each."""
    weight: float = 1.0
    """Of the mean over groups, in the sum of all losses."""
    baseline: Literal["greedy", "others"] = "greedy"
    """The text of the most probable words, or the mean over the row's other samples."""
    num_samples: int = 1
    """Texts that are drawn for each row."""
    max_tokens: int = 30
    """Texts end here if no end token came before."""

    def __post_init__(self) -> None:
        """Reject impossible values."""
        if min(self.num_samples, self.max_tokens) < 1:
            raise ValueError("num_samples and max_tokens must be at least 1")
        if self.baseline == "others" and self.num_samples < 2:
            raise ValueError("baseline='others' needs num_samples of at least 2")

    def check(self, decoder: Decoder) -> None:
        """Raise a `ConfigError` unless the decoder can write such texts and read them whole."""
        room = decoder.most_tokens - 1  # Read again, a text begins with its start token.
        if self.max_tokens > room:
            raise ConfigError(
                f"objectives.self_critical.max_tokens={self.max_tokens}, but the decoder has "
                f"positions for texts of at most {room} tokens; use fewer"
            )


Reward = Callable[[Sequence[str], Modality, TextBatch], Float[np.ndarray, " texts"]]
"""How good the text of each of these records is, written from a group of its media."""


class CiderReward:
    """CIDEr-D against a record's own captions, by the document frequencies of all training data.

    Args:
        records: Training data.
        groups: Those that captions are written from.
        tokenizer: Of the texts to come.
    """

    def __init__(
        self, records: Sequence[Record], groups: Sequence[Modality], tokenizer: Tokenizer
    ) -> None:
        self._tokenizer = tokenizer
        self._references: dict[Modality, dict[str, list[list[str]]]] = {}
        self._corpora: dict[Modality, CiderCorpus] = {}
        for group in groups:
            written = {record.id: written_captions(record, group) for record in records}
            own = {id: [tokenize(text) for text in texts] for id, texts in written.items() if texts}
            self._references[group] = own
            self._corpora[group] = CiderCorpus(list(own.values()))

    def __call__(
        self, ids: Sequence[str], group: Modality, texts: TextBatch
    ) -> Float[np.ndarray, " texts"]:
        """Score the text of each of these records.

        Args:
            ids: Of records with captions that fit the group.
            group: The media that the texts were written from.
            texts: One for each id.

        Returns:
            Scores in [0, 10].
        """
        corpus, references = self._corpora[group], self._references[group]
        written = self._tokenizer.decode(texts.token_ids)
        pairs = zip(written, ids, strict=True)
        return np.array([corpus.score(tokenize(text), references[id]) for text, id in pairs])


def criticise(
    encoded: Remembered,
    batch: Batch,
    decoder: Any,
    reward: Reward | None,
    config: SelfCriticalConfig,
    special: SpecialIds,
) -> dict[str, LossTerm]:
    """Make texts more probable that are better than the baseline, and others less.

    Args:
        encoded: With the decoder's memory.
        batch: A row counts for a group if it has one of `caption_texts` and all the group's media.
        decoder: Writes.
        reward: Scores what was written.
        config: Groups and baseline.
        special: The tokenizer's special ids.

    Returns:
        Two terms per group with texts and media, one whose gradient is minus that of the expected
        reward, estimated; and `reward/GROUP`, the mean reward of what was drawn, of weight 0.

    Raises:
        ConfigError: If there is no reward, or the system's decoder cannot write freely, or not such
            long texts.
    """
    if reward is None or not isinstance(decoder, Decoder):
        raise ConfigError("objectives.self_critical needs a decoder of VALOR and a run's records")
    config.check(decoder)
    memory, terms = encoded.memory, dict[str, LossTerm]()
    groups = [group for group in config.groups if group in batch.caption_texts]
    for group in groups:
        if memory is None or any(modality not in memory.tokens for modality in group):
            continue
        present = batch.caption_texts[group].has_text & memory.has(group)
        rows = torch.arange(len(present), device=present.device)
        several = memory.rows(rows.repeat_interleave(config.num_samples))
        with _without_dropout(decoder):
            drawn = write(decoder, several, group, special, config.max_tokens, temperature=1.0)
            scores = _scores(reward, batch.ids, group, drawn, present)
            if config.baseline == "greedy":
                best = write(decoder, memory, group, special, config.max_tokens)
                bar = _scores(reward, batch.ids, group, best, present)
            else:
                bar = (scores.sum(1, keepdim=True) - scores) / (config.num_samples - 1)
            log_probability = _log_probability(decoder, drawn, several, group, special)
        found = ((scores - bar) * log_probability.view_as(scores))[present]
        num_rows = int(present.sum())
        means = {"self_critical": -found.sum(), "reward": scores[present].sum()}
        for name, summed in means.items():
            terms[f"{name}/{group.label}"] = LossTerm(
                value=summed / max(1, num_rows * config.num_samples),
                weight=config.weight / len(config.groups) if name == "self_critical" else 0.0,
                num_rows=num_rows,
            )
    return terms


def write(
    decoder: Decoder,
    memory: Memory,
    group: Modality,
    special: SpecialIds,
    max_tokens: int,
    *,
    temperature: float = 0.0,
) -> TextBatch:
    """Write one text per row of the memory.

    Args:
        decoder: In evaluation mode.
        memory: What to describe.
        group: The modalities to look at.
        special: The tokenizer's special ids.
        max_tokens: Most words.
        temperature: 0 takes the most probable words.

    Returns:
        Texts as they are trained on, with start, words, and the end where it was reached.
    """
    config = GenerationConfig(max_tokens=max_tokens, temperature=temperature)
    found = generate(decoder, memory, group, special=special, config=config)
    ids = found.token_ids
    place, num_tokens = torch.arange(ids.shape[1], device=ids.device), found.num_tokens[:, None]
    valid, is_last = place < num_tokens, place == num_tokens - 1
    ids = ids.masked_fill(is_last & found.ended[:, None], special.end)
    return TextBatch(
        token_ids=F.pad(ids, (1, 0), value=special.start), valid=F.pad(valid, (1, 0), value=True)
    )


def _log_probability(
    decoder: Decoder, texts: TextBatch, memory: Memory, group: Modality, special: SpecialIds
) -> Float[Tensor, " texts"]:
    """The sum over each text's words, with gradients."""
    masking = Masking(mask_id=special.mask, fraction=None, seeds=None)
    prompt = decoder.caption_prompt(len(texts.valid))
    words = predict_words(decoder, prompt, texts, memory, group, masking)
    losses = words.losses(decoder, words.scored)
    sums = losses.new_zeros(len(texts.valid))
    return -sums.index_add(0, words.scored.nonzero()[:, 0], losses)


def _scores(
    reward: Reward,
    ids: Sequence[str],
    group: Modality,
    texts: TextBatch,
    present: Bool[Tensor, " rows"],
) -> Float[Tensor, "rows samples"]:
    """Rewards of the texts of present rows, each with as many; of others 0."""
    samples = len(texts.valid) // len(present)
    scores = torch.zeros(len(present), samples, device=present.device)
    if bool(present.any()):
        kept = present.repeat_interleave(samples)
        rows = [int(row) for row in present.nonzero()[:, 0]]
        own = [ids[row] for row in rows for _ in range(samples)]
        written = TextBatch(token_ids=texts.token_ids[kept], valid=texts.valid[kept])
        found = torch.as_tensor(reward(own, group, written)).to(scores)
        scores[present] = found.view(-1, samples)
    return scores


@contextmanager
def _without_dropout(module: nn.Module) -> Generator[None]:
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
