"""From a query to ranked segments, with `models.fusion.similarity` as the only score.

Small libraries are scored whole. In a large one `candidates` picks what is scored: the score is a
maximum of linear functions of a segment's mean vision and mean audio token, one for every way in
which words and tokens can choose each other. A sample of the library shows which of those functions
matter for a query, and the index finds the segments where they are greatest.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float

from valor.models.fusion import join, similarity, token_weights
from valor.search.asking import Query, Weights, copied
from valor.search.results import Hit
from valor.search.tables import INDEXED, SEGMENT_FIELDS, Tables, media_of
from valor.search.words import coverage
from valor.types import AUDIOVISUAL, Embeddings, Modality

CACHE_BYTES = 2 << 30
"""Larger libraries are read from disk again by every exact query."""
SAMPLE_SEGMENTS = 512
_PROBES = 3
"""Linear functions that the index is asked about at once."""
_NUM_CANDIDATES = 128
"""Shared by them; the one of the best segment found comes last, if it is a new one."""
_PER_HIT = 4
"""Candidates for every hit asked for, if that is more."""
_ALIKE = 0.98
"""Cosine of linear functions above which one of them is enough."""
_TIE = 1e-6
"""Scores closer than this are equal, and ordered by path and time."""
_SHARPNESS = 30.0
"""How much more a group of modalities weighs whose best match stands out by 1 more."""
_NEGLIGIBLE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some thousand segments in memory."""

    rows: pa.RecordBatch
    """What describes them."""
    media: dict[Modality, Embeddings]
    """In float16, by single modality and by groups that the model fuses itself; what no segment has
    is left out."""
    kept: dict[Modality, Embeddings] | None = None
    """By group, what `joined` gave, for a block that every query is compared with."""

    @classmethod
    def of(cls, batch: pa.RecordBatch, *, keep_joined: bool = False) -> "Block":
        """Unpack a batch of the table."""
        kept = {} if keep_joined else None
        return cls(rows=batch.select(SEGMENT_FIELDS), media=media_of(batch), kept=kept)

    @property
    def num_bytes(self) -> int:
        """Size of the vectors."""
        return sum(part.vectors.nbytes for part in self.media.values())

    def joined(self, group: Modality) -> Embeddings | None:
        """The tokens of a group in float32; None if no segment has any."""
        if self.kept is not None and group in self.kept:
            return self.kept[group]
        parts = {single: part for single, part in self.media.items() if single in group}
        if not parts:
            return None
        found = copied(join(parts, group))
        if self.kept is not None:
            # In memory token by token, as `similarity` reads them.
            found.vectors = found.vectors.transpose(0, 1).contiguous().transpose(0, 1)
            self.kept[group] = found
        return found


