"""CIDEr-D of whole corpora at once: n-grams are numbers, and a text is a stretch of sorted keys.

Counting, weighing and matching are array operations, so 50 000 captions take seconds
(`benchmarks/bench_evaluate.py`). A reward in training needs one text at a time instead, by the
document frequencies of a corpus that stays the same: `CiderCorpus`.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
from jaxtyping import Float, Int

from valor.errors import ValorError

_MAX_N = 4
_SIGMA = 6.0
"""Of the Gaussian over the difference in length."""

NgramCounts = Counter[tuple[str, ...]]


def cider_d(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> Float[np.ndarray, " items"]:
    """CIDEr-D of each item; the SPIDEr score contains the same number.

    An n-gram weighs log(items / items whose references hold it): the score of an item depends on
    the whole corpus, cannot be merged from parts, and is 0 in a corpus of one item.

    Args:
        candidates: The tokens of one caption per item.
        references: The tokens of each reference caption of each item.

    Returns:
        Scores in [0, 10].

    Raises:
        ValorError: If there is no item, an item without reference, or the lengths differ.

    Source:
        CIDEr (arXiv 1411.5726) with the clipping and the length penalty of CIDEr-D, as the COCO
        caption evaluation computes it.
    """
    check_pairs(candidates, references)
    num_items = len(candidates)
    num_references = [len(texts) for texts in references]
    owner = np.repeat(np.arange(num_items), num_references)
    lengths, words = _words(chain(candidates, chain.from_iterable(references)))
    text = np.repeat(np.arange(len(lengths)), lengths)
    scores = np.zeros(len(owner))
    ngrams, place = words, np.arange(len(words))
    for n in range(1, _MAX_N + 1):
        if n > 1:  # An n-gram is the one before it and one more word of the same text.
            longer = place + n - 1 < len(words)
            longer[longer] = text[place[longer]] == text[place[longer] + n - 1]
            place = place[longer]
            ngrams = ngrams[longer] * (words.max(initial=0) + 1) + words[place + n - 1]
        ngrams = np.unique(ngrams, return_inverse=True)[1].reshape(-1)
        scores += _cosines(text[place], ngrams, owner, num_items)
    # The COCO scorer counts bigrams here, so lengths 0 and 1 are the same.
    size = np.maximum(lengths - 1, 0)
    difference = size[:num_items][owner] - size[num_items:]
    scores *= np.exp(-(difference**2) / (2 * _SIGMA**2)) / _MAX_N
    return 10.0 * np.bincount(owner, scores, num_items) / np.array(num_references)


def check_pairs(candidates: Sequence[object], references: Sequence[Sequence[object]]) -> None:
    """Refuse captions without their references; a `ValorError`."""
    if len(candidates) != len(references):
        raise ValorError(f"{len(candidates)} captions, but references for {len(references)} items")
    if not candidates:
        raise ValorError("no caption to score")
    for index, texts in enumerate(references):
        if not texts:
            raise ValorError(f"item {index} has no reference caption")


def _words(
    texts: Iterable[Sequence[str]],
) -> tuple[Int[np.ndarray, " texts"], Int[np.ndarray, " words"]]:
    """The length of each text, and the words of all as numbers."""
    numbers: dict[str, int] = {}
    lengths: list[int] = []
    words: list[int] = []
    for text in texts:
        lengths.append(len(text))
        words += [numbers.setdefault(word, len(numbers)) for word in text]
    return np.array(lengths), np.array(words, dtype=np.int64)


def _cosines(
    text: Int[np.ndarray, " ngrams"],
    ngrams: Int[np.ndarray, " ngrams"],
    owner: Int[np.ndarray, " references"],
    num_items: int,
) -> Float[np.ndarray, " references"]:
    """Clipped tf-idf cosine of each reference with its item's candidate, for one n.

    Args:
        text: Which text each n-gram stands in; the candidates are the first `num_items`.
        ngrams: Each n-gram as a number.
        owner: The item of each reference.
        num_items: How many items there are.

    Returns:
        One cosine per reference, 0 where one of the two has no n-gram that weighs anything.
    """
    if not len(ngrams):
        return np.zeros(len(owner))
    num_ngrams = int(ngrams.max()) + 1
    keys, counts = np.unique(text * num_ngrams + ngrams, return_counts=True)
    row, column = np.divmod(keys, num_ngrams)
    split = int(np.searchsorted(row, num_items))
    # Sorted rather than np.unique, whose table of hashes takes most of the time on these keys.
    holders = np.sort(owner[row[split:] - num_items] * num_ngrams + column[split:])
    is_first = np.diff(holders, prepend=-1) > 0
    documents = np.bincount(holders[is_first] % num_ngrams, minlength=num_ngrams)
    values = counts * (math.log(num_items) - np.log(np.maximum(documents, 1)))[column]
    norms = np.sqrt(np.bincount(row, values**2, num_items + len(owner)))
    reference = row[split:] - num_items
    wanted = owner[reference] * num_ngrams + column[split:]
    found = np.searchsorted(keys[:split], wanted)
    shared = found < split
    shared[shared] = keys[found[shared]] == wanted[shared]
    weight = values[split:][shared]
    products = np.minimum(values[found[shared]], weight) * weight
    dots = np.bincount(reference[shared], products, len(owner))
    scale = norms[:num_items][owner] * norms[num_items:]
    return np.divide(dots, scale, out=np.zeros(len(owner)), where=scale > 0)


class CiderCorpus:
    """CIDEr-D of any texts, by the document frequencies of one corpus.

    Args:
        references: The tokens of each reference caption of each item.

    Raises:
        ValorError: If there is no item.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        if not references:
            raise ValorError("no reference caption to weigh n-grams by")
        self._log_items = math.log(len(references))
        self._documents = Counter(
            ngram
            for texts in references
            for ngram in {ngram for text in texts for ngram in count_ngrams(text)}
        )

    def score(self, candidate: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """CIDEr-D of one text.

        Args:
            candidate: Its tokens.
            references: The tokens of each of its reference captions, at least one.

        Returns:
            The score in [0, 10].
        """
        own, size = self._weighed(candidate), max(len(candidate) - 1, 0)
        total = 0.0
        for text in references:
            difference = size - max(len(text) - 1, 0)
            cosines = map(_clipped_cosine, own, self._weighed(text))
            total += math.exp(-(difference**2) / (2 * _SIGMA**2)) * sum(cosines) / _MAX_N
        return 10.0 * total / len(references)

    def _weighed(self, text: Sequence[str]) -> list[dict[tuple[str, ...], float]]:
        """tf-idf of the text's n-grams, by their length."""
        vectors: list[dict[tuple[str, ...], float]] = [{} for _ in range(_MAX_N)]
        for ngram, count in count_ngrams(text).items():
            weight = self._log_items - math.log(max(1, self._documents[ngram]))
            vectors[len(ngram) - 1][ngram] = count * weight
        return vectors


def _clipped_cosine(
    candidate: dict[tuple[str, ...], float], reference: dict[tuple[str, ...], float]
) -> float:
    dot = sum(min(candidate.get(key, 0.0), value) * value for key, value in reference.items())
    norm = math.hypot(*candidate.values()) * math.hypot(*reference.values())
    return dot / norm if norm else 0.0


def count_ngrams(tokens: Sequence[str], *, max_n: int = _MAX_N) -> NgramCounts:
    """Count the n-grams of every length up to `max_n`."""
    return Counter(
        tuple(tokens[start : start + n])
        for n in range(1, max_n + 1)
        for start in range(len(tokens) - n + 1)
    )
