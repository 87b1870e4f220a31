"""A trained model at work: load it, then caption, question and embed files.

`VideoModel` is the Embedder and the Describer of DESIGN.md over our own weights. A file is used
with the modalities that it has, and every result says which those were.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from valor.checkpoints.folder import load_model
from valor.data.collate import collate_media
from valor.errors import MediaError, ModelError
from valor.media.probe import probe
from valor.media.segments import cut, decode_segment
from valor.models.fusion import join, pooled
from valor.models.generation import generate
from valor.models.valor import Valor
from valor.processing.processor import Processor
from valor.types import (
    AUDIOVISUAL,
    MEDIA_GROUPS,
    Answer,
    Caption,
    Embeddings,
    Modality,
    Sample,
    Segment,
)

_SEGMENTS_AT_ONCE = 16


def load(source: str | Path) -> "VideoModel":
    """Load a model.

    Args:
        source: A model folder.

    Returns:
        The model, ready to use.

    Raises:
        ModelError: If the folder is missing, incomplete or damaged.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise ModelError(f"{source}: no such model folder; `valor demo` trains one in minutes")
    return VideoModel(*load_model(folder))


class VideoModel:
    """Captions, answers and embeddings of audible video.

    Args:
        valor: Weights, in evaluation mode.
        processor: Their preprocessing.
        fingerprint: Names both.
    """

    def __init__(self, valor: Valor, processor: Processor, fingerprint: str) -> None:
        self.valor = valor
        self.processor = processor
        self.fingerprint = fingerprint

    @property
    def groups(self) -> Sequence[Modality]:
        """The groups of media that can be embedded."""
        return MEDIA_GROUPS

    @property
    def segment_s(self) -> float:
        """The length of recording that one embedding covers."""
        return self.processor.config.segment_s

    def caption(self, path: str | Path, *, using: Modality = AUDIOVISUAL) -> Caption:
        """Describe a file.

        Args:
            path: Any file with picture, sound or both.
            using: The modalities to look at, as far as the file has them.

        Returns:
            The captions of its segments in a row, each said once.

        Raises:
            MediaError: If the file cannot be read or has nothing of what is to be used.
        """
        captions = [c for part in self._parts(path) for c in self.describe(part, using=using)]
        captions = [caption for caption in captions if caption.modalities_used]
        if not captions:
            raise MediaError(str(path), "nothing_usable", f"no {using.label} to describe")
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
            The most confident of its segments' answers.

        Raises:
            MediaError: If the file cannot be read or has nothing of what is to be used.
        """
        answers = [
            answer
            for part in self._parts(path)
            for answer in self.answer(part, [question] * len(part), using=using)
            if answer.modalities_used
        ]
        if not answers:
            raise MediaError(str(path), "nothing_usable", f"no {using.label} to ask about")
        return max(answers, key=lambda answer: answer.confidence)

    def embed(self, path: str | Path) -> list[tuple[float, float, dict[Modality, np.ndarray]]]:
        """Embed a file, segment by segment.

        Args:
            path: Any file with picture, sound or both.

        Returns:
            Start and end in seconds, and one unit vector per group that the segment has in full:
            the weighted mean of the group's tokens. Search compares the tokens themselves.
        """
        rows = []
        for part in self._parts(path):
            media = self.embed_media(part)
            for row, segment in enumerate(part):
                vectors = {
                    group: pooled(join(media, group))[row].numpy()
                    for group in MEDIA_GROUPS
                    if group in segment.available
                }
                rows.append((segment.start_s, segment.end_s, vectors))
        return rows

    def read(
        self,
        path: str,
        *,
        start_s: float = 0.0,
        end_s: float | None = None,
        keyframes_only: bool = False,
    ) -> Segment:
        """Decode a stretch of a file as this model wants it; raises `MediaError`."""
        plan = replace(self.processor.plan, keyframes_only=keyframes_only)
        return decode_segment(path, plan, start_s=start_s, end_s=end_s)

    def embed_media(self, segments: Sequence[Segment]) -> dict[Modality, Embeddings]:
        """Embed segments; keys are single modalities, rows follow the segments."""
        return self.embed_samples([self.processor.prepare(segment) for segment in segments])

    @torch.inference_mode()
    def embed_samples(self, samples: Sequence[Sample]) -> dict[Modality, Embeddings]:
        """Embed prepared samples; what `embed_media` does after preparation."""
        outputs = self.valor.encode_media(collate_media(samples, self.processor))
        return self.valor.embed_media(outputs)

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts, word by word."""
        return self.valor.encode_text(self.processor.encode_texts(texts))

    def describe(
        self, segments: Sequence[Segment], *, using: Modality = AUDIOVISUAL
    ) -> list[Caption]:
        """Caption each segment; one with nothing to use gets an empty text."""
        samples = [self.processor.prepare(segment) for segment in segments]
        return [
            Caption(text=text, modalities_used=used, segments=((part.start_s, part.end_s),))
            for (text, used, _), part in zip(self.write(samples, using), segments, strict=True)
        ]

    def answer(
        self,
        segments: Sequence[Segment],
        questions: Sequence[str],
        *,
        using: Modality = AUDIOVISUAL,
    ) -> list[Answer]:
        """Answer each segment's question; one with nothing to use gets an empty text."""
        samples = [self.processor.prepare(segment) for segment in segments]
        return [
            Answer(text=text, modalities_used=used, confidence=confidence)
            for text, used, confidence in self.write(samples, using, questions)
        ]

    @torch.inference_mode()
    def write(
        self, samples: Sequence[Sample], using: Modality, questions: Sequence[str] | None = None
    ) -> list[tuple[str, Modality, float]]:
        """Generate a caption, or an answer, for each prepared sample.

        Args:
            samples: Prepared media.
            using: The modalities to look at, as far as a sample has them.
            questions: One per sample; None asks for captions.

        Returns:
            Text, modalities used and confidence of each sample, in order. A sample with nothing to
            use gets no text, no modality and confidence 0. Captions are searched with 3 beams,
            answers greedily (paper 4.1).
        """
        seen = [_restrict(sample, using) for sample in samples]
        rows = [row for row, sample in enumerate(seen) if sample.available]
        written = [("", Modality(0), 0.0)] * len(samples)
        if not rows:
            return written
        outputs = self.valor.encode_media(
            collate_media([seen[row] for row in rows], self.processor)
        )
        asked = self.processor.encode_texts([questions[row] for row in rows]) if questions else None
        tokenizer = self.processor.tokenizer
        generated = generate(
            self.valor.decoder,
            self.valor.remember(outputs),
            using,
            special=tokenizer.special,
            question=asked,
            num_beams=1 if questions else 3,
            max_tokens=self.processor.config.max_text_length,
        )
        confidence = (generated.log_probability / generated.num_tokens.clamp(min=1)).exp()
        texts = tokenizer.decode(generated.token_ids)
        for row, text, sure in zip(rows, texts, confidence.tolist(), strict=True):
            written[row] = (text, seen[row].available, sure)
        return written

    def _parts(self, path: str | Path) -> Iterator[list[Segment]]:
        """Read a file segment by segment, some at a time."""
        stretches = cut(probe(str(path)).duration_s, segment_s=self.segment_s)
        for first in range(0, len(stretches), _SEGMENTS_AT_ONCE):
            some = stretches[first : first + _SEGMENTS_AT_ONCE]
            yield [self.read(str(path), start_s=start, end_s=end) for start, end in some]


def _restrict(sample: Sample, using: Modality) -> Sample:
    return Sample(
        id=sample.id,
        pixels=sample.pixels if Modality.VISION in using else None,
        spectrograms=sample.spectrograms if Modality.AUDIO in using else None,
    )


def _union(captions: Sequence[Caption]) -> Modality:
    used = Modality(0)
    for caption in captions:
        used |= caption.modalities_used
    return used
