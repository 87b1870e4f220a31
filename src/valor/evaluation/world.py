"""What is known only on the rendered world: oracles, priors, and whether captions are true.

`r1` on the world is an expected value: a caption that fits k items of the pool equally well cannot
tell them apart, so a top item among these counts 1/k. The oracle's r1, the mean of 1/k, is the
ceiling.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from valor.data.world.language import AUDIO_SLOTS, VISION_SLOTS, parse_caption
from valor.errors import ManifestError
from valor.evaluation.items import Items
from valor.evaluation.outputs import EvaluatedModel, Outputs
from valor.evaluation.pools import cut
from valor.evaluation.retrieval import Pool, caption_pool
from valor.metrics.retrieval import expected_hits_at_k, possible_hits_at_k
from valor.models.fusion import similarity
from valor.types import AUDIOVISUAL, MEDIA_GROUPS, Embeddings, Modality

_QUERIES_AT_ONCE = 512

_SLOTS = {
    "vision": VISION_SLOTS,
    "audio": AUDIO_SLOTS,
    "audiovisual": (*VISION_SLOTS, *AUDIO_SLOTS, "source"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is true of one rendered video."""

    layout: str
    facts: dict[str, str]
    slots_of: dict[str, dict[str, str]]
    """What each of its captions states."""
    prior_of: dict[str, dict[str, float]]
    """For each of its questions, the exact oracle's accuracy by modality."""


def read_truth(folder: Path) -> dict[str, Truth] | None:
    """Read `truth.jsonl` of a rendered world by id; None if the data is no rendered world."""
    path = folder / "truth.jsonl"
    if not path.is_file():
        return None
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {
        row["id"]: Truth(
            layout=row["layout"],
            facts=row["facts"],
            slots_of={caption["text"]: caption["slots"] for caption in row["captions"]},
            prior_of={question["question"]: question["prior"] for question in row["questions"]},
        )
        for row in rows
    }


def add_truth(
    report: dict[str, Any],
    model: EvaluatedModel,
    outputs: Outputs,
    truth: dict[str, Truth],
    *,
    captions_per_item: int | None = 1,
    items: Items | None = None,
) -> None:
    """Put what only the truth can tell into a report.

    Args:
        report: From `evaluate`; changed in place.
        model: Embeds captions, if it embeds.
        outputs: What the report was made from.
        truth: By id of the records.
        captions_per_item: Of the report. Recall becomes the expected value where it is 1: several
            texts of one recording fit it alike.
        items: Of the same report; recall in it becomes the expected value too.

    Raises:
        ManifestError: If a record is not in the truth.
    """
    strange = [record.id for record in outputs.records if record.id not in truth]
    if strange:
        raise ManifestError(
            f"{len(strange)} records, such as {strange[0]!r}, are not in the truth.jsonl beside "
            "the manifest; move the manifest away from it, or render the world again"
        )
    rows = [truth[record.id] for record in outputs.records]
    by_caption: dict[str, dict[str, float]] = {}
    for about in MEDIA_GROUPS:
        for group in MEDIA_GROUPS:
            if not about & group:
                continue
            pool = caption_pool(model, outputs, about=about, group=group)
            if pool is None:
                continue
            fitting = _fitting(pool, rows, group)
            hits = _hits(pool.words, pool.media, fitting.texts)
            by_caption.setdefault(about.label, {})[group.label] = float(hits["r1"].mean())
            if about == group and captions_per_item == 1:
                ids = [outputs.records[row].id for row in pool.rows]
                retrieval = report["retrieval"]
                for direction, found in (
                    ("text_to_media", hits),
                    ("media_to_text", _hits(pool.media, pool.words, fitting.items)),
                ):
                    _correct(f"{group.label}/{direction}", retrieval, found, ids, items)
                oracles = {f"oracle_r{k}": float(hits[f"oracle_r{k}"].mean()) for k in (1, 5, 10)}
                retrieval[group.label] |= oracles
    report["by_caption"] = by_caption
    for group, captions in outputs.captions.items():
        if group.label in report["captioning"]:
            report["captioning"][group.label] |= caption_truth(captions, rows, group)
    for group in outputs.answers:
        if group.label in report["answering"]:
            report["answering"][group.label]["prior"] = _priors(outputs, rows, group)


