"""Public models as Embedders, so that search is of use before anyone has trained.

Entry point: `load_public`. A model with one space is used as it is. Two spaces, one of vision and
one of audio, are fused late, by THE similarity of `models/fusion.py` as it stands:

* Vectors of the spaces lie side by side: a frame is `[v, 0]`, a sound `[0, a]`, and a text is two
  words, `[t, 0]` and `[0, t']`. A word and a token of different spaces have the product 0.
* Cosines of unrelated pairs are not 0, and models differ in their offset and spread. So a word is
  the text's vector minus the mean of ordinary captions, times the factor that the model's training
  multiplied cosines with, relative to the larger of the two factors. Products then are logits on
  one scale, where 0 says "as well as any caption", which is also what a missing modality says. What
  a word lacks in length is put into a coordinate in which media are 0.
* Each modality weighs as much as the other, whatever its number of tokens.

The audiovisual score is so the mean of both logits, with one limit: against a segment that has
both, a modality that speaks against the text counts as one that says nothing.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.errors import HFValidationError
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.utils.hub import cached_file

from valor.checkpoints.spaces import (
    PeSoundSpace,
    PeVisionSpace,
    PictureSpace,
    SentenceSpace,
    SoundSpace,
    Space,
    load_weights,
)
from valor.errors import DependencyError, ModelError
from valor.media.segments import DecodePlan
from valor.models.verbs import FileVerbs
from valor.types import MEDIA_GROUPS, Embeddings, Modality, Segment

_SEGMENT_S = 10.0
"""What CLAP hears at once."""
_LAYOUT = b"valor-public-1"
"""Part of every fingerprint; to be changed when media vectors are put together otherwise."""
_ORDINARY = (
    *("a person talks", "people walk down a street", "a dog runs", "a cat on a sofa"),
    *("a car drives past", "a train", "an aeroplane in the sky", "a boat on the water"),
    *("music plays", "someone plays the guitar", "a crowd cheers", "a bird sings in a tree"),
    *("rain falls", "wind blows", "waves at a beach", "a child laughs"),
    *("someone cooks in a kitchen", "food on a plate", "a football match", "a person dances"),
    *("a machine runs", "a door closes", "a bell rings", "fire burns"),
    *("a city at night", "mountains and a lake", "a room with a table", "a screen with text"),
)
"""Captions of many kinds, whose mean stands for a text that says nothing in particular."""


class PublicModel(FileVerbs):
    """An Embedder over one space, or over one of vision and one of audio.

    Args:
        source: Hub id, folder, or `VISION+AUDIO`.
        spaces: One, or two in the order vision, audio.
        is_joint: The two compare media with each other too, as PE-AV's do: media then get a third
            block, their vector once more, where no word has anything.
    """

    def __init__(self, source: str, spaces: Sequence[Space], *, is_joint: bool = False) -> None:
        self.source = source
        self.fingerprint = _fingerprint(spaces)
        self._spaces = spaces
        self._is_joint = is_joint
        self._plan = DecodePlan(
            num_frames=spaces[0].plan.num_frames,
            short_side_px=spaces[0].plan.short_side_px,
            sample_rate_hz=spaces[-1].plan.sample_rate_hz,
        )
        self._centres: list[Tensor] = []
        if len(spaces) > 1:
            with torch.inference_mode():
                self._centres = [space.embed_text(_ORDINARY).mean(dim=0) for space in spaces]

    @property
    def groups(self) -> Sequence[Modality]:
        """The groups of media that can be embedded."""
        known = Modality(0)
        for space in self._spaces:
            known |= space.modalities
        return [group for group in MEDIA_GROUPS if group in known]

    @property
    def segment_s(self) -> float:
        """The length of recording that one embedding should cover."""
        return _SEGMENT_S

    @property
    def plan(self) -> DecodePlan:
        """How densely this model reads recordings."""
        return self._plan

    @torch.inference_mode()
    def embed_media(self, segments: Sequence[Segment]) -> dict[Modality, Embeddings]:
        """Embed segments; keys are single modalities, rows follow the segments."""
        media: dict[Modality, Embeddings] = {}
        for index, space in enumerate(self._spaces):
            for single in space.modalities:
                given = {row: self._given(part, single) for row, part in enumerate(segments)}
                given = {row: array for row, array in given.items() if array is not None}
                if given:
                    tokens = space.embed(single, list(given.values()))
                    placed = [self._media(vectors, index) for vectors in tokens]
                    media[single] = _in_rows(list(given), placed, len(segments))
        return media

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts: one word for each space."""
        spaces = enumerate(self._spaces)
        words = [self._words(space.embed_text(texts), index) for index, space in spaces]
        vectors = torch.stack(words, dim=1)
        says_something = torch.tensor([bool(text.strip()) for text in texts])
        return Embeddings(
            vectors=vectors,
            weight_logits=torch.zeros(vectors.shape[:2]),
            valid=says_something[:, None].repeat(1, len(words)),
        )

    def _given(self, segment: Segment, single: Modality) -> np.ndarray | None:
        if single not in segment.available:
            return None
        if single == Modality.VISION:
            return segment.frames
        if segment.sample_rate_hz != self._plan.sample_rate_hz:
            wanted = f"{self._plan.sample_rate_hz} Hz, which this model's `read` gives"
            raise ValueError(f"sound at {segment.sample_rate_hz} Hz, expected {wanted}")
        return segment.waveform

    def _media(
        self, vectors: Float[Tensor, "tokens dim"], index: int
    ) -> Float[Tensor, "tokens embed"]:
        """Put tokens of one space among zeros for everything else."""
        if not self._centres:
            return vectors
        joint = [vectors] if self._is_joint else []
        slack = vectors.new_zeros(len(vectors), 1)
        return F.normalize(torch.cat([*self._blocks(vectors, index), *joint, slack], 1), dim=1)

    def _words(self, texts: Float[Tensor, "texts dim"], index: int) -> Float[Tensor, "texts embed"]:
        """Turn texts of one space into words."""
        if not self._centres:
            return texts
        factor = self._spaces[index].scale / max(space.scale for space in self._spaces)
        words = texts - self._centres[index]
        words = factor * words / words.norm(dim=1, keepdim=True).clamp(min=1)
        joint = [torch.zeros_like(words)] if self._is_joint else []
        slack = (1 - words.square().sum(dim=1, keepdim=True)).clamp(min=0).sqrt()
        return torch.cat([*self._blocks(words, index), *joint, slack], 1)

    def _blocks(self, vectors: Float[Tensor, "rows dim"], index: int) -> list[Tensor]:
        return [
            vectors if place == index else vectors.new_zeros(len(vectors), len(centre))
            for place, centre in enumerate(self._centres)
        ]


