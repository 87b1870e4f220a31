"""Retrieval of the media of records by their captions, and of any group of modalities by another.

Every pool is compared exactly, a block at a time; `Options` add what two stages and a dual softmax
make of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from valor.evaluation.items import TIES, Items, add_ranks
from valor.evaluation.options import PLAIN, Options, Pair
from valor.evaluation.outputs import EvaluatedModel, Outputs, concatenate
from valor.evaluation.pools import rank_pool, shared_rows, two_stage
from valor.metrics.ranking import numbered
from valor.metrics.retrieval import dual_softmax_report, pair_report
from valor.models.fusion import join, similarity
from valor.types import AUDIOVISUAL, Embedder, Embeddings, Modality

_TEXTS_AT_ONCE = 64


@dataclass(slots=True, kw_only=True)
class Pool:
    """Captions, embedded, and the media of the same records."""

    texts: list[str]
    owner: Int[np.ndarray, " texts"]
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
    if outputs.words is None or outputs.words[0] != texts:
        outputs.words = texts, _embedded(model.embed_text, texts)
    return Pool(
        texts=texts,
        owner=np.repeat(np.arange(len(rows)), [len(own) for own in chosen]),
        rows=rows,
        words=outputs.words[1],
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


def retrieval(
    model: EvaluatedModel,
    outputs: Outputs,
    options: Options = PLAIN,
    *,
    items: Items | None = None,
) -> dict[str, Any]:
    """Retrieval figures by group.

    A group's queries are the captions about exactly that group; where the data has none, its
    audiovisual captions are used for all groups, as VALOR-32K does.

    Args:
        model: Embeds the captions, if it embeds.
        outputs: Of the same model.
        options: Captions of each record, and more ways to rank them.
        items: Gets each query's values by name.

    Returns:
        Both directions by group, with the chance of guessing; `two_stage` and `dual_softmax` where
        they are asked for, which never change the exact figures.
    """
    report: dict[str, Any] = {}
    for group in options.groups:
        pool = query_pool(model, outputs, group, captions_per_item=options.captions_per_item)
        if pool is None:
            continue
        ranking = rank_pool(pool.words, pool.media, pool.owner)
        report[group.label] = {
            **pair_report(ranking),
            "chance_r1": 1 / len(pool.rows),
            **_other_ways(pool, options),
        }
        if items is not None:
            ids = [outputs.records[row].id for row in pool.rows]
            queries = numbered([ids[item] for item in map(int, pool.owner)])
            name = f"retrieval/{group.label}"
            add_ranks(items, f"{name}/text_to_media", queries, ranking.text_positions(TIES))
            best = np.array([positions[0] for positions in ranking.media_positions(TIES)])
            add_ranks(items, f"{name}/media_to_text", ids, best)
    return report


def _other_ways(pool: Pool, options: Options) -> dict[str, Any]:
    """Figures of two stages and of a dual softmax, where they are asked for."""
    report: dict[str, Any] = {}
    if options.candidates is not None:
        report["two_stage"] = two_stage(
            pool.words, pool.media, pool.owner, num_candidates=options.candidates
        )
    if options.dual_softmax is not None:
        scores = similarity(pool.words, pool.media).numpy()
        report["dual_softmax"] = dual_softmax_report(scores, pool.owner, options.dual_softmax)
    return report


def pairs(
    outputs: Outputs,
    wanted: Sequence[Pair],
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
    embedded = _embedded(texts, [caption or "" for caption in captions])
    embedded.valid = embedded.valid & torch.tensor([c is not None for c in captions])[:, None]
    return embedded


def _embedded(embed: Callable[[list[str]], Embeddings], texts: list[str]) -> Embeddings:
    """All texts, some at a time."""
    blocks = [embed(texts[i : i + _TEXTS_AT_ONCE]) for i in range(0, len(texts), _TEXTS_AT_ONCE)]
    return concatenate(blocks, [len(block.valid) for block in blocks])
