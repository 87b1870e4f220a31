"""Retrieval, captioning and answering by group of modalities, from what a model said.

Figures are computed once from all records in the order of their ids; `outputs.collect` gathers what
several processes found. Whoever passes `items` gets the values of every single item as well.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from valor.data.manifest import Record
from valor.errors import UsageError
from valor.evaluation.items import TIES, Items, add_ranks
from valor.evaluation.outputs import EvaluatedModel, Outputs, collect, concatenate
from valor.evaluation.pools import rank_pool, rerank, shared_rows
from valor.metrics.answering import Accuracy, accuracy_by, exact_match
from valor.metrics.captioning import caption_scores, language_report
from valor.metrics.ranking import numbered
from valor.metrics.retrieval import pair_report, rank_report
from valor.models.fusion import join, similarity
from valor.types import AUDIOVISUAL, MEDIA_GROUPS, Embedder, Embeddings, Modality, Segment

__all__ = [
    "EvaluatedModel",
    "Outputs",
    "Pool",
    "Scores",
    "add_reranked",
    "caption_pool",
    "collect",
    "evaluate",
    "score_captions",
]

_TEXTS_AT_ONCE = 64
_ROUNDING = 1e-5


@dataclass(slots=True, kw_only=True)
class Pool:
    """Captions, embedded, and the media of the same records."""

    texts: list[str]
    owner: np.ndarray
    """The item of each caption, ascending."""
    rows: list[int]
    """Which row of `Outputs` each item is."""
    words: Embeddings
    media: Embeddings


def caption_pool(
    model: EvaluatedModel,
    outputs: Outputs,
    *,
    about: Modality,
    group: Modality,
    captions_per_item: int | None = 1,
) -> Pool | None:
    """Take captions about `about`, and the media of the records that have all of `group`.

    Args:
        model: Embeds the captions, if it embeds.
        outputs: Of the same model.
        about: Which captions are the queries.
        group: Which media they are compared with.
        captions_per_item: The first so many of each record; None takes all.

    Returns:
        Both; None if there is no such caption or no such media.
    """
    if not isinstance(model, Embedder) or any(single not in outputs.media for single in group):
        return None
    present = shared_rows(*(outputs.media[single] for single in group))
    texts_of = {
        row: [c.text for c in outputs.records[row].captions if c.about == about] for row in present
    }
    rows = [row for row, texts in texts_of.items() if texts]
    if not rows:
        return None
    chosen = [texts_of[row][:captions_per_item] for row in rows]
    texts = [text for own in chosen for text in own]
    blocks = [
        model.embed_text(texts[i : i + _TEXTS_AT_ONCE])
        for i in range(0, len(texts), _TEXTS_AT_ONCE)
    ]
    return Pool(
        texts=texts,
        owner=np.repeat(np.arange(len(rows)), [len(own) for own in chosen]),
        rows=rows,
        words=concatenate(blocks, [len(block.valid) for block in blocks]),
        media=join(outputs.media, group).select(torch.tensor(rows)),
    )


def query_pool(
    model: EvaluatedModel,
    outputs: Outputs,
    group: Modality,
    *,
    captions_per_item: int | None = 1,
) -> Pool | None:
    """The `caption_pool` of a group's own captions; of audiovisual ones where it has none."""
    for about in dict.fromkeys((group, AUDIOVISUAL)):
        pool = caption_pool(
            model, outputs, about=about, group=group, captions_per_item=captions_per_item
        )
        if pool is not None:
            return pool
    return None


@dataclass(slots=True, kw_only=True)
class Scores:
    """Similarity of captions with the media of the same records."""

    matrix: np.ndarray
    texts: list[str]
    rows: list[int]
    """Which rows of `Outputs` the captions, and the media, are of."""


def score_captions(
    model: EvaluatedModel, outputs: Outputs, *, about: Modality, group: Modality
) -> Scores | None:
    """Score the first caption about `about` of each record with each record's media.

    Arguments as of `caption_pool`; None if there is no such caption or no such media.
    """
    pool = caption_pool(model, outputs, about=about, group=group)
    if pool is None:
        return None
    matrix = similarity(pool.words, pool.media).numpy()
    return Scores(matrix=matrix, texts=pool.texts, rows=pool.rows)


