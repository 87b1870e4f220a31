"""Load any model; ours at work.

`load` gives a model of ours, a public model, or an endpoint: an Embedder, a Describer or both, each
with the same verbs on files. `VideoModel` is both over VALOR's weights, `DescribingModel` a
Describer over those of any other system that writes.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from valor.checkpoints.box import find_folder
from valor.checkpoints.folder import load_model
from valor.data.collate import collate_media, placed, restricted
from valor.errors import ModelError
from valor.media.segments import DecodePlan
from valor.models.generation import Generated, GenerationConfig
from valor.models.valor import Valor
from valor.models.verbs import FileVerbs
from valor.objectives.matching import match_logits
from valor.processing.processor import Processor
from valor.types import (
    AUDIOVISUAL,
    MEDIA_GROUPS,
    Answer,
    Batch,
    Caption,
    Embeddings,
    Modality,
    Sample,
    Segment,
    TextBatch,
)

if TYPE_CHECKING:
    from valor.checkpoints.endpoint import Endpoint
    from valor.checkpoints.foreign import PublicModel

_PAIRS_AT_ONCE = 64

Model: TypeAlias = "DescribingModel | PublicModel | Endpoint"


def load(source: str | Path, *, trust_code: bool = False) -> Model:
    """Load a model.

    Args:
        source: A model folder of ours or its hub id; folder or hub id of a public model, or two of
            them as `VISION+AUDIO`; an endpoint as `URL#MODEL`; or `tiny-world`, which comes with
            the package and knows the rendered world alone.
        trust_code: Whether a model folder may name code outside this package, to be imported.

    Returns:
        The model, ready to use.

    Raises:
        ModelError: If there is no such model, or it is incomplete, damaged or of an unknown type.
        DependencyError: If it needs a package that is not installed.
    """
    name = str(source)
    if name.startswith(("http://", "https://")):
        from valor.checkpoints.endpoint import Endpoint

        return Endpoint(name)
    folder = find_folder(name)
    if folder.is_dir() and _is_ours(folder):
        system, processor, fingerprint = load_model(folder, trust_code=trust_code)
        if isinstance(system, Valor):
            system.decoder.pack()
        return at_work(system, processor, fingerprint)
    from valor.checkpoints.foreign import load_public

    return load_public(name)


def at_work(system: Any, processor: Processor, fingerprint: str = "") -> "DescribingModel":
    """Give a system of ours its verbs.

    Args:
        system: Weights, in evaluation mode, on any device.
        processor: Their preprocessing.
        fingerprint: Names both.

    Returns:
        A `VideoModel` for VALOR's weights.

    Raises:
        ModelError: If the system can do neither verb.
    """
    if isinstance(system, Valor):
        return VideoModel(system, processor, fingerprint)
    if not hasattr(system, "write"):
        raise ModelError(f"{system.config.kind} neither embeds nor describes")
    return DescribingModel(system, processor, fingerprint)


def _is_ours(folder: Path) -> bool:
    """False for the folder of a public model; what is neither is ours to complain about."""
    if (folder / "modules.json").is_file():
        return False
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    return not isinstance(values, dict) or "valor" in values


class DescribingModel(FileVerbs):
    """Captions and answers about audible video, by any system of ours that writes.

    Args:
        system: Weights, in evaluation mode.
        processor: Their preprocessing.
        fingerprint: Names both.
    """

    def __init__(self, system: Any, processor: Processor, fingerprint: str) -> None:
        self.system = system
        self.processor = processor
        self.fingerprint = fingerprint
        self.caption_beams = 3

    @property
    def segment_s(self) -> float:
        """The length of recording that one embedding covers."""
        return self.processor.config.segment_s

    @property
    def plan(self) -> DecodePlan:
        """How densely this model reads recordings."""
        return self.processor.plan

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
            use gets no text, no modality and confidence 0. Captions are searched with
            `caption_beams`, 3 as in the paper (4.1), answers greedily.
        """
        *_, whole = self._written(
            samples, using, questions, lambda *media, **ask: [self.system.write(*media, **ask)]
        )
        return whole

    def _written(
        self,
        samples: Sequence[Sample],
        using: Modality,
        questions: Sequence[str] | None,
        generate: Callable[..., Iterable[Generated]],
    ) -> Iterator[list[tuple[str, Modality, float]]]:
        """What `write` returns: before the first word, and for all that is generated."""
        seen = [restricted(sample, using) for sample in samples]
        written = [("", sample.available, 0.0) for sample in seen]
        yield list(written)
        rows = [row for row, sample in enumerate(seen) if sample.available]
        if not rows:
            return
        batch = self._batch([seen[row] for row in rows])
        asked = None
        if questions:
            asked = self._there(self.processor.encode_texts([questions[row] for row in rows]))
        tokenizer = self.processor.tokenizer
        for generated in generate(
            self.system.encode_media(batch),
            using,
            special=tokenizer.special,
            question=asked,
            config=GenerationConfig(
                num_beams=1 if questions else self.caption_beams,
                max_tokens=self.processor.config.max_text_length,
            ),
        ):
            confidence = (generated.log_probability / generated.num_tokens.clamp(min=1)).exp()
            texts = tokenizer.decode(generated.token_ids)
            for row, text, sure in zip(rows, texts, confidence.tolist(), strict=True):
                written[row] = (text, seen[row].available, sure)
            yield list(written)

    def _batch(self, samples: Sequence[Sample]) -> Batch:
        """Samples where the weights are."""
        where = next(self.system.parameters())
        return placed(collate_media(samples, self.processor), where.device, where.dtype)

    def _there(self, texts: TextBatch) -> TextBatch:
        """Texts where the weights are."""
        where = next(self.system.parameters()).device
        return TextBatch(token_ids=texts.token_ids.to(where), valid=texts.valid.to(where))


