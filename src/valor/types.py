"""The vocabulary of the package, in one place and without torch at run time.

Words: a `modality` is vision, audio or text; a `group` is a set of media modalities that a text is
aligned with (the paper's T-V, T-A and T-AV); a `segment` is a stretch `[start_s, end_s)` of a
recording; `tokens` are encoder output vectors, `token_ids` integers, an `embedding` a vector in the
shared space. A mask is named by what True means.

Axes in shape annotations: batch, frames, windows, mels, hops, tokens, dim, embed, vocab, length.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from valor.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


class Modality(enum.Flag):
    """A set of modalities; groups are values such as `Modality.VISION | Modality.AUDIO`."""

    VISION = enum.auto()
    AUDIO = enum.auto()
    TEXT = enum.auto()

    @property
    def label(self) -> str:
        """The name in command line, JSON and reports, such as `audiovisual` or `audio+text`."""
        if self == AUDIOVISUAL:
            return "audiovisual"
        return "+".join(str(single.name).lower() for single in self)

    @classmethod
    def parse(cls, label: str) -> Modality:
        """Read a group's name, the opposite of `label`; a wrong name is a `UsageError`."""
        group = cls(0)
        for part in label.lower().split("+"):
            if part == "audiovisual":
                group |= AUDIOVISUAL
            elif part.upper() in cls.__members__:
                group |= cls[part.upper()]
            else:
                known = "vision, audio, audiovisual, text or a sum such as audio+text"
                raise UsageError(f"unknown group {label!r}; use {known}")
        return group

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """In JSON a group is written by its label."""
        from pydantic_core import core_schema

        def read(value: object) -> Modality:
            if isinstance(value, cls):
                return value
            try:
                return cls.parse(str(value))
            except UsageError as error:
                raise ValueError(str(error)) from error

        written = core_schema.plain_serializer_function_ser_schema(lambda group: group.label)
        return core_schema.no_info_plain_validator_function(read, serialization=written)


AUDIOVISUAL = Modality.VISION | Modality.AUDIO
"""Vision and audio together."""
MEDIA_GROUPS = (Modality.VISION, Modality.AUDIO, AUDIOVISUAL)
"""The paper's groups, in the order in which reports list them."""
Groups = Modality | Sequence[Modality]
"""A group for all of a row's texts, or one for each of them."""


def as_groups(groups: Groups) -> Sequence[Modality]:
    """One group, or several, as a sequence."""
    return (groups,) if isinstance(groups, Modality) else groups


def union(groups: Sequence[Modality]) -> Modality:
    """The modalities of all groups."""
    whole = Modality(0)
    for group in groups:
        whole |= group
    return whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Decoded media: a stretch of a recording, before any model's preprocessing.

    A modality that the file does not have is None. Digital silence is a waveform of zeros with
    `is_silent` True, so that a model can treat it as no sound while reports can tell the two apart.
    """

    path: str
    start_s: float
    end_s: float
    frames: UInt8[np.ndarray, "frames height width 3"] | None
    """RGB, upright, with square pixels."""
    frame_times_s: Float[np.ndarray, " frames"] | None
    """Presentation time of each frame within the recording."""
    waveform: Float[np.ndarray, " samples"] | None
    """Mono, in [-1, 1]; starts at `start_s`."""
    sample_rate_hz: int
    is_silent: bool = False

    @property
    def available(self) -> Modality:
        """The modalities a model can use: no silence, no missing stream."""
        group = Modality(0)
        if self.frames is not None:
            group |= Modality.VISION
        if self.waveform is not None and not self.is_silent:
            group |= Modality.AUDIO
        return group


@dataclass(slots=True, kw_only=True)
class Sample:
    """One segment after preprocessing: what a model sees of it."""

    id: str
    pixels: UInt8[np.ndarray, "frames 3 height width"] | None
    spectrograms: Float[np.ndarray, "windows mels hops"] | None

    @property
    def available(self) -> Modality:
        """The modalities that are there."""
        group = Modality(0)
        if self.pixels is not None:
            group |= Modality.VISION
        if self.spectrograms is not None:
            group |= Modality.AUDIO
        return group


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialIds:
    """Token ids with a meaning of their own."""

    pad: int
    start: int
    """Begins every text; BERT's [CLS]."""
    end: int
    """Ends every text; BERT's [SEP]."""
    mask: int


@dataclass(slots=True, kw_only=True)
class TextBatch:
    """Token ids with padding at the end; rows follow the batch's rows."""

    token_ids: Int[Tensor, "batch length"]
    valid: Bool[Tensor, "batch length"]
    """True where a token is part of the text; a row without text has none."""

    @property
    def has_text(self) -> Bool[Tensor, " batch"]:
        """True for rows that have a text at all."""
        return self.valid.any(dim=1)


@dataclass(slots=True, kw_only=True)
class QuestionBatch:
    """Questions with their answers, to be answered from `group`."""

    question: TextBatch
    answer: TextBatch
    group: Modality