def retrieval(
    model: EvaluatedModel,
    outputs: Outputs,
    *,
    captions_per_item: int | None = 1,
    items: Items | None = None,
) -> dict[str, Any]:
    """Retrieval figures by group.

    A group's queries are the captions about exactly that group; where the data has none, its
    audiovisual captions are used for all groups, as VALOR-32K does.

    Args:
        model: Embeds the captions, if it embeds.
        outputs: Of the same model.
        captions_per_item: As of `caption_pool`.
        items: Gets each query's values by name.

    Returns:
        Both directions by group, with the chance of guessing.
    """
    report: dict[str, Any] = {}
    for group in MEDIA_GROUPS:
        pool = query_pool(model, outputs, group, captions_per_item=captions_per_item)
        if pool is None:
            continue
        ranking = rank_pool(pool.words, pool.media, pool.owner)
        report[group.label] = {**pair_report(ranking), "chance_r1": 1 / len(pool.rows)}
        if items is not None:
            ids = [outputs.records[row].id for row in pool.rows]
            queries = numbered([ids[item] for item in map(int, pool.owner)])
            name = f"retrieval/{group.label}"
            add_ranks(items, f"{name}/text_to_media", queries, ranking.text_positions(TIES))
            best = np.array([positions[0] for positions in ranking.media_positions(TIES)])
            add_ranks(items, f"{name}/media_to_text", ids, best)
    return report


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
    num_candidates: int,
    *,
    captions_per_item: int | None = 1,
) -> None:
    """Let the matching head order the first recordings of each text again.

    Args:
        figures: Of `evaluate`; each group of its retrieval gets `reranked`: the ranks of the same
            texts `before` and `after`. A match that is not among the first keeps its rank.
        model: Embeds and matches; reads the recordings again.
        outputs: Of the same model.
        num_candidates: How many recordings of each text are matched with it.
        captions_per_item: As of `caption_pool`.

    Raises:
        UsageError: If the model has no such head.
    """
    if not isinstance(model, Matcher) or not model.matches:
        raise UsageError("--rerank needs a model trained with model.matches=true and matching")
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
    """Scores of pairs, for which some recordings are read at a time."""
    scores: list[float] = []
    for first in range(0, len(pool.rows), _TEXTS_AT_ONCE):
        here = (items >= first) & (items < first + _TEXTS_AT_ONCE)
        own = [records[row] for row in pool.rows[first : first + _TEXTS_AT_ONCE]]
        with ThreadPoolExecutor() as readers:
            read = [
                readers.submit(model.read, r.media, start_s=r.start_s, end_s=r.end_s) for r in own
            ]
            segments = [segment.result() for segment in read]
        asked: list[int] = texts[here].tolist()
        owner: list[int] = (items[here] - first).tolist()
        scores += model.match(segments, [pool.texts[text] for text in asked], owner, using=group)
    return np.array(scores)


def pairs(
    outputs: Outputs,
    wanted: Sequence[tuple[Modality, Modality]] = ((Modality.AUDIO, Modality.VISION),),
    texts: Callable[[list[str]], Embeddings] | None = None,
) -> dict[str, Any]:
    """Retrieval between any two groups of modalities, in both directions.

    Args:
        outputs: Of a model that embeds.
        wanted: Groups, which may hold text: a record's first audiovisual caption.
        texts: Embeds captions; needed where a group holds text.

    Returns:
        Ranks by direction, such as `audio_to_vision`; a pair of which fewer than two records have
        both sides is left out.
    """
    known = dict(outputs.media)
    if texts is not None and any(Modality.TEXT in group for pair in wanted for group in pair):
        known[Modality.TEXT] = _first_captions(outputs, texts)
    report: dict[str, Any] = {}
    for query, item in wanted:
        if any(single not in known for single in query | item):
            continue
        rows = shared_rows(*(known[single] for single in query | item))
        if len(rows) < 2:
            continue
        index = torch.tensor(rows)
        queries, items = (join(known, group).select(index) for group in (query, item))
        both = pair_report(rank_pool(queries, items))
        report[f"{query.label}_to_{item.label}"] = both["text_to_media"]
        report[f"{item.label}_to_{query.label}"] = both["media_to_text"]
    return report


