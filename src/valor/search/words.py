"""Captions and text tracks: how much of a query each segment says."""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from valor.search.tables import TEXT_FIELDS

_WORD = re.compile(r"\w+")
_STOP_WORDS = frozenset(
    (
        "a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "in", "into",
        "is", "it", "its", "of", "on", "or", "that", "the", "this", "to", "was", "with",
    )
)  # fmt: skip


def words_of(text: str) -> tuple[str, ...]:
    """The distinct words of a text that mean something; all of them if none does."""
    words = tuple(dict.fromkeys(_WORD.findall(text.lower())))
    return tuple(word for word in words if word not in _STOP_WORDS) or words


def coverage(rows: pa.RecordBatch, words: Sequence[str]) -> Float[np.ndarray, " segments"]:
    """The share of a query's words that the best of a segment's texts says; NaN without any."""
    texts = [rows.column(name).to_pylist() for name in TEXT_FIELDS]
    wanted = set(words)
    shares = np.full(rows.num_rows, np.nan)
    for row, said in enumerate(zip(*texts, strict=True)):
        parts = [len(wanted & set(words_of(text))) for text in said if text]
        if parts:
            shares[row] = max(parts) / max(1, len(wanted))
    return shares
