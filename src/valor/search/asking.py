"""What is asked for, as the text side of `similarity`: words, a sound, an image or a video."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from valor.errors import MediaError, UsageError
from valor.media.reading import read_in_order
from valor.models.fusion import join, token_weights
from valor.search.ingest import plan
from valor.search.words import words_of
from valor.types import AUDIOVISUAL, MEDIA_GROUPS, Embedder, Embeddings, Modality

_SECONDS = re.compile(r"\d+(\.\d*)?")
USING = {
    "vision": Modality.VISION,
    "audio": Modality.AUDIO,
    "audiovisual": AUDIOVISUAL,
    "text": Modality.TEXT,
}
Weights = dict[Modality, float]
"""By group of modalities to score; `TEXT` stands for captions and text tracks. They add up to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What to look for."""

    tokens: Embeddings
    """One row, in float32."""
    words: tuple[str, ...] = ()
    """Of a query by text."""

    @property
    def groups(self) -> tuple[Modality, ...]:
        """What it can be compared with."""
        return (*MEDIA_GROUPS, Modality.TEXT) if self.words else MEDIA_GROUPS


def parse_using(using: str | Mapping[str, float]) -> Weights | None:
    """Read what of the segments to search; None leaves it to the query.

    Args:
        using: `auto`, a name in `USING`, or names with weights.

    Returns:
        Weights that add up to 1.

    Raises:
        UsageError: If a name is unknown, or no weight is greater than zero.
    """
    if using == "auto":
        return None
    given = {using: 1.0} if isinstance(using, str) else using
    if strange := [name for name in given if name not in USING]:
        known = ", ".join(["auto", *USING])
        raise UsageError(f"cannot search using {strange[0]!r}; choose from {known}")
    total = sum(given.values())
    if total <= 0 or min(given.values()) < 0:
        raise UsageError(f"weights {dict(given)}; give none below 0 and one above")
    return {USING[name]: weight / total for name, weight in given.items() if weight}


def embed_query(
    embedder: Embedder, query: str | Path, *, by: str, group: Modality, also: str | None = None
) -> Query:
    """Turn a query into the text side of `similarity`.

    Args:
        embedder: The library's model.
        query: A text, or the path of a file, or of a stretch of it as `PATH@SECONDS`.
        by: What the query is: `text`, `audio`, `image` or `video`.
        group: The modalities of a video that the query is made of.
        also: A file whose sound a text is searched with.

    Returns:
        The query.

    Raises:
        UsageError: If `by` is unknown or the text is empty.
        MediaError: If the file has nothing of what `by` asks for, or cannot be read.
    """
    wanted = {"audio": Modality.AUDIO, "image": Modality.VISION, "video": group}
    if by == "text":
        if not str(query).strip():
            raise UsageError("the query is empty; say what to look for, such as 'a bell rings'")
        tokens = copied(embedder.embed_text([str(query)]))
        if also is not None:
            tokens = _side_by_side(tokens, _of_file(embedder, also, Modality.AUDIO))
        return Query(tokens=tokens, words=words_of(str(query)))
    if by not in wanted:
        raise UsageError(f"cannot search by {by!r}; choose from text, {', '.join(wanted)}")
    return Query(tokens=_of_file(embedder, str(query), wanted[by]))


def _of_file(embedder: Embedder, name: str, wanted: Modality) -> Embeddings:
    path, at_s = _place_of(name)
    stretches = plan(path, segment_s=embedder.segment_s)
    start_s, end_s = next((part for part in stretches if at_s < part[1]), stretches[-1])
    (segment,) = read_in_order(embedder, path, [(start_s, end_s)])
    media = embedder.embed_media([segment])
    usable = {m: part for m, part in media.items() if m in wanted and part.present.all()}
    if not usable:
        missing = f"no {wanted.label} in its segment at {start_s:g} s to search by"
        raise MediaError(path, "missing_modality", f"{missing}; use another file or --by")
    return copied(join(usable, wanted))


def _place_of(name: str) -> tuple[str, float]:
    """Split `PATH@SECONDS`; what is no number, or the name of a file, belongs to the path."""
    path, _, second = name.rpartition("@")
    if not path or not _SECONDS.fullmatch(second) or Path(name).exists():
        return name, 0.0
    return path, float(second)


def _side_by_side(first: Embeddings, second: Embeddings) -> Embeddings:
    """Both as one query, of which each makes up half."""
    halves = [token_weights(part).clamp(min=1e-9).log() for part in (first, second)]
    return Embeddings(
        vectors=torch.cat([first.vectors, second.vectors], dim=1),
        weight_logits=torch.cat(halves, dim=1),
        valid=torch.cat([first.valid, second.valid], dim=1),
    )


def copied(embeddings: Embeddings, rows: Int[Tensor, " some"] | None = None) -> Embeddings:
    """Copy embeddings, or some of their rows, for computing on the CPU."""
    chosen = slice(None) if rows is None else rows
    return Embeddings(
        vectors=embeddings.vectors[chosen].float().cpu(),
        weight_logits=embeddings.weight_logits[chosen].float().cpu(),
        valid=embeddings.valid[chosen].cpu(),
    )