class VideoModel(DescribingModel):
    """VALOR: captions, answers and embeddings.

    Args:
        valor: Weights, in evaluation mode.
        processor: Their preprocessing.
        fingerprint: Names both.
    """

    def __init__(self, valor: Valor, processor: Processor, fingerprint: str) -> None:
        super().__init__(valor, processor, fingerprint)
        self.valor = valor

    @property
    def groups(self) -> Sequence[Modality]:
        """The groups of media that can be embedded."""
        return MEDIA_GROUPS

    def embed_media(self, segments: Sequence[Segment]) -> dict[Modality, Embeddings]:
        """Embed segments; keys are single modalities, rows follow the segments."""
        return self.embed_samples([self.processor.prepare(segment) for segment in segments])

    @torch.inference_mode()
    def stream(
        self,
        segments: Sequence[Segment],
        questions: Sequence[str] | None = None,
        *,
        using: Modality = AUDIOVISUAL,
    ) -> Iterator[list[Answer]]:
        """Describe segments, or answer their questions, and hand out all texts after every word.

        Args:
            segments: However decoded.
            questions: One per segment; None asks for captions.
            using: The modalities to look at, as far as a segment has them.

        Yields:
            One text per segment, first an empty one that says which modalities are used, last what
            `describe` or `answer` gives. Captions are searched with beams, so that a word of one
            may still change.
        """
        samples = [self.processor.prepare(segment) for segment in segments]
        for written in self._written(samples, using, questions, self.valor.stream):
            yield [
                Answer(text=text, modalities_used=used, confidence=confidence)
                for text, used, confidence in written
            ]

    @torch.inference_mode()
    def embed_samples(self, samples: Sequence[Sample]) -> dict[Modality, Embeddings]:
        """Embed prepared samples; what `embed_media` does after preparation."""
        media = self.valor.embed_media(self.valor.encode_media(self._batch(samples)))
        return {modality: _here(embeddings) for modality, embeddings in media.items()}

    @property
    def matches(self) -> bool:
        """Whether the model has learned to tell which text belongs to which media."""
        return self.valor.match_head is not None

    @torch.inference_mode()
    def match(
        self,
        segments: Sequence[Segment],
        texts: Sequence[str],
        owner: Sequence[int],
        *,
        using: Modality,
    ) -> list[float]:
        """Score how well texts belong to segments, looking at both together.

        Args:
            segments: With all modalities of `using`.
            texts: Any number of them.
            owner: Place of the segment that each text is asked about.
            using: The modalities to look at.

        Returns:
            A logit for each text, above 0 where it belongs.

        Raises:
            ModelError: If the model has no matching head.
        """
        valor = self.valor
        if valor.match_head is None:
            raise ModelError("this model has no matching head; train it with model.matches=true")
        samples = [restricted(self.processor.prepare(segment), using) for segment in segments]
        media = valor.encode_media(self._batch(samples))
        memory, scores = valor.remember(media), list[float]()
        for first in range(0, len(texts), _PAIRS_AT_ONCE):
            cut = slice(first, first + _PAIRS_AT_ONCE)
            written = self._there(self.processor.encode_texts(texts[cut]))
            own = memory.rows(torch.tensor(owner[cut], device=written.valid.device))
            logits = match_logits(valor.decoder, valor.match_head, written, own, using)
            scores += logits.tolist()
        return scores

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts, word by word."""
        return _here(
            self.valor.encode_text(self._there(self.processor.encode_aligned_texts(texts)))
        )


def _here(embeddings: Embeddings) -> Embeddings:
    return Embeddings(
        vectors=embeddings.vectors.cpu(),
        weight_logits=embeddings.weight_logits.cpu(),
        valid=embeddings.valid.cpu(),
    )