def _first_captions(outputs: Outputs, texts: Callable[[list[str]], Embeddings]) -> Embeddings:
    """The first audiovisual caption of each record; one without has no valid token."""
    captions = [
        next((c.text for c in record.captions if c.about == AUDIOVISUAL), None)
        for record in outputs.records
    ]
    blocks = [
        texts([caption or "" for caption in captions[i : i + _TEXTS_AT_ONCE]])
        for i in range(0, len(captions), _TEXTS_AT_ONCE)
    ]
    embedded = concatenate(blocks, [len(block.valid) for block in blocks])
    embedded.valid = embedded.valid & torch.tensor([c is not None for c in captions])[:, None]
    return embedded


def captioning(outputs: Outputs, *, items: Items | None = None) -> dict[str, Any]:
    """Caption metrics by group, against all captions about what the group can tell.

    Args:
        outputs: Of a model that writes.
        items: Gets each caption's values by name.

    Returns:
        `caption_report` by group, with what it cannot tell left out.
    """
    report: dict[str, Any] = {}
    for group, captions in outputs.captions.items():
        rows: list[tuple[str, str, list[str]]] = []
        for record, caption in zip(outputs.records, captions, strict=True):
            own = [c.text for c in record.captions if c.about == group]
            references = own or [c.text for c in record.captions if c.about == AUDIOVISUAL]
            if caption is not None and references:
                rows.append((record.id, caption, references))
        if rows:
            ids, texts, references = map(list, zip(*rows, strict=True))
            scores = caption_scores(texts, references)
            report[group.label] = {**scores.corpus, **language_report(texts)}
            if items is not None:
                for name, values in scores.by_item.items():
                    items[f"captioning/{group.label}/{name}"] = dict(
                        zip(ids, values.tolist(), strict=True)
                    )
    return report


def answering(outputs: Outputs, *, items: Items | None = None) -> dict[str, Any]:
    """Accuracy by group, in all, by what a question needs and by its type.

    Args:
        outputs: Of a model that answers.
        items: Gets each question's score.

    Returns:
        Figures by group.
    """
    report: dict[str, Any] = {}
    questions = [question for _, question in outputs.questions]
    for group, answers in outputs.answers.items():
        correct = [
            bool(exact_match(answer, question.answers))
            for answer, question in zip(answers, questions, strict=True)
        ]
        if not correct:
            continue
        report[group.label] = {
            **Accuracy.of(correct).compute(),
            "by_need": accuracy_by(
                [question.needs or "unknown" for question in questions], correct
            ),
        }
        types = [question.type for question in questions if question.type]
        if len(types) == len(questions):
            report[group.label]["by_type"] = accuracy_by(types, correct)
        if items is not None:
            items[f"answering/{group.label}/accuracy"] = dict(
                zip(outputs.question_ids, map(float, correct), strict=True)
            )
    return report


def evaluate(
    model: EvaluatedModel,
    records: Sequence[Record],
    outputs: Outputs | None = None,
    *,
    captions_per_item: int | None = 1,
    items: Items | None = None,
) -> dict[str, Any]:
    """Measure everything.

    Args:
        model: What to evaluate.
        records: With captions and questions.
        outputs: Of the same model and records, if there already.
        captions_per_item: The first so many captions of each record are queries; None takes all.
        items: Gets the values of each item by metric and id.

    Returns:
        The report without protocol, as DESIGN.md, "Files", describes it.
    """
    outputs = outputs or collect(model, records)
    return {
        "model": model.fingerprint,
        "data": {
            "n": len(outputs.records),
            "coverage": len(outputs.records) / len(records),
            "missing": outputs.missing,
        },
        "retrieval": retrieval(model, outputs, captions_per_item=captions_per_item, items=items),
        "pairs": pairs(outputs),
        "captioning": captioning(outputs, items=items),
        "answering": answering(outputs, items=items),
    }
