"""What any model does with whole files: `caption`, `ask` and `embed`, over the two protocols.

A recording is cut into segments; each is used with the modalities that it has, and every result
says which those were.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from valor.errors import MediaError, ModelError
from valor.media.probe import probe
from valor.media.reading import read_in_order
from valor.media.segments import DecodePlan, cut, decode_segment
from valor.models.fusion import join, pooled, similarity
from valor.types import AUDIOVISUAL, Answer, Caption, Describer, Embedder, Modality, Segment

_SEGMENTS_AT_ONCE = 16


class FileVerbs(ABC):
    """Base of every model; a subclass adds what `Embedder`, `Describer` or both ask for."""

    @property
    @abstractmethod
    def segment_s(self) -> float:
        """The length of recording to look at in one go."""

    @property
    @abstractmethod
    def plan(self) -> DecodePlan:
        """How densely this model reads recordings."""

    def read(
        self,
        path: str,
        *,
        start_s: float = 0.0,
        end_s: float | None = None,
        keyframes_only: bool = False,
    ) -> Segment:
        """Decode a stretch of a file as this model wants it; raises `MediaError`."""
        plan = replace(self.plan, keyframes_only=keyframes_only)
        return decode_segment(path, plan, start_s=start_s, end_s=end_s)

    def caption(self, path: str | Path, *, using: Modality = AUDIOVISUAL) -> Caption:
        """Describe a file.

        Args:
            path: Any file with picture, sound or both.
            using: The modalities to look at, as far as the file has them.

        Returns:
            The captions of its segments in a row, each said once.

        Raises:
            MediaError: If the file cannot be read or has nothing of what is to be used.
            ModelError: If this model does not describe.
        """
        describer = need_describer(self)
        captions = [c for part in self._parts(path) for c in describer.describe(part, using=using)]
        captions = [caption for caption in captions if caption.modalities_used]
        if not captions:
            detail = f"no {using.label} to describe; use another modality, or another file"
            raise MediaError(str(path), "nothing_usable", detail)
        return Caption(
            text="; ".join(dict.fromkeys(caption.text for caption in captions)),
            modalities_used=_union(captions),
            segments=tuple(stretch for caption in captions for stretch in caption.segments),
        )

    def ask(self, path: str | Path, question: str, *, using: Modality = AUDIOVISUAL) -> Answer:
        """Answer a question about a file.

        Args:
            path: Any file with picture, sound or both.
            question: In words.
            using: The modalities to look at, as far as the file has them.

        Returns:
            The most confident of its segments' answers; the first, if no confidence is known.

        Raises:
            MediaError: If the file cannot be read or has nothing of what is to be used.
            ModelError: If this model does not answer.
        """
        describer = need_describer(self)
        answers = [
            answer
            for part in self._parts(path)
            for answer in describer.answer(part, [question] * len(part), using=using)
            if answer.modalities_used
        ]
        if not answers:
            detail = f"no {using.label} to ask about; use another modality, or another file"
            raise MediaError(str(path), "nothing_usable", detail)
        return max(answers, key=lambda a: -1.0 if math.isnan(a.confidence) else a.confidence)

    def embed(
        self, path: str | Path
    ) -> list[tuple[float, float, dict[Modality, Float[np.ndarray, " embed"]]]]:
        """Embed a file, segment by segment.

        Args:
            path: Any file with picture, sound or both.

        Returns:
            Start and end in seconds, and one unit vector per group that the segment has in full,
            the weighted mean of the group's tokens. Search compares the tokens themselves.

        Raises:
            MediaError: If the file cannot be read.
            ModelError: If this model does not embed.
        """
        embedder = need_embedder(self)
        rows = []
        for part in self._parts(path):
            media = embedder.embed_media(part)
            for row, segment in enumerate(part):
                vectors = {
                    group: pooled(join(media, group))[row].numpy()
                    for group in embedder.groups
                    if group in segment.available
                }
                rows.append((segment.start_s, segment.end_s, vectors))
        return rows

    def _parts(self, path: str | Path) -> Iterator[list[Segment]]:
        """Read a file segment by segment, some at a time."""
        stretches = cut(probe(str(path)).duration_s, segment_s=self.segment_s)
        segments = read_in_order(self, str(path), stretches)
        while some := list(itertools.islice(segments, _SEGMENTS_AT_ONCE)):
            yield some


def fit(
    embedder: Embedder, segments: Sequence[Segment], texts: Sequence[str], *, group: Modality
) -> list[float | None]:
    """Say how well each text fits its own segment, by `similarity`.

    Args:
        embedder: Any model that embeds.
        segments: However decoded.
        texts: One per segment.
        group: What of the segments is compared.

    Returns:
        In [-1, 1]; None where a segment has not all of the group, or the model no such group.
    """
    if group not in embedder.groups:
        return [None] * len(segments)
    media = embedder.embed_media(segments)
    if not all(single in media for single in group):
        return [None] * len(segments)
    scores = similarity(embedder.embed_text(texts), join(media, group)).diagonal().tolist()
    has = [all(bool(media[single].present[row]) for single in group) for row in range(len(texts))]
    return [score if is_there else None for score, is_there in zip(scores, has, strict=True)]


def need_embedder(model: object) -> Embedder:
    """Return the model if it embeds; else a `ModelError` says what would."""
    if not isinstance(model, Embedder):
        raise ModelError(
            f"{_source(model)}: describes, but does not embed; use a model folder of ours or a "
            "public embedding model, such as facebook/pe-av-small"
        )
    return model


def need_describer(model: object) -> Describer:
    """Return the model if it captions and answers; else a `ModelError` says what would."""
    if not isinstance(model, Describer):
        raise ModelError(
            f"{_source(model)}: embeds, but neither captions nor answers; use a model folder of "
            "ours or an endpoint, such as http://localhost:8000/v1#MODEL"
        )
    return model


def _source(model: object) -> str:
    return getattr(model, "source", "this model")


def _union(captions: Sequence[Caption]) -> Modality:
    used = Modality(0)
    for caption in captions:
        used |= caption.modalities_used
    return used
