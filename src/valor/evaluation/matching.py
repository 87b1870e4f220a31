"""Re-ranking by a head that looks at a text and media together."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np

from valor.data.manifest import Record
from valor.errors import UsageError
from valor.evaluation.items import TIES
from valor.evaluation.options import Options
from valor.evaluation.outputs import EvaluatedModel, Outputs
from valor.evaluation.pools import rank_pool, rerank
from valor.evaluation.retrieval import Pool, query_pool
from valor.metrics.retrieval import rank_report
from valor.types import Modality, Segment

_RECORDINGS_AT_ONCE = 64
_ROUNDING = 1e-5


@runtime_checkable
class Matcher(EvaluatedModel, Protocol):
    """A model with a head that looks at a text and media together."""

    matches: bool
    """Whether its weights have one."""

    def match(
        self,
        segments: Sequence[Segment],
        texts: Sequence[str],
        owner: Sequence[int],
        *,
        using: Modality,
    ) -> list[float]:
        """Score how well each text belongs to its segment."""
        ...


def add_reranked(
    figures: dict[str, Any],
    model: EvaluatedModel,
    outputs: Outputs,
    options: Options,
) -> None:
    """Let the matching head order the first recordings of each text again.

    Args:
        figures: Of `evaluate`; each group of its retrieval gets `reranked`: the ranks of the same
            texts `before` and `after`. A match that is not among the first keeps its rank.
        model: Embeds and matches; reads the recordings again.
        outputs: Of the same model.
        options: With `rerank`, how many recordings of each text are matched with it.

    Raises:
        UsageError: If the model has no such head.
    """
    if not isinstance(model, Matcher) or not model.matches:
        raise UsageError("--rerank needs a model trained with model.matches=true and matching")
    num_candidates, captions_per_item = options.rerank or 1, options.captions_per_item
    for label, row in figures["retrieval"].items():
        group = Modality.parse(label)
        pool = query_pool(model, outputs, group, captions_per_item=captions_per_item)
        if pool is None:
            continue
        match = partial(_match_pairs, model, outputs.records, pool, group)
        places, scores = rerank(pool.words, pool.media, match, num_candidates=num_candidates)
        before = rank_pool(pool.words, pool.media, pool.owner).text_positions(TIES)
        own = places == pool.owner[:, None]
        moved = own.any(axis=1) & (before <= places.shape[1])
        # Equals in different batches differ by rounding; the match stands last among them.
        ahead = scores >= (scores * own).sum(axis=1, keepdims=True) - _ROUNDING
        row["reranked"] = {
            "candidates": places.shape[1],
            "before": rank_report(before),
            "after": rank_report(np.where(moved, ahead.sum(axis=1), before)),
        }


def _match_pairs(
    model: Matcher,
    records: Sequence[Record],
    pool: Pool,
    group: Modality,
    texts: np.ndarray,
    items: np.ndarray,
) -> np.ndarray:
    """Scores of pairs, for which some recordings are read at a time, and no others."""
    scores: list[float] = []
    wanted = np.unique(items)
    for first in range(0, len(wanted), _RECORDINGS_AT_ONCE):
        some = wanted[first : first + _RECORDINGS_AT_ONCE]
        here = np.isin(items, some)
        numbers: list[int] = some.tolist()
        own = [records[pool.rows[number]] for number in numbers]
        with ThreadPoolExecutor() as readers:
            read = [
                readers.submit(model.read, r.media, start_s=r.start_s, end_s=r.end_s) for r in own
            ]
            segments = [segment.result() for segment in read]
        asked: list[int] = texts[here].tolist()
        owner: list[int] = np.searchsorted(some, items[here]).tolist()
        scores += model.match(segments, [pool.texts[text] for text in asked], owner, using=group)
    return np.array(scores)
