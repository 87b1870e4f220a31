"""Public models that compare texts with pictures or sound, each behind the same few methods.

A `Space` is one such model: CLIP, SigLIP and SigLIP 2 (pictures), CLAP (sound), PE-AV (a space for
each), and the multimodal models of sentence-transformers. `foreign.py` makes Embedders of them.
Inputs are prepared as the model's own files say; those of transformers without torchvision, whether
it is installed or not. Models of transformers compute in float32, on a GPU where there is one.
"""

import contextlib
import itertools
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoModel, AutoTokenizer
from transformers.video_processing_utils import BaseVideoProcessor

from valor.errors import DependencyError, ModelError
from valor.media.segments import DecodePlan
from valor.types import Modality

_NUM_FRAMES = 8
"""Looked at in a segment by models of single pictures."""
_PE_NUM_FRAMES = 16
"""What PE-AV's variants of fixed length take; those for any length get as many."""
_ANY_RATE_HZ, _ANY_SIDE_PX = 16_000, 224
"""Asked of the decoder for what a model does not look at."""
_AT_ONCE = 32
"""Pictures or audio windows that go through a model together."""
_BILINEAR = 2
"""In files of image processors, after Pillow."""
_CLAP_MAX_TOKENS = 77
"""Longest text in CLAP's training."""


Media = Sequence[UInt8[np.ndarray, "frames height width 3"] | Float[np.ndarray, " samples"]]
"""Frames, or waveforms at the rate of a space's plan."""