class Scan:
    """Segments of a library in memory, as long as nothing was written to it.

    Args:
        tables: The library's tables.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._kept: tuple[tuple[int, int], list[Block]] | None = None
        self._sample: tuple[tuple[int, int], list[Block]] | None = None

    def blocks(self, where: str | None = None) -> Iterator[Block]:
        """Yield every segment, or every one that a filter keeps, once."""
        version = self._tables.version
        if where is None and self._kept is not None and self._kept[0] == version:
            yield from self._kept[1]
            return
        blocks: list[Block] = []
        num_bytes = 0
        for batch in self._tables.segments(with_vectors=True, where=where):
            block = Block.of(batch)
            yield block
            num_bytes += block.num_bytes
            if num_bytes <= CACHE_BYTES:
                blocks.append(block)
            else:
                blocks.clear()
        if where is None and num_bytes <= CACHE_BYTES:
            self._kept = (version, blocks)

    def sample(self) -> list[Block]:
        """Segments that stand for all of a library with an index."""
        version = self._tables.version
        if self._sample is None or self._sample[0] != version:
            batches = self._tables.sample(SAMPLE_SEGMENTS)
            blocks = [Block.of(batch, keep_joined=True) for batch in batches]
            self._sample = version, blocks
        return self._sample[1]


Scores = dict[Modality, Float[np.ndarray, " segments"]]
"""By group; NaN for a segment that has nothing of it."""


def score(block: Block, query: Query, groups: Iterable[Modality]) -> Scores:
    """Compare every segment with a query, group by group."""
    scores: Scores = {}
    for group in groups:
        if group == Modality.TEXT:
            scores[group] = coverage(block.rows, query.words)
        elif (joined := block.joined(group)) is not None:
            found = similarity(query.tokens, joined)[0]
            scores[group] = torch.where(joined.present, found, torch.nan).numpy()
        else:
            scores[group] = np.full(block.rows.num_rows, np.nan)
    return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """How much each group counts for a query, and what it scores on average."""

    weights: Weights
    average: dict[Modality, float]
    is_fixed: bool
    """False if the query decided; then a segment without what counts is still a hit."""

    def total(self, scores: Scores) -> Float[np.ndarray, " segments"]:
        """The weighted sum; a group that a segment lacks counts as average, NaN for no hit."""
        parts = {group: scores[group] for group in self.weights}
        filled = [
            weight * np.nan_to_num(parts[group], nan=self.average[group])
            for group, weight in self.weights.items()
        ]
        total = np.sum(filled, axis=0)
        if not self.is_fixed:
            return total
        lacks_all = np.all([np.isnan(part) for part in parts.values()], axis=0)
        return np.where(lacks_all, np.nan, total)


def balance(scores: Sequence[Scores], weights: Weights | None) -> Balance:
    """Decide how much each group counts.

    A query is about the group in which its best match stands out most from the average: what it
    does not speak of scores alike everywhere. Plain averaging would let that noise in.

    Args:
        scores: Of all segments or a sample of them, by every group that could count.
        weights: If they are fixed.

    Returns:
        Weights that add up to 1.
    """
    average, lead = {}, {}
    for group in scores[0] if scores else ():
        values = np.concatenate([part[group] for part in scores])
        values = values[~np.isnan(values)]
        average[group] = float(values.mean()) if len(values) else 0.0
        lead[group] = float(values.max()) - average[group] if len(values) else -np.inf
    is_fixed = weights is not None
    if weights is None:
        best = max(lead.values(), default=0.0)
        raw = {group: np.exp(_SHARPNESS * (value - best)) for group, value in lead.items()}
        kept = {group: float(w) for group, w in raw.items() if w > _NEGLIGIBLE}
        weights = {group: w / sum(kept.values()) for group, w in kept.items()}
    known = dict.fromkeys(weights, 0.0) | average
    return Balance(weights=weights, average=known, is_fixed=is_fixed)


def rank(
    blocks: Iterable[Block], query: Query, *, weights: Weights | None, limit: int
) -> list[Hit]:
    """Find the best segments by scoring all of them.

    Args:
        blocks: All segments.
        query: What to look for.
        weights: How much each group counts; None lets the query decide.
        limit: How many hits to return at most.

    Returns:
        Hits, best first; equal ones by path and time.
    """
    groups = query.groups if weights is None else tuple(weights)
    read_once = list(blocks)
    scores = [score(block, query, groups) for block in read_once]
    return best_of(read_once, scores, query, balance(scores, weights), limit=limit)


def best_of(
    blocks: Sequence[Block],
    scores: Sequence[Scores],
    query: Query,
    balanced: Balance,
    *,
    limit: int,
) -> list[Hit]:
    """Make hits of the best segments and all that tie with the last of them, then cut."""
    totals = [balanced.total(part) for part in scores]
    every = np.concatenate([np.empty(0), *totals])
    every = every[~np.isnan(every)]
    if not len(every):
        return []
    worst = np.partition(every, -min(limit, len(every)))[-min(limit, len(every))]
    hits: list[Hit] = []
    for block, total in zip(blocks, totals, strict=True):
        rows = np.flatnonzero(total >= worst - _TIE)
        hits += _hits(block, rows, total[rows], query, balanced)
    hits.sort(key=lambda hit: (-round(hit.score / _TIE), hit.path, hit.start_s))
    return hits[:limit]


def candidates(
    tables: Tables,
    sample: Sequence[Block],
    scores: Sequence[Scores],
    query: Query,
    balanced: Balance,
    where: str | None,
    *,
    limit: int,
) -> list[Block]:
    """Pick the segments of an indexed table that may be among the best.

    Args:
        tables: The library's tables.
        sample: Segments that stand for all.
        scores: Theirs.
        query: What to look for.
        balanced: How much each group counts.
        where: A filter.
        limit: How many of them are to be hits.

    Returns:
        Some hundred segments.
    """
    num = max(_NUM_CANDIDATES, _PER_HIT * limit)
    found: list[int] = []
    if Modality.TEXT in balanced.weights:
        text = " ".join(query.words)
        found += tables.matching(text, limit=num, where=where)
    if not balanced.weights.keys() - {Modality.TEXT}:
        return _taken(tables, found)
    asked = _probes(sample, scores, query, balanced, num=_PROBES)
    near = _unlike(asked, asked[:0])
    found += tables.nearest(near, limit=num // len(near), where=where)
    first = _taken(tables, found)
    first_scores = [score(block, query, balanced.weights) for block in first]
    new = _unlike(_probes(first, first_scores, query, balanced, num=1), near)
    if not len(new):
        return first
    more = tables.nearest(new, limit=num // _PROBES, where=where)
    return first + _taken(tables, set(more).difference(found))


def _taken(tables: Tables, row_ids: Iterable[int]) -> list[Block]:
    unique = sorted(set(row_ids))
    return [Block.of(batch) for batch in tables.take(unique) if batch.num_rows] if unique else []


def _probes(
    blocks: Sequence[Block],
    scores: Sequence[Scores],
    query: Query,
    balanced: Balance,
    *,
    num: int,
) -> Float[np.ndarray, "queries pooled"]:
    """The linear functions by which the best segments of some blocks are scored."""
    best = sorted(
        (-float(total[row]), number, int(row))
        for number, total in enumerate(map(balanced.total, scores))
        for row in np.argsort(-np.nan_to_num(total, nan=-9.0))[:num]
    )
    found = [linear(blocks[n], row, query.tokens, balanced.weights) for _, n, row in best[:num]]
    return np.array(found, np.float32)


def _unlike(
    probes: Float[np.ndarray, "queries pooled"], known: Float[np.ndarray, "known pooled"]
) -> Float[np.ndarray, "new pooled"]:
    """Leave out functions that are like an earlier or a known one."""
    kept = list(known)
    for probe in probes:
        lengths = [np.linalg.norm(probe) * np.linalg.norm(other) for other in kept]
        if all(probe @ other < _ALIKE * n for other, n in zip(kept, lengths, strict=True)):
            kept.append(probe)
    return np.array(kept[len(known) :], np.float32)


def linear(
    block: Block, row: int, tokens: Embeddings, weights: Weights
) -> Float[np.ndarray, " pooled"]:
    """The function of a segment's mean tokens that equals the score around one segment.

    Every word keeps the modality whose token matched it best, every token the word that did.

    Args:
        block: Where the segment is.
        row: Its place there.
        tokens: One row, the query's.
        weights: Of the groups that count.

    Returns:
        Factors of the mean vision token and of the mean audio token, in a row.
    """
    words, word_weights = tokens.vectors[0].numpy(), token_weights(tokens)[0].numpy()
    said = tokens.valid[0].numpy()
    parts = {
        single: copied(block.media[single], torch.tensor([row]))
        for single in INDEXED
        if single in block.media
    }
    total = np.zeros((len(INDEXED), words.shape[1]), np.float32)
    for group, weight in weights.items():
        singles = [single for single in parts if single in group]
        if not singles:
            continue
        joined = join({single: parts[single] for single in singles}, group)
        lengths = [parts[single].valid.shape[1] for single in singles]
        owner = np.repeat([INDEXED.index(single) for single in singles], lengths)
        can_match = said[:, None] & joined.valid[0].numpy()
        cosine = np.where(can_match, words @ joined.vectors[0].numpy().T, -9.0)
        media_weights = token_weights(joined)[0].numpy()
        chosen, best_word = owner[cosine.argmax(axis=1)], words[cosine.argmax(axis=0)]
        for place in range(len(INDEXED)):
            total[place] += weight / 2 * (word_weights * (chosen == place)) @ words
            total[place] += weight / 2 * (media_weights * (owner == place)) @ best_word
    return total.flatten()


def _hits(
    block: Block,
    rows: Float[np.ndarray, " hits"],
    totals: Float[np.ndarray, " hits"],
    query: Query,
    balanced: Balance,
) -> list[Hit]:
    alone: dict[Modality, np.ndarray] = {}
    when: dict[Modality, np.ndarray] = {}
    for single in (single for single in AUDIOVISUAL if single in block.media and len(rows)):
        chosen = copied(block.media[single], torch.from_numpy(rows))
        alone[single] = np.where(chosen.present, similarity(query.tokens, chosen)[0], np.nan)
        when[single] = _best_place(query.tokens, chosen)
    if query.words and len(rows):
        alone[Modality.TEXT] = coverage(block.rows.take(pa.array(rows)), query.words)
    asked = Modality(0)
    for group in balanced.weights:
        asked |= group
    hits = []
    for index, row in enumerate(block.rows.take(pa.array(rows)).to_pylist()):
        has = {single: float(s[index]) for single, s in alone.items() if not np.isnan(s[index])}
        used = Modality(0)
        for single in has:
            used |= single & asked
        matched = max((s for s in has if s in used), key=lambda s: has[s], default=used)
        place = float(when[matched][index]) if matched in when else 0.0
        total = float(totals[index])
        found = Hit.of(row, score=total, by_modality=has, used=used, matched=matched, place=place)
        hits.append(found)
    return hits


def _best_place(query: Embeddings, media: Embeddings) -> Float[np.ndarray, " segments"]:
    """Where in each segment its best-matching token lies, from 0 to 1."""
    weighted = torch.einsum("twe,mne->tmwn", query.vectors, media.vectors)[0]
    weighted = torch.einsum("mwn,w->mn", weighted, token_weights(query)[0])
    best = weighted.masked_fill(~media.valid, -9.0).argmax(dim=1)
    return ((best + 0.5) / media.valid.sum(dim=1).clamp(min=1)).clamp(max=1.0).numpy()
