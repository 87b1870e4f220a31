"""What is known only on the rendered world: oracles, priors, and whether captions are true.

`r1` on the world is an expected value: a caption that fits k items of the pool equally well cannot
tell them apart, so a top item among these counts 1/k. The oracle's r1, the mean of 1/k, is the
ceiling.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from valor.data.world.language import AUDIO_SLOTS, VISION_SLOTS, caption_fits, parse_caption
from valor.errors import ManifestError
from valor.evaluation.items import Items
from valor.evaluation.run import EvaluatedModel, Outputs, Scores, score_captions
from valor.metrics.retrieval import expected_hits_at_k, expected_recall_at_k, oracle_recall_at_k
from valor.types import AUDIOVISUAL, MEDIA_GROUPS, Modality

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
    items: Items | None = None,
) -> None:
    """Put what only the truth can tell into a report.

    Args:
        report: From `evaluate`; changed in place.
        model: Embeds captions, if it embeds.
        outputs: What the report was made from.
        truth: By id of the records.
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
            scores = score_captions(model, outputs, about=about, group=group)
            if scores is None:
                continue
            fits = _fits(scores, rows, group)
            r1 = expected_recall_at_k(scores.matrix, fits, 1)
            by_caption.setdefault(about.label, {})[group.label] = r1
            if about == group:
                hits = _correct(report["retrieval"][group.label], scores, fits)
                if items is not None:
                    ids = [outputs.records[row].id for row in scores.rows]
                    _keep(items, f"retrieval/{group.label}", ids, hits)
    report["by_caption"] = by_caption
    for group, captions in outputs.captions.items():
        if group.label in report["captioning"]:
            report["captioning"][group.label] |= caption_truth(captions, rows, group)
    for group in outputs.answers:
        if group.label in report["answering"]:
            report["answering"][group.label]["prior"] = _priors(outputs, rows, group)


def _fits(scores: Scores, truth: Sequence[Truth], group: Modality) -> np.ndarray:
    """True where all that a caption states and a group can tell is true; `[captions, items]`."""
    stated = [
        {s: v for s, v in truth[row].slots_of[text].items() if s in _SLOTS[group.label]}
        for text, row in zip(scores.texts, scores.rows, strict=True)
    ]
    items = [truth[row].facts for row in scores.rows]
    return np.array([[caption_fits(slots, facts) for facts in items] for slots in stated])


def _correct(retrieval: dict[str, Any], scores: Scores, fits: np.ndarray) -> dict[str, np.ndarray]:
    """Replace plain recall by its expected value, and add what is possible; values by query."""
    values: dict[str, np.ndarray] = {}
    for direction, matrix, fit in (
        ("text_to_media", scores.matrix, fits),
        ("media_to_text", scores.matrix.T, fits.T),
    ):
        for k in (1, 5, 10):
            hits = expected_hits_at_k(matrix, fit, k)
            retrieval[direction][f"r{k}"] = float(hits.mean())
            values[f"{direction}/r{k}"] = hits
    for k in (1, 5, 10):
        retrieval[f"oracle_r{k}"] = oracle_recall_at_k(fits, k)
    return values


def _keep(items: Items, name: str, ids: Sequence[str], values: dict[str, np.ndarray]) -> None:
    for metric, own in values.items():
        items[f"{name}/{metric}"] = dict(zip(ids, own.tolist(), strict=True))


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
