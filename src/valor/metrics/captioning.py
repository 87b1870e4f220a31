"""Caption metrics on token lists: BLEU, ROUGE-L, CIDEr-D and statistics of the language.

The numbers equal those of the COCO caption evaluation. `caption_report` takes texts and gives them
all; the single metrics take tokens, as `ptb.tokenize` cuts them, so that texts are cut once. METEOR
and SPICE need Java and are not here: a report does not name them.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from valor.metrics.cider import NgramCounts, check_pairs, cider_d, count_ngrams
from valor.metrics.ptb import tokenize

_MAX_N = 4
_ROUGE_BETA = 1.2
# Of the COCO scorer: keep every power finite when nothing matches.
_SMALL = 1e-9
_TINY = 1e-15


@dataclass(frozen=True, slots=True)
class CaptionScores:
    """Scores of a corpus and of each of its items."""

    corpus: dict[str, float]
    by_item: dict[str, Float[np.ndarray, " items"]]
    """`rouge_l` and `cider`, whose means are the corpus's; BLEU has no such values."""


def caption_report(
    candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Score captions over a whole corpus; `caption_scores` without the items."""
    return caption_scores(candidates, references).corpus


def caption_scores(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """Score captions against their reference captions.

    Args:
        candidates: One caption per item.
        references: The reference captions of each item, at least one.

    Returns:
        Of the corpus `bleu1` to `bleu4`, `rouge_l`, `cider` (CIDEr-D, times 10 as published, so not
        bounded by 1), and `num`, the number of items; of the items those that are means.

    Raises:
        ValorError: If there is no item, an item without reference, or the lengths differ.
    """
    check_pairs(candidates, references)
    candidate_tokens = [tokenize(text) for text in candidates]
    reference_tokens = [[tokenize(text) for text in texts] for texts in references]
    bleus = BleuCounts.of(candidate_tokens, reference_tokens).compute()
    by_item = {
        "rouge_l": rouge_l(candidate_tokens, reference_tokens),
        "cider": cider_d(candidate_tokens, reference_tokens),
    }
    corpus = {
        **{f"bleu{n}": value for n, value in enumerate(bleus, start=1)},
        **{name: float(values.mean()) for name, values in by_item.items()},
        "num": len(candidates),
    }
    return CaptionScores(corpus=corpus, by_item=by_item)


@dataclass(frozen=True, slots=True)
class BleuCounts:
    """What BLEU needs to know of a part of a corpus."""

    matches: tuple[int, ...] = (0,) * _MAX_N
    """Candidate n-grams found in a reference, clipped, for n from 1."""
    guesses: tuple[int, ...] = (0,) * _MAX_N
    """Candidate n-grams, for n from 1."""
    candidate_length: int = 0
    reference_length: int = 0
    """Sum over items of the reference length that is closest to the candidate's."""

    @classmethod
    def of(
        cls,
        candidates: Sequence[Sequence[str]],
        references: Sequence[Sequence[Sequence[str]]],
    ) -> "BleuCounts":
        """Count tokenised captions against their tokenised references.

        Args:
            candidates: The tokens of one caption per item.
            references: The tokens of each reference caption of each item.

        Returns:
            The counts of all items together.

        Raises:
            ValorError: If there is no item, an item without reference, or the lengths differ.
        """
        check_pairs(candidates, references)
        total = cls()
        for candidate, texts in zip(candidates, references, strict=True):
            total = total.merge(cls._of_item(candidate, texts))
        return total

    @classmethod
    def _of_item(cls, candidate: Sequence[str], texts: Sequence[Sequence[str]]) -> "BleuCounts":
        limits: NgramCounts = Counter()
        for text in texts:
            limits |= count_ngrams(text)
        matched = count_ngrams(candidate) & limits
        lengths = [len(text) for text in texts]
        return cls(
            matches=tuple(
                sum(count for ngram, count in matched.items() if len(ngram) == n)
                for n in range(1, _MAX_N + 1)
            ),
            guesses=tuple(max(0, len(candidate) - n + 1) for n in range(1, _MAX_N + 1)),
            candidate_length=len(candidate),
            reference_length=min((abs(n - len(candidate)), n) for n in lengths)[1],
        )

    def merge(self, other: "BleuCounts") -> "BleuCounts":
        """Counts of both parts together."""
        return BleuCounts(
            matches=tuple(a + b for a, b in zip(self.matches, other.matches, strict=True)),
            guesses=tuple(a + b for a, b in zip(self.guesses, other.guesses, strict=True)),
            candidate_length=self.candidate_length + other.candidate_length,
            reference_length=self.reference_length + other.reference_length,
        )

    def compute(self) -> tuple[float, ...]:
        """BLEU-1 to BLEU-4 of the corpus, with the brevity penalty."""
        ratio = (self.candidate_length + _TINY) / (self.reference_length + _SMALL)
        penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
        product, bleus = 1.0, []
        for n, (matched, guessed) in enumerate(zip(self.matches, self.guesses, strict=True), 1):
            product *= (matched + _TINY) / (guessed + _SMALL)
            bleus.append(penalty * product ** (1 / n))
        return tuple(bleus)


def rouge_l(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> Float[np.ndarray, " items"]:
    """ROUGE-L of each item: F-measure (beta 1.2) of the longest common subsequence.

    As in the COCO scorer, precision and recall are each the best over the references.

    Args:
        candidates: The tokens of one caption per item.
        references: The tokens of each reference caption of each item.

    Returns:
        Scores in [0, 1].

    Raises:
        ValorError: If there is no item, an item without reference, or the lengths differ.
    """
    check_pairs(candidates, references)
    return np.array(
        [_rouge_l_item(*pair) for pair in zip(candidates, references, strict=True)], dtype=float
    )


def language_report(candidates: Sequence[str]) -> dict[str, float]:
    """Statistics that show captions which are short, or all alike.

    Args:
        candidates: The captions of a model.

    Returns:
        `mean_length` in tokens, `vocabulary_size`, and `distinct1` and `distinct2`, different
        n-grams over all n-grams of the corpus, 0 where there are none.
    """
    texts = [tokenize(text) for text in candidates]
    counts: NgramCounts = Counter()
    for text in texts:
        counts.update(count_ngrams(text, max_n=2))
    singles = [count for ngram, count in counts.items() if len(ngram) == 1]
    pairs = [count for ngram, count in counts.items() if len(ngram) > 1]
    return {
        "mean_length": sum(singles) / max(1, len(texts)),
        "vocabulary_size": len(singles),
        "distinct1": len(singles) / max(1, sum(singles)),
        "distinct2": len(pairs) / max(1, sum(pairs)),
    }


def _rouge_l_item(candidate: Sequence[str], texts: Sequence[Sequence[str]]) -> float:
    common = [_common_length(candidate, text) for text in texts]
    if max(common) == 0:
        return 0.0
    precision = max(common) / len(candidate)
    recall = max(n / len(text) for n, text in zip(common, texts, strict=True) if text)
    squared = _ROUGE_BETA**2
    return (1 + squared) * precision * recall / (recall + squared * precision)


def _common_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for token in a:
        diagonal = 0
        for index, other in enumerate(b, start=1):
            above = row[index]
            row[index] = diagonal + 1 if token == other else max(above, row[index - 1])
            diagonal = above
    return row[-1]