class Space(Protocol):
    """A model that compares texts with media by the cosine of unit vectors."""

    model: nn.Module
    settings: str
    """What decides the vectors beside the weights, as JSON."""
    modalities: Modality
    """What the model sees or hears."""
    plan: DecodePlan
    """What it wants to see and hear of a segment."""
    scale: float
    """What its training multiplied cosines with."""

    def embed(self, modality: Modality, media: Media) -> list[Float[Tensor, "tokens dim"]]:
        """Embed what a segment has of a modality, segment by segment."""
        ...

    def embed_text(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """Embed whole texts."""
        ...


class PictureSpace:
    """CLIP, SigLIP or SigLIP 2: one token per frame.

    Args:
        source: Hub id or folder.
    """

    modalities = Modality.VISION

    def __init__(self, source: str) -> None:
        self.model = load_weights(source)
        self._tokenizer = AutoTokenizer.from_pretrained(source)
        self._images = AutoImageProcessor.from_pretrained(source, backend="pil")
        self.settings = settings_of(self.model, self._images)
        self.scale = self.model.logit_scale.exp().item()
        self.plan = DecodePlan(
            num_frames=_NUM_FRAMES,
            short_side_px=_side_px(self._images.to_dict()),
            sample_rate_hz=_ANY_RATE_HZ,
        )

    def embed(self, modality: Modality, media: Media) -> list[Float[Tensor, "tokens dim"]]:
        """Embed every frame for itself."""
        frames = list(itertools.chain.from_iterable(media))
        vectors = []
        for first in range(0, len(frames), _AT_ONCE):
            inputs = self._images(frames[first : first + _AT_ONCE], return_tensors="pt")
            vectors.append(self.model.get_image_features(**inputs.to(self.model.device)))
        pooled = torch.cat([vector.pooler_output for vector in vectors])
        return list(_unit(pooled).split([len(part) for part in media]))

    def embed_text(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """Embed whole texts.

        SigLIP was trained on lower-cased texts that are padded at the end to full length, and saw
        the padding, whatever a tokenizer's file says.
        """
        is_clip = self.model.config.model_type == "clip"
        tokens = self._tokenizer(
            [text if is_clip else text.lower() for text in texts],
            padding=True if is_clip else "max_length",
            padding_side="right",
            return_attention_mask=is_clip,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        features = self.model.get_text_features(**tokens.to(self.model.device))
        return _unit(features.pooler_output)


class SoundSpace:
    """CLAP: one token per window of at most ten seconds, so that nothing is cut away at random.

    Args:
        source: Hub id or folder.
    """

    modalities = Modality.AUDIO

    def __init__(self, source: str) -> None:
        self.model = load_weights(source)
        self._tokenizer = AutoTokenizer.from_pretrained(source)
        self._sounds = AutoFeatureExtractor.from_pretrained(source)
        self.settings = settings_of(self.model, self._sounds)
        self.scale = self.model.logit_scale_t.exp().item()
        self.plan = DecodePlan(
            num_frames=1,
            short_side_px=_ANY_SIDE_PX,
            sample_rate_hz=self._sounds.sampling_rate,
        )

    def embed(self, modality: Modality, media: Media) -> list[Float[Tensor, "tokens dim"]]:
        """Embed every window for itself."""
        parts = [_windows(waveform, self._sounds.nb_max_samples) for waveform in media]
        windows = list(itertools.chain.from_iterable(parts))
        vectors = []
        for first in range(0, len(windows), _AT_ONCE):
            inputs = self._sounds(
                windows[first : first + _AT_ONCE],
                sampling_rate=self.plan.sample_rate_hz,
                return_tensors="pt",
            )
            # The extractor calls a random short window long, which a fusing model would notice.
            inputs["is_longer"] = torch.zeros_like(inputs["is_longer"])
            vectors.append(self.model.get_audio_features(**inputs.to(self.model.device)))
        pooled = torch.cat([vector.pooler_output for vector in vectors])
        return list(_unit(pooled).split([len(part) for part in parts]))

    def embed_text(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """Embed whole texts."""
        tokens = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=_CLAP_MAX_TOKENS,
            return_tensors="pt",
        )
        features = self.model.get_text_features(**tokens.to(self.model.device))
        return _unit(features.pooler_output)


class _PeSpace:
    """What PE-AV's two spaces share: a text model, whose output has a head for each of them."""

    scale = 1.0

    def __init__(self, source: str, model: Any) -> None:
        self.model = model
        self._tokenizer = AutoTokenizer.from_pretrained(source)

    def _embed_text(self, texts: Sequence[str], head: nn.Module) -> Float[Tensor, "texts dim"]:
        tokens = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_token_type_ids=False,
            return_tensors="pt",
        )
        hidden = self.model.text_model(**tokens.to(self.model.device)).last_hidden_state
        return _unit(head(hidden[:, 0]))


class PeVisionSpace(_PeSpace):
    """PE-AV's frames and texts: one token per segment.

    Frames are prepared in plain torch, because PE-AV's own processor needs torchvision.

    Args:
        source: Hub id or folder.
        model: A `PeAudioVideoModel`.

    Raises:
        ModelError: If the processor's file asks for more than resizing and normalisation.
    """

    modalities = Modality.VISION

    def __init__(self, source: str, model: Any) -> None:
        super().__init__(source, model)
        values, _ = BaseVideoProcessor.get_video_processor_dict(source)
        names = ("image_mean", "image_std", "size", "num_frames", "do_center_crop", "resample")
        frames = {name: values.get(name) for name in names}
        size: dict[str, int] = frames["size"] or {}
        side_px = size.get("height", 0)
        is_whole_square = side_px and side_px == size.get("width") and not frames["do_center_crop"]
        is_complete = frames["image_mean"] and frames["image_std"]
        if not (is_whole_square and is_complete and frames["resample"] in (None, _BILINEAR)):
            raise ModelError(f"{source}: frames prepared by {frames}, expected whole squares")
        self.settings = json.dumps([_config(model), frames], sort_keys=True, default=str)
        self._mean, self._deviation = (
            torch.tensor(frames[name])[:, None, None] for name in ("image_mean", "image_std")
        )
        self.plan = DecodePlan(
            num_frames=frames["num_frames"] or _PE_NUM_FRAMES,
            short_side_px=side_px,
            sample_rate_hz=_ANY_RATE_HZ,
        )

    def embed(self, modality: Modality, media: Media) -> list[Float[Tensor, "tokens dim"]]:
        """Embed each segment's frames together."""
        model = self.model.video_model

        def encode(
            batch: Float[Tensor, "batch frames 3 side side"],
        ) -> Float[Tensor, "batch 1 dim"]:
            return _unit(model.video_head(model.video_encoder(batch).pooler_output))[:, None]

        inputs = [self._prepare(frames).to(self.model.device) for frames in media]
        return _by_shape(inputs, encode, at_once=max(1, _AT_ONCE // self.plan.num_frames))

    def _prepare(
        self, frames: UInt8[np.ndarray, "frames height width 3"]
    ) -> Float[Tensor, "frames 3 side side"]:
        """Squeeze whole frames to the model's square and normalise them."""
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
        size = (self.plan.short_side_px, self.plan.short_side_px)
        pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        return (pixels / 255 - self._mean) / self._deviation

    def embed_text(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """Embed whole texts to be compared with frames."""
        return self._embed_text(texts, self.model.video_model.text_video_head)


class PeSoundSpace(_PeSpace):
    """PE-AV's sound and texts: one token per segment.

    Args:
        source: Hub id or folder.
        model: A `PeAudioVideoModel`.
    """

    modalities = Modality.AUDIO

    def __init__(self, source: str, model: Any) -> None:
        super().__init__(source, model)
        self._sounds = AutoFeatureExtractor.from_pretrained(source)
        self.settings = settings_of(model, self._sounds)
        self.plan = DecodePlan(
            num_frames=1, short_side_px=_ANY_SIDE_PX, sample_rate_hz=self._sounds.sampling_rate
        )

    def embed(self, modality: Modality, media: Media) -> list[Float[Tensor, "tokens dim"]]:
        """Embed each segment's sound; equal lengths together, since padding would be heard."""
        model = self.model.audio_model

        def encode(batch: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch 1 dim"]:
            return _unit(model.audio_head(model.audio_encoder(batch).pooler_output))[:, None]

        rate_hz = self.plan.sample_rate_hz
        prepared = [self._sounds(m, sampling_rate=rate_hz, return_tensors="pt") for m in media]
        inputs = [features["input_values"][0].to(self.model.device) for features in prepared]
        return _by_shape(inputs, encode, at_once=_AT_ONCE)

    def embed_text(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """Embed whole texts to be compared with sound."""
        return self._embed_text(texts, self.model.audio_model.text_audio_head)


class SentenceSpace:
    """A multimodal model of sentence-transformers: one token per frame, and one for the sound.

    Args:
        source: Hub id or folder.

    Raises:
        DependencyError: If sentence-transformers is not installed.
        ModelError: If the model neither sees nor hears.
    """

    scale = 1.0

    def __init__(self, source: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise DependencyError(
                f'{source} needs sentence-transformers; run `pip install "valor-omni[sentence]"`'
            ) from None
        self.model: Any = SentenceTransformer(source)
        names = {Modality.VISION: "image", Modality.AUDIO: "audio"}
        self.modalities = Modality(0)
        for single, name in names.items():
            if self.model.supports(name):
                self.modalities |= single
        if not self.modalities:
            known = ", ".join(map(str, self.model.modalities))
            raise ModelError(f"{source}: knows {known}, but neither image nor audio")
        self.settings = json.dumps({"prompts": self.model.prompts, "modules": repr(self.model)})
        processor = self.model.processor
        extractor = getattr(processor, "feature_extractor", processor)
        self.plan = DecodePlan(
            num_frames=_NUM_FRAMES,
            short_side_px=_ANY_SIDE_PX,
            sample_rate_hz=getattr(extractor, "sampling_rate", _ANY_RATE_HZ),
        )

    def embed(self, modality: Modality, media: Media) -> list[Float[Tensor, "tokens dim"]]:
        """Embed every frame, or every segment's sound, for itself."""
        if modality == Modality.VISION:
            frames = [Image.fromarray(frame) for frame in itertools.chain.from_iterable(media)]
            vectors = self._encode(self.model.encode_document, frames, _AT_ONCE)
            return list(vectors.split([len(part) for part in media]))
        rate_hz = self.plan.sample_rate_hz
        sounds = [{"array": waveform, "sampling_rate": rate_hz} for waveform in media]
        # One by one, because not every model hides the padding of a batch.
        return list(self._encode(self.model.encode_document, sounds, 1).split(1))

    def embed_text(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """Embed whole texts as queries; marked as text, lest a path or address be opened."""
        marked = [{"text": text} for text in texts]
        return self._encode(self.model.encode_query, marked, _AT_ONCE)

    def _encode(
        self, encode: Callable[..., Tensor], inputs: Sequence[Any], batch_size: int
    ) -> Float[Tensor, "inputs dim"]:
        vectors = encode(
            inputs, batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False
        )
        return _unit(vectors)


def load_weights(source: str) -> Any:
    """Load a transformers model strictly.

    Args:
        source: Hub id or folder.

    Returns:
        The model in evaluation mode and float32.

    Raises:
        ModelError: If weights are missing, which would be random numbers.
    """
    # PE-AV's class prints a remark about its own documentation.
    with contextlib.redirect_stdout(sys.stderr):
        model, found = AutoModel.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True
        )
    missing = sorted(found["missing_keys"])
    if missing:
        raise ModelError(f"{source}: {len(missing)} weights are missing, such as {missing[0]}")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def settings_of(model: Any, processor: Any) -> str:
    """What decides the vectors of a model beside its weights, as JSON."""
    return json.dumps([_config(model), processor.to_dict()], sort_keys=True, default=str)


def _config(model: Any) -> dict[str, Any]:
    values = model.config.to_dict()
    return {k: v for k, v in values.items() if k not in ("_name_or_path", "transformers_version")}


def _side_px(images: dict[str, Any]) -> int:
    """The side of the square that an image processor makes, or would fill with its patches."""
    size = images.get("size") or {}
    side = size.get("shortest_edge") or size.get("height")
    return side or round(math.sqrt(images["max_num_patches"]) * images["patch_size"])


def _windows(waveform: Float[np.ndarray, " samples"], size: int) -> list[np.ndarray]:
    """Cover a waveform with as few windows as possible, spread evenly."""
    num = max(1, math.ceil(len(waveform) / size))
    starts = np.linspace(0, max(0, len(waveform) - size), num).round().astype(int)
    return [waveform[start : start + size] for start in starts]


def _by_shape(
    inputs: Sequence[Tensor], encode: Callable[[Tensor], Tensor], *, at_once: int
) -> list[Tensor]:
    """Encode inputs in batches of equal shape; results are in the inputs' order."""
    rows: dict[torch.Size, list[int]] = defaultdict(list)
    for row, tensor in enumerate(inputs):
        rows[tensor.shape].append(row)
    encoded: dict[int, Tensor] = {}
    for same in rows.values():
        for first in range(0, len(same), at_once):
            batch = same[first : first + at_once]
            encoded |= zip(batch, encode(torch.stack([inputs[row] for row in batch])), strict=True)
    return [encoded[row] for row in range(len(inputs))]


def _unit(vectors: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    return F.normalize(vectors.float(), dim=-1).cpu()
