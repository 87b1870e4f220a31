"""Values of single items: what confidence intervals, comparisons and galleries are made of.

A metric's name is its path in the report, such as `retrieval/vision/text_to_media/r1`; its values
are kept by id. Their mean is the figure in the report.
"""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from valor.evaluation.outputs import Outputs
from valor.metrics.ranking import Ties
from valor.types import Modality

Items: TypeAlias = dict[str, dict[str, float]]
"""Values by metric and by id."""
TIES: Ties = "pessimistic"
_NUM_SAMPLES = 1000
_NUM_FLIPS = 10_000


def add_ranks(
    items: Items, name: str, ids: Sequence[str], ranks: Float[np.ndarray, " queries"]
) -> None:
    """Keep what ranks say of each query: whether it is among the first k, and 1 / rank."""
    for k in (1, 5, 10):
        items[f"{name}/r{k}"] = dict(zip(ids, (ranks < k + 1).astype(float).tolist(), strict=True))
    items[f"{name}/mrr"] = dict(zip(ids, (1.0 / ranks).tolist(), strict=True))


def intervals(items: Items, *, seed: int = 0) -> dict[str, list[float]]:
    """95 % confidence intervals of the means, by bootstrap over items.

    Args:
        items: Values by metric and id.
        seed: Of the samples.

    Returns:
        Lower and upper end by metric; equal items and seed give equal numbers.
    """
    return {name: list(_interval(_by_id(values), seed)) for name, values in items.items()}


def compare(first: Items, second: Items, *, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Compare two models item by item, on the items that both were measured on.

    Args:
        first: Values of the model to compare with.
        second: Values of the other.
        seed: Of the samples.

    Returns:
        By metric that both have, the means `first` and `second`, `difference` (second - first) with
        its 95 % interval by paired bootstrap, `p` of a paired sign-flip test (two-sided; how often
        chance alone makes a difference as large), `num`, and `left_out`, the items of one alone.
    """
    report: dict[str, dict[str, Any]] = {}
    for name in first.keys() & second.keys():
        shared = sorted(first[name].keys() & second[name].keys())
        if not shared:
            continue
        a, b = (np.array([values[id] for id in shared]) for values in (first[name], second[name]))
        low, high = _interval(b - a, seed)
        report[name] = {
            "first": float(a.mean()),
            "second": float(b.mean()),
            "difference": float((b - a).mean()),
            "interval": [low, high],
            "p": _sign_flip(b - a, seed),
            "num": len(shared),
            "left_out": len(first[name].keys() ^ second[name].keys()),
        }
    return {name: report[name] for name in sorted(report)}


def worst(outputs: Outputs, items: Items, group: Modality, *, limit: int) -> dict[int, str]:
    """Find the recordings that a model fails on most, by retrieval, captions and answers in turn.

    Args:
        outputs: What the model said.
        items: The values of the same.
        group: What it was shown of the recordings.
        limit: How many recordings at most.

    Returns:
        What went wrong, by row of `outputs`.
    """
    rows = {record.id: row for row, record in enumerate(outputs.records)}
    queues: list[list[tuple[float, int, str]]] = []
    for name, word in (
        (f"retrieval/{group.label}/text_to_media/mrr", "Rank {:.0f} when its caption is searched."),
        (f"captioning/{group.label}/cider", f"CIDEr of its {group.label} caption is {{:.2f}}."),
        (f"answering/{group.label}/accuracy", "A question is answered wrongly."),
    ):
        values = items.get(name, {})
        best = 10.0 if name.endswith("cider") else 1.0
        failed = [
            (value, rows[owner], word.format(1 / value if "Rank" in word else value))
            for id, value in values.items()
            for owner in [id if id in rows else id.rpartition("#")[0]]
            if value < best
        ]
        queues.append(sorted(failed))
    found: dict[int, str] = {}
    for turn in zip_longest(*queues):
        for failure in turn:
            if failure is not None and len(found) < limit:
                found.setdefault(failure[1], failure[2])
    return found


def _by_id(values: Mapping[str, float]) -> Float[np.ndarray, " items"]:
    return np.array([values[id] for id in sorted(values)])


def _interval(values: Float[np.ndarray, " items"], seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(_NUM_SAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    return low, high


def _sign_flip(differences: Float[np.ndarray, " items"], seed: int) -> float:
    """How often random signs make a mean as far from 0; the given signs count as one trial."""
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    rng = np.random.default_rng(seed)
    seen = abs(differences.sum())
    # Rounding must not make a sum of equal size smaller.
    limit = seen - 1e-9 * np.abs(differences).sum()
    as_far = sum(
        abs(differences @ rng.choice((-1.0, 1.0), len(differences))) >= limit
        for _ in range(_NUM_FLIPS)
    )
    return (int(as_far) + 1) / (_NUM_FLIPS + 1)