@dataclass(frozen=True, slots=True)
class _Fitting:
    """What captions state and what is true, as numbers."""

    stated: Int[np.ndarray, "texts slots"]
    """-1 where a caption states nothing."""
    true: Int[np.ndarray, "items slots"]

    def texts(self, rows: slice) -> Bool[np.ndarray, "rows items"]:
        """True where all that a text states, and a group can tell, is true of an item."""
        stated = self.stated[rows, None]
        return ((stated < 0) | (stated == self.true)).all(axis=2)

    def items(self, rows: slice) -> Bool[np.ndarray, "rows texts"]:
        """The same from the item's side."""
        return ((self.stated < 0) | (self.stated == self.true[rows, None])).all(axis=2)


def _fitting(pool: Pool, truth: Sequence[Truth], group: Modality) -> _Fitting:
    numbers: dict[str | None, int] = defaultdict(count().__next__)
    slots = _SLOTS[group.label]
    stated: list[list[int]] = []
    for text, owner in zip(pool.texts, map(int, pool.owner), strict=True):
        own = truth[pool.rows[owner]].slots_of[text]
        stated.append([numbers[own[slot]] if slot in own else -1 for slot in slots])
    true = [[numbers[truth[row].facts.get(slot)] for slot in slots] for row in pool.rows]
    return _Fitting(np.array(stated), np.array(true))


def _hits(
    queries: Embeddings,
    items: Embeddings,
    fits: Callable[[slice], Bool[np.ndarray, "rows items"]],
) -> dict[str, Float[np.ndarray, " queries"]]:
    """Expected hits of each query, and those that are possible, some queries at a time."""
    parts: dict[str, list[np.ndarray]] = defaultdict(list)
    for first in range(0, len(queries.valid), _QUERIES_AT_ONCE):
        rows = slice(first, first + _QUERIES_AT_ONCE)
        scores, fitting = similarity(cut(queries, rows), items).numpy(), fits(rows)
        for k in (1, 5, 10):
            parts[f"r{k}"].append(expected_hits_at_k(scores, fitting, k))
            parts[f"oracle_r{k}"].append(possible_hits_at_k(fitting, k))
    return {name: np.concatenate(values) for name, values in parts.items()}


def _correct(
    name: str,
    retrieval: dict[str, Any],
    hits: Mapping[str, np.ndarray],
    ids: Sequence[str],
    items: Items | None,
) -> None:
    """Replace the recall of a direction, such as `audio/text_to_media`, by its expected value."""
    group, direction = name.split("/")
    for key in ("r1", "r5", "r10"):
        retrieval[group][direction][key] = float(hits[key].mean())
        if items is not None:
            items[f"retrieval/{name}/{key}"] = dict(zip(ids, hits[key].tolist(), strict=True))


def caption_truth(
    captions: Sequence[str | None], truth: Sequence[Truth], group: Modality
) -> dict[str, Any]:
    """Compare what captions state with what is true.

    Args:
        captions: Generated; None is left out, because its video lacks the modality.
        truth: Of the same videos.
        group: What the captions were written from.

    Returns:
        Accuracy by slot, where a slot that is missing from a caption counts as wrong, and the rate
        of stated slots that are untrue: in all, and apart for videos with a silent actor beside
        the sounding one and with a sound from off screen.
    """
    right: dict[str, list[bool]] = {}
    untrue: dict[str, list[bool]] = {"all": [], "silent": [], "offscreen": []}
    for caption, row in zip(captions, truth, strict=True):
        if caption is None:
            continue
        stated = parse_caption(caption)
        for slot in _SLOTS[group.label]:
            if slot in row.facts:
                right.setdefault(slot, []).append(stated.get(slot) == row.facts[slot])
        wrong = [row.facts.get(slot) != value for slot, value in stated.items()]
        untrue["all"] += wrong
        if row.layout in ("companion", "offscreen"):
            untrue["silent" if row.layout == "companion" else "offscreen"] += wrong
    return {
        "slot_accuracy": {slot: float(np.mean(values)) for slot, values in right.items()},
        "hallucination_rate": {
            case: float(np.mean(values)) for case, values in untrue.items() if values
        },
    }


def _priors(outputs: Outputs, truth: Sequence[Truth], group: Modality) -> dict[str, float]:
    """Accuracy of the exact oracle that sees only the group's truth, by what a question needs."""
    accuracy: dict[str, list[float]] = {}
    for row, question in outputs.questions:
        prior = truth[row].prior_of[question.text]
        sure = 1.0 if group == AUDIOVISUAL else prior[group.label]
        accuracy.setdefault(question.needs or "unknown", []).append(sure)
    return {need: float(np.mean(values)) for need, values in accuracy.items()}