def load_public(source: str) -> PublicModel:
    """Load a public model.

    Args:
        source: Hub id or folder of a CLIP, SigLIP, SigLIP 2, CLAP, PE-AV or sentence-transformers
            model, or two of the former as `VISION+AUDIO`. What is not there is downloaded.

    Returns:
        The model, ready to use.

    Raises:
        ModelError: If there is no such model, or none that can be used.
        DependencyError: If it needs a package that is not installed.
    """
    try:
        vision, plus, audio = source.partition("+")
        if plus and not Path(source).exists():
            spaces = [_space(vision), _space(audio)]
            for space, wanted in zip(spaces, (Modality.VISION, Modality.AUDIO), strict=True):
                if space.modalities != wanted:
                    raise ModelError(f"{source}: expected VISION+AUDIO, such as SigLIP 2 and CLAP")
            return PublicModel(source, spaces)
        if _model_type(source) == "pe_audio_video":
            model = load_weights(source)
            spaces = [PeVisionSpace(source, model), PeSoundSpace(source, model)]
            return PublicModel(source, spaces, is_joint=True)
        return PublicModel(source, [_space(source)])
    except ImportError as error:
        needed = " ".join(str(error).split()).partition(" Please note")[0]
        raise DependencyError(f"{source}: {needed.rstrip('. ')}; install it with pip") from None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        if Path(source).exists():
            raise ModelError(
                f"{source}: cannot be loaded ({reason}); "
                "see docs/public-models.md for what can be named"
            ) from None
        why = "" if isinstance(error, HFValidationError) else f" ({reason.partition('. ')[0]})"
        if "connect to 'https://" in reason:  # Also where HF_HUB_OFFLINE forbids it.
            raise ModelError(
                f"{source}: no such model folder, and the hub cannot be reached{why}; check "
                "the name, or connect once"
            ) from None
        raise ModelError(f"{source}: no such model folder, nor a public model{why}") from None


def _space(source: str) -> Space:
    kind = _model_type(source)
    match kind:
        case "clip" | "siglip" | "siglip2":
            return PictureSpace(source)
        case "clap":
            return SoundSpace(source)
        case "sentence-transformers":
            return SentenceSpace(source)
    raise ModelError(
        f"{source}: is of type {kind!r}; use a model folder of ours, clip, siglip, "
        "siglip2, clap, pe_audio_video, or a model of sentence-transformers"
    )


def _model_type(source: str) -> str:
    """The type that config.json names, or `sentence-transformers`."""
    if cached_file(source, "modules.json", _raise_exceptions_for_missing_entries=False):
        return "sentence-transformers"
    return PreTrainedConfig.get_config_dict(source)[0].get("model_type", "unknown")


def _in_rows(rows: Sequence[int], tokens: Sequence[Tensor], num_rows: int) -> Embeddings:
    """Pad tokens of some rows; all of a row's tokens together weigh as much as one would."""
    longest, dim = max(map(len, tokens)), tokens[0].shape[1]
    vectors = torch.zeros(num_rows, longest, dim)
    logits = torch.zeros(num_rows, longest)
    valid = torch.zeros(num_rows, longest, dtype=torch.bool)
    for row, part in zip(rows, tokens, strict=True):
        vectors[row, : len(part)] = part
        logits[row, : len(part)] = -math.log(len(part))
        valid[row, : len(part)] = True
    return Embeddings(vectors=vectors, weight_logits=logits, valid=valid)


def _fingerprint(spaces: Sequence[Space]) -> str:
    """First 16 hex digits of the SHA-256 of everything that decides an embedding.

    Tensors count in their order, without names, which differ between versions of transformers.
    """
    digest = hashlib.sha256(_LAYOUT)
    hashed: set[int] = set()
    for space in spaces:
        digest.update(type(space).__name__.encode() + space.settings.encode())
        for tensor in space.model.state_dict().values():
            if tensor.data_ptr() not in hashed:
                hashed.add(tensor.data_ptr())
                digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
