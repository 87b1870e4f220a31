"""From a query to ranked segments: an exact scan with `models.fusion.similarity`.

Every segment is scored by the modalities that it has of those that were asked for; one that has
none of them is no hit. Vectors are kept in float16 and scored in float32, block by block.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from valor.errors import MediaError, UsageError
from valor.models.fusion import join, similarity
from valor.search.ingest import plan, read
from valor.search.tables import Tables, embeddings_of
from valor.types import AUDIOVISUAL, MEDIA_GROUPS, Embedder, Embeddings, Modality

CACHE_BYTES = 2 << 30
"""Larger libraries are read from disk again by every query."""
_TIE = 1e-6
"""Scores closer than this are equal, and ordered by path and time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A segment that answers a query."""

    path: str
    start_s: float
    end_s: float
    score: float
    """What `similarity` says, in [-1, 1] up to the rounding of float16; higher is better."""
    by_modality: dict[str, float]
    """The score with one modality alone, for each one that the segment has."""
    modalities_used: Modality
    """What the score was made from: of what was asked for, that which the segment has."""
    caption: str | None = None
    """If the library was made with a describer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some thousand segments in memory."""

    paths: list[str]
    start_s: list[float]
    end_s: list[float]
    captions: list[str | None]
    media: dict[Modality, Embeddings]
    """In float16, by single modality and by groups that the model fuses itself; what no segment
    has is left out."""

    @property
    def num_bytes(self) -> int:
        """Size of the vectors."""
        return sum(part.vectors.nbytes for part in self.media.values())


class Scan:
    """All segments of a library, kept in memory as long as nothing was written to it.

    Args:
        tables: The library's tables.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._kept: tuple[tuple[int, int], list[Block]] | None = None

    def blocks(self) -> Iterator[Block]:
        """Yield every segment once."""
        version = self._tables.version
        if self._kept is not None and self._kept[0] == version:
            yield from self._kept[1]
            return
        self._kept = None
        blocks: list[Block] = []
        num_bytes = 0
        for batch in self._tables.segments(with_vectors=True):
            media = {group: embeddings_of(batch, group) for group in MEDIA_GROUPS}
            block = Block(
                paths=batch.column("path").to_pylist(),
                start_s=batch.column("start_s").to_pylist(),
                end_s=batch.column("end_s").to_pylist(),
                captions=batch.column("caption").to_pylist(),
                media={group: part for group, part in media.items() if part.valid.any()},
            )
            yield block
            num_bytes += block.num_bytes
            if num_bytes <= CACHE_BYTES:
                blocks.append(block)
            else:
                blocks.clear()
        if num_bytes <= CACHE_BYTES:
            self._kept = (version, blocks)


def parse_using(using: str) -> Modality:
    """Read which modalities of the segments to search; another word is a `UsageError`."""
    groups = {"auto": AUDIOVISUAL, "vision": Modality.VISION, "audio": Modality.AUDIO}
    groups["audiovisual"] = AUDIOVISUAL
    if using not in groups:
        raise UsageError(f"cannot search using {using!r}; choose from {', '.join(groups)}")
    return groups[using]


def embed_query(embedder: Embedder, query: str | Path, *, by: str, group: Modality) -> Embeddings:
    """Turn a query into the text side of `similarity`.

    Args:
        embedder: The library's model.
        query: A text, or the path of a file of which the first segment is used.
        by: What the query is: `text`, `audio`, `image` or `video`.
        group: The modalities of a video that the query is made of.

    Returns:
        One row of tokens in float32.

    Raises:
        UsageError: If `by` is unknown or the text is empty.
        MediaError: If the file has nothing of what `by` asks for, or cannot be read.
    """
    wanted = {"audio": Modality.AUDIO, "image": Modality.VISION, "video": group}
    if by == "text":
        if not str(query).strip():
            raise UsageError("the query is empty; say what to look for, such as 'a bell rings'")
        return _in_float32(embedder.embed_text([str(query)]))
    if by not in wanted:
        raise UsageError(f"cannot search by {by!r}; choose from text, {', '.join(wanted)}")
    start_s, end_s = plan(str(query), segment_s=embedder.segment_s)[0]
    segment = read(embedder, str(query), start_s=start_s, end_s=end_s)
    media = embedder.embed_media([segment])
    usable = {m: part for m, part in media.items() if m in wanted[by] and part.present.all()}
    if not usable:
        missing = f"no {wanted[by].label} in its first segment to search by"
        raise MediaError(str(query), "missing_modality", f"{missing}; use another file or --by")
    return _in_float32(join(usable, wanted[by]))


def rank(blocks: Iterable[Block], query: Embeddings, *, group: Modality, limit: int) -> list[Hit]:
    """Find the best segments by scoring all of them.

    Args:
        blocks: All segments.
        query: One row of tokens.
        group: The modalities of the segments to score.
        limit: How many hits to return at most.

    Returns:
        Hits, best first; equal ones by path and time.
    """
    best: list[Hit] = []
    for block in blocks:
        best += _best_of(block, query, group=group, limit=limit)
        best.sort(key=lambda hit: (-round(hit.score / _TIE), hit.path, hit.start_s))
        del best[limit:]
    return best


def _best_of(block: Block, query: Embeddings, *, group: Modality, limit: int) -> list[Hit]:
    """The block's best hits and all that tie with the last of them."""
    asked = {single: part for single, part in block.media.items() if single in group}
    if not asked:
        return []
    joined = join(asked, group)
    scores = similarity(query, _in_float32(joined))[0].masked_fill(~joined.present, -torch.inf)
    worst = scores.topk(min(limit, len(scores))).values[-1]
    rows = torch.nonzero((scores >= worst - _TIE) & joined.present)[:, 0]
    return _hits(block, rows, scores=scores[rows], query=query, group=group)


def _hits(
    block: Block, rows: torch.Tensor, *, scores: torch.Tensor, query: Embeddings, group: Modality
) -> list[Hit]:
    alone: dict[Modality, np.ndarray] = {}
    for single in (single for single in AUDIOVISUAL if single in block.media):
        chosen = _in_float32(block.media[single], rows)
        alone[single] = np.where(chosen.present, similarity(query, chosen)[0], np.nan)
    hits = []
    for index, row in enumerate(rows.tolist()):
        has = {single: float(s[index]) for single, s in alone.items() if not np.isnan(s[index])}
        used = Modality(0)
        for single in has:
            used |= single & group
        hit = Hit(
            path=block.paths[row],
            start_s=block.start_s[row],
            end_s=block.end_s[row],
            score=float(scores[index]),
            by_modality={single.label: score for single, score in has.items()},
            modalities_used=used,
            caption=block.captions[row],
        )
        hits.append(hit)
    return hits


def _in_float32(embeddings: Embeddings, rows: torch.Tensor | None = None) -> Embeddings:
    chosen = slice(None) if rows is None else rows
    return Embeddings(
        vectors=embeddings.vectors[chosen].float().cpu(),
        weight_logits=embeddings.weight_logits[chosen].float().cpu(),
        valid=embeddings.valid[chosen].cpu(),
    )