@dataclass(slots=True, kw_only=True)
class Batch:
    """Model inputs of several samples. A modality that no row has is None."""

    ids: list[str]
    pixels: Float[Tensor, "batch frames 3 height width"] | None
    frame_valid: Bool[Tensor, "batch frames"] | None
    spectrograms: Float[Tensor, "batch windows mels hops"] | None
    window_valid: Bool[Tensor, "batch windows"] | None
    aligned_texts: dict[Modality, TextBatch] = field(default_factory=dict[Modality, TextBatch])
    """For MGA: the text that each group's media is contrasted with."""
    caption_texts: dict[Modality, TextBatch] = field(default_factory=dict[Modality, TextBatch])
    """For MGC: the text to be written from each group's media."""
    questions: list[QuestionBatch] = field(default_factory=list[QuestionBatch])
    row_seeds: Int[Tensor, " batch"] | None = None
    """Of what training draws for each row; None draws from torch's generator."""
    encoded: dict[Modality, EncoderOutput] | None = None
    """What frozen encoders gave for the rows before, in the place of their inputs."""


@dataclass(slots=True, kw_only=True)
class Tokens:
    """Vectors of one modality with their mask."""

    features: Float[Tensor, "batch tokens dim"]
    valid: Bool[Tensor, "batch tokens"]


@dataclass(slots=True, kw_only=True)
class EncoderOutput:
    """What every media encoder returns."""

    tokens: Tokens
    """All patch vectors, which the decoder attends to."""
    summary: Tokens
    """One vector per frame or audio window, which alignment uses (paper: the global feature)."""


@dataclass(slots=True, kw_only=True)
class Embeddings:
    """Per-token vectors in the shared space, with the logits of their weights.

    Source: VALOR 3.3, e_t, e_v, e_a and the inputs of the softmax f.
    """

    vectors: Float[Tensor, "batch tokens embed"]
    """L2-normalised."""
    weight_logits: Float[Tensor, "batch tokens"]
    valid: Bool[Tensor, "batch tokens"]

    @property
    def present(self) -> Bool[Tensor, " batch"]:
        """True for rows with at least one valid token."""
        return self.valid.any(dim=1)

    def select(self, rows: Int[Tensor, " some"] | Bool[Tensor, " batch"]) -> Embeddings:
        """Pick rows, by index or by a mask."""
        return Embeddings(
            vectors=self.vectors[rows],
            weight_logits=self.weight_logits[rows],
            valid=self.valid[rows],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """A text about one file."""

    text: str
    modalities_used: Modality
    segments: tuple[tuple[float, float], ...]
    """The stretches in seconds that the text was made from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer to a question about one file."""

    text: str
    modalities_used: Modality
    confidence: float
    """Geometric mean of the probabilities of the answer's tokens, in [0, 1]; NaN if unknown."""


class Reader(Protocol):
    """Knows how densely it wants to see and hear recordings."""

    def read(
        self,
        path: str,
        *,
        start_s: float = 0.0,
        end_s: float | None = None,
        keyframes_only: bool = False,
    ) -> Segment:
        """Decode a stretch of a file as this model wants it; raises `MediaError`."""
        ...


@runtime_checkable
class Embedder(Reader, Protocol):
    """Embeds media and text into one space."""

    @property
    def fingerprint(self) -> str:
        """Names the exact model; embeddings of different models never mix."""
        ...

    @property
    def groups(self) -> Sequence[Modality]:
        """The groups of media that can be embedded."""
        ...

    @property
    def segment_s(self) -> float:
        """The length of recording that one embedding should cover."""
        ...

    def embed_media(self, segments: Sequence[Segment]) -> dict[Modality, Embeddings]:
        """Embed segments; keys are single modalities, rows follow the segments.

        A row without a modality has no valid token there; a modality without any row is left out.
        """
        ...

    def embed_text(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts, word by word."""
        ...


@runtime_checkable
class Describer(Reader, Protocol):
    """Writes captions and answers questions."""

    def describe(
        self, segments: Sequence[Segment], *, using: Modality = AUDIOVISUAL
    ) -> list[Caption]:
        """Caption each segment from the modalities in `using` that it has."""
        ...

    def answer(
        self,
        segments: Sequence[Segment],
        questions: Sequence[str],
        *,
        using: Modality = AUDIOVISUAL,
    ) -> list[Answer]:
        """Answer each segment's question from the modalities in `using` that it has."""
        ...


@runtime_checkable
class StreamingDescriber(Describer, Protocol):
    """A describer that can be read while it writes."""

    def stream(
        self,
        segments: Sequence[Segment],
        questions: Sequence[str] | None = None,
        *,
        using: Modality = AUDIOVISUAL,
    ) -> Iterator[list[Answer]]:
        """Describe segments, or answer their questions, and hand out all texts after every word.

        The first texts are empty and say which modalities are used; the last are the whole ones.
        """
        ...
