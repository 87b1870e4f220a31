"""What a search returns: hits, with neighbours and copies merged."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from valor.types import Modality

_SAME = 1e-4
"""Scores of copies differ by the rounding of float16 at most."""
_MUST_KEEP = 0.9
"""Part of a hit's score that a neighbour needs to be the same event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A stretch of a recording that answers a query."""

    path: str
    start_s: float
    """Seconds within the recording, as `end_s` and `moment_s`."""
    end_s: float
    score: float
    """What `similarity` says, in [-1, 1] up to the rounding of float16; higher is better. With
    several groups of modalities it is their weighted mean."""
    by_modality: dict[str, float]
    """The score with one modality alone, for each one that the segment has; for `text` the share
    of the query's words that a caption or text track says."""
    modalities_used: Modality
    """What the score was made from: of what was asked for, that which the segment has."""
    matched: Modality
    """The one of those that fits best."""
    moment_s: float
    """The second that fits best, as far as the model's tokens tell."""
    caption: str | None = None
    """If the library was made with a describer."""
    speech: str | None = None
    """What is said, from a sidecar or a transcript."""
    screen: str | None = None
    """What is written in the picture."""
    metadata: str | None = None
    """What is known about the file, as `NAME=VALUE;` by name."""
    copies: tuple[str, ...] = ()
    """Other files with the same stretch."""

    @classmethod
    def of(
        cls,
        row: dict[str, Any],
        *,
        score: float,
        by_modality: dict[Modality, float],
        used: Modality,
        matched: Modality,
        place: float,
    ) -> "Hit":
        """Make a hit of a table's row; `place` is where in it the best moment lies, 0 to 1."""
        names = ("path", "start_s", "end_s", "caption", "speech", "screen", "metadata")
        return cls(
            **{name: row[name] for name in names},
            score=score,
            by_modality={single.label: value for single, value in by_modality.items()},
            modalities_used=used,
            matched=matched,
            moment_s=row["start_s"] + place * (row["end_s"] - row["start_s"]),
        )


def merge(hits: Sequence[Hit], *, limit: int) -> list[Hit]:
    """Make one hit of neighbouring segments that fit alike, and one of copies.

    Args:
        hits: Best first.
        limit: How many to return at most.

    Returns:
        Merged hits, best first; each has the score and the moment of its best segment.
    """
    stretches: list[Hit] = []
    for hit in hits:
        near = [kept for kept in stretches if _touches(kept, hit)]
        if not near:
            stretches.append(hit)
            continue
        parts = [*near, hit]
        start_s, end_s = min(p.start_s for p in parts), max(p.end_s for p in parts)
        stretches[stretches.index(near[0])] = replace(near[0], start_s=start_s, end_s=end_s)
        # A hit between two others makes one of them all.
        stretches = [kept for kept in stretches if kept not in near[1:]]
    merged: list[Hit] = []
    for hit in stretches:
        index = next((i for i, kept in enumerate(merged) if _is_copy(kept, hit)), None)
        if index is None:
            merged.append(hit)
        else:
            merged[index] = replace(merged[index], copies=(*merged[index].copies, hit.path))
    return merged[:limit]


def _touches(kept: Hit, hit: Hit) -> bool:
    is_near = hit.start_s <= kept.end_s + 1e-3 and kept.start_s <= hit.end_s + 1e-3
    return hit.path == kept.path and is_near and hit.score >= _MUST_KEEP * kept.score


def _is_copy(kept: Hit, hit: Hit) -> bool:
    """Same stretch, same scores with every modality, same length."""
    is_same_place = abs(kept.start_s - hit.start_s) < 1e-3 and abs(kept.end_s - hit.end_s) < 1e-3
    if (
        not is_same_place
        or kept.path == hit.path
        or kept.by_modality.keys() != hit.by_modality.keys()
    ):
        return False
    return all(abs(kept.by_modality[k] - hit.by_modality[k]) < _SAME for k in kept.by_modality)
