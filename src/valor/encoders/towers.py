"""Any tower of the transformers library as an encoder, frozen or trainable: one adapter.

`read_tower` loads a tower from the hub or a folder. From then on its architecture is part of our
configuration and its weights are parameters like any other, so that a model folder is loaded
without the hub. What nothing here uses (the other half of a two-tower model, decoders, predictors,
heads) is dropped. Written for CLIP, SigLIP 2, DINOv3, VideoMAE, V-JEPA 2, PE-AV, AST, CLAP,
Whisper, BERT, ModernBERT, XLM-R and their like.
"""

import inspect
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from safetensors import SafetensorError
from torch import Tensor, nn

from valor.config import configclass
from valor.encoders.architectures import (
    ANY_SIZE,
    INPUTS,
    PE_FRAMES,
    build_model,
    half_of,
    own_size,
    used_part,
)
from valor.errors import DependencyError, ModelError
from valor.types import EncoderOutput, Modality, Tokens

_OFF = {"enable_fusion": False, "decoder_layers": 0}
"""Settings that leave out CLAP's branch for long sounds, which windows never are, and decoders."""
_NO_ARCHITECTURE = ("_name_or_path", "dtype", "id2label", "label2id", "transformers_version")
_VIDEO = ("videomae", "vjepa2", "pe_video_encoder")
_INTERPOLATE = "interpolate_pos_encoding"


@configclass
class TowerConfig:
    """A tower of the transformers library: all that is needed to build it again."""

    kind: Literal["tower"] = "tower"
    architecture: dict[str, Any]
    """The tower's own configuration, of the half that is used."""
    dim: int
    """Width of the tokens that come out."""
    input_size: tuple[int, ...] = ()
    """Height and width of frames, or mels and hops of audio windows; nothing for text."""
    frozen: bool = False
    """Whether training leaves the weights as they are."""
    source: str = ""
    """Hub id or folder name that the weights came from."""
    licence: str = "unknown"
    """Of those weights, as their card states it."""

    def __post_init__(self) -> None:
        """Reject an architecture that cannot be built."""
        for name in ("model_type", "architectures"):
            if not self.architecture.get(name):
                raise ValueError(f"architecture lacks {name}")

    @property
    def image_px(self) -> int:
        """Height and width of a frame."""
        return self.input_size[0]

    @property
    def frames_per_patch(self) -> int:
        """Frames that enter together: a video tower's clip, or 1."""
        return self.architecture.get("num_frames") or self.architecture.get("frames_per_clip", 1)

    @property
    def num_mels(self) -> int:
        """Mel bins of an audio window."""
        return self.input_size[0]

    @property
    def hops_per_window(self) -> int:
        """Spectra of an audio window."""
        return self.input_size[1]

    @property
    def vocab_size(self) -> int:
        """Token ids that a text tower knows."""
        return self.architecture["vocab_size"]

    @property
    def max_length(self) -> int:
        """Most tokens of a text; RoBERTa's positions begin after the one of its padding."""
        taken = "roberta" in self.architecture["model_type"]
        first = self.architecture["pad_token_id"] + 1 if taken else 0
        return self.architecture["max_position_embeddings"] - first


class TransformersTower(nn.Module):
    """The used part of a transformers model, in the mode and precision that it needs.

    Args:
        config: Architecture; whether it is frozen.
        model: With weights, from `read_tower`; None builds one with random weights.
    """

    def __init__(self, config: TowerConfig, model: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model if model is not None else used_part(build_model(config.architecture))
        self.trainable = [name for name, p in self.named_parameters() if p.requires_grad]
        """Names of what training may change at all, which is nothing while the tower is frozen."""
        if config.frozen:
            self.requires_grad_(requires_grad=False)
        self.train()

    def train(self, mode: bool = True) -> "TransformersTower":
        """Set the mode; a frozen tower stays in evaluation mode."""
        return super().train(mode and any(p.requires_grad for p in self.parameters()))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "TransformersTower":
        """Move and convert, but keep buffers as exact as they are: rotary frequencies must be."""
        kept = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, buffer in list(self.named_buffers()):
            parent, _, leaf = name.rpartition(".")
            setattr(self.get_submodule(parent), leaf, kept[name].to(buffer.device))
        return self

    def forward(self, *inputs: Shaped[Tensor, "..."], **named_inputs: Any) -> Any:
        """Run the model; returns its own kind of output."""
        return self.model(*inputs, **named_inputs)


class VisionTower(nn.Module):
    """Frames, one by one, or clips of a video tower.

    A frame's summary is the tower's pooled state, which is the normalised CLS token where there is
    one, and else the mean of its tokens. A clip has one summary per stretch of frames that share
    tokens: the mean of these.

    Args:
        config: Of a vision tower.
        model: Its part of what `read_tower` returns.

    Raises:
        ModelError: If the tower cannot take frames of the configured size.
    """

    def __init__(self, config: TowerConfig, model: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.tower = TransformersTower(config, model)
        self.frames_per_clip = config.frames_per_patch
        self.frames_per_step = config.architecture.get("tubelet_size", 1)
        kind, own = config.architecture["model_type"], own_size(config.architecture)
        if self.frames_per_clip > 1 and kind not in _VIDEO:
            raise ModelError(
                f"video towers of type {kind} are not supported; use one of {', '.join(_VIDEO)}"
            )
        self.named_inputs: dict[str, Any] = {}
        if config.input_size != own and kind not in ANY_SIZE:
            if _INTERPOLATE not in inspect.signature(self.tower.model.forward).parameters:
                raise ModelError(
                    f"{kind} takes frames of {own} px only, not {config.input_size}; "
                    "set the processor's frames.image_px"
                )
            self.named_inputs = {_INTERPOLATE: True}

    def forward(
        self,
        pixels: Float[Tensor, "batch frames 3 height width"],
        frame_valid: Bool[Tensor, "batch frames"],
    ) -> EncoderOutput:
        """Encode frames.

        Args:
            pixels: Normalised frames; for a video tower whole clips, one behind the other.
            frame_valid: True for frames that are there. A clip that breaks off stands still at its
                last frame; steps with a missing frame are invalid.

        Returns:
            All tokens in a row, and one summary per frame or step.

        Raises:
            ModelError: If frames have another size than configured, or clips are incomplete.
        """
        _check_size(pixels, self.config)
        if pixels.shape[1] % self.frames_per_clip:
            raise ModelError(
                f"{pixels.shape[1]} frames are no whole clips of {self.frames_per_clip}; "
                f"set the processor's frames.frames_per_burst={self.frames_per_clip}"
            )
        clips = pixels.unflatten(1, (-1, self.frames_per_clip))
        there = frame_valid.unflatten(1, (-1, self.frames_per_clip))
        valid = there.unflatten(2, (-1, self.frames_per_step)).all(dim=3)
        seen = valid.any(dim=2)
        output = self._encode(_stand_still(_present(clips, seen), _present(there, seen)))
        return _spread(output, seen, valid)

    def _encode(self, clips: Tensor) -> Any:
        if self.frames_per_clip > 1:
            return self.tower(clips)
        frames = clips[:, 0]
        if self.config.architecture["model_type"] != "siglip2_vision_model":
            return self.tower(frames, **self.named_inputs)
        px = self.config.architecture["patch_size"]
        patches = frames.unflatten(3, (-1, px)).unflatten(2, (-1, px)).permute(0, 2, 4, 3, 5, 1)
        shape = torch.tensor(patches.shape[1:3], device=frames.device).expand(len(frames), -1)
        patches = patches.flatten(3).flatten(1, 2)
        return self.tower(patches, torch.ones_like(patches[..., 0], dtype=torch.bool), shape)


class AudioTower(nn.Module):
    """Windows of sound: AST, CLAP's HTSAT, Whisper's encoder or PE-AV's, which hears samples.

    A window's summary is the tower's pooled state, or else the mean of its tokens.

    Args:
        config: Of an audio tower.
        model: Its part of what `read_tower` returns.

    Raises:
        ModelError: If the tower cannot take windows of the configured size.
    """

    def __init__(self, config: TowerConfig, model: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.tower = TransformersTower(config, model)
        kind, own = config.architecture["model_type"], own_size(config.architecture)
        mels, hops = config.input_size
        stretches = kind == "clap_audio_model" and hops <= own[1]
        if mels != own[0] or (hops != own[1] and not stretches):
            raise ModelError(
                f"{kind} takes {own[0]} mels x {own[1]} hops, not {mels} x {hops}; "
                "set the processor's spectrogram"
            )

    def forward(
        self,
        spectrograms: Float[Tensor, "batch windows mels hops"],
        window_valid: Bool[Tensor, "batch windows"],
    ) -> EncoderOutput:
        """Encode spectrogram windows.

        Args:
            spectrograms: As the tower's own front end gives them.
            window_valid: True for windows that hold sound.

        Returns:
            All tokens in a row, and one summary per window.

        Raises:
            ModelError: If windows have another size than configured.
        """
        _check_size(spectrograms, self.config)
        x = _present(spectrograms, window_valid)
        if self.config.architecture["model_type"] not in ("whisper", "pe_audio_encoder"):
            x = x.transpose(1, 2)
        if self.config.architecture["model_type"] == "clap_audio_model":
            x = x[:, None]
        return _spread(self.tower(x), window_valid, window_valid[:, :, None])


class TextTower(nn.Module):
    """Texts: one vector per token; padding is masked, even for SigLIP, which learned with it.

    Args:
        config: Of a text tower.
        model: Its part of what `read_tower` returns.
    """

    def __init__(self, config: TowerConfig, model: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.tower = TransformersTower(config, model)

    def forward(
        self, token_ids: Int[Tensor, "rows length"], valid: Bool[Tensor, "rows length"]
    ) -> Float[Tensor, "rows length dim"]:
        """Encode texts; vectors at padded positions are meaningless."""
        # A row without text sees its padding, so that no row's softmax is empty.
        seen = valid | ~valid.any(dim=1, keepdim=True)
        return self.tower(token_ids, attention_mask=seen.long()).last_hidden_state


def read_tower(
    source: str | Path,
    modality: Modality,
    *,
    frozen: bool = False,
    input_size: tuple[int, ...] = (),
    weights: bool = True,
) -> tuple[TowerConfig, nn.Module]:
    """Load a pretrained tower.

    Args:
        source: Hub id, or a folder as `save_pretrained` writes it.
        modality: Which half of a two-tower model is taken.
        frozen: Whether training leaves the weights as they are.
        input_size: As the tower's processor gives it; empty for the size it was trained with.
        weights: False reads sizes alone and leaves weights random.

    Returns:
        The configuration and the model, for the constructor of a tower.

    Raises:
        ModelError: If nothing can be loaded, weights are missing, or it is no tower of `modality`.
        DependencyError: If it needs a package that is not installed, as PE-AV needs timm.
    """
    label = modality.label
    whole, lacking = _load(source, label, input_size, weights=weights)
    model = half_of(whole, modality)
    dim = getattr(model.config, "hidden_size", None)
    if model.main_input_name not in INPUTS[modality] or dim is None:
        raise ModelError(
            f"{source}: {model.config.model_type} cannot be used as {label} tower: it takes "
            f"{model.main_input_name}, wanted one of {', '.join(INPUTS[modality])}; name another"
        )
    architecture = json.loads(model.config.to_json_string(use_diff=False))
    architecture |= {"architectures": [type(model).__name__]}
    if architecture["model_type"] == "pe_video_encoder":
        architecture["num_frames"] = PE_FRAMES
    part = used_part(model)
    used = set(part.parameters())
    missing = [n for n, p in whole.named_parameters() if p in used and n in lacking]
    if missing:
        raise ModelError(f"{source}: weights are missing: {', '.join(missing)}")
    tower = TowerConfig(
        architecture={k: v for k, v in architecture.items() if k not in _NO_ARCHITECTURE},
        dim=dim,
        input_size=() if modality is Modality.TEXT else input_size or own_size(architecture),
        frozen=frozen,
        source=Path(source).name if Path(source).is_dir() else str(source),
        licence=_licence(source),
    )
    return tower, part


def _load(
    source: str | Path, label: str, input_size: tuple[int, ...], *, weights: bool
) -> tuple[Any, Collection[str]]:
    """The whole model, less what its settings can leave out, and names of weights it lacks."""
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        half = getattr(config, f"{label}_config", config)
        changes = {name: value for name, value in _OFF.items() if hasattr(half, name)}
        if hasattr(half, "crop_size") and input_size:
            changes["crop_size"] = input_size[0]  # V-JEPA 2 turns by position: any size will do.
        half.update(changes)
        if not weights:
            return AutoModel.from_config(config, dtype=torch.float32), ()
        whole, found = AutoModel.from_pretrained(
            source, config=config, dtype=torch.float32, output_loading_info=True
        )
    except ImportError as error:
        needed = " ".join(str(error).split()).partition(" Please note")[0]
        raise DependencyError(f"{source}: {needed.rstrip('. ')}; install it with pip") from None
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"{source}: no tower can be loaded ({reason}); give a folder with config.json and "
            "model.safetensors, or the hub id of a model that transformers knows and that is "
            "downloaded or can be reached"
        ) from None
    return whole, found["missing_keys"]


def _licence(source: str | Path) -> str:
    """What the card of a hub repository or folder states."""
    from huggingface_hub import ModelCard
    from transformers.utils.hub import cached_file

    try:
        card = ModelCard.load(cached_file(source, "README.md") or "")
    except (OSError, ValueError):
        return "unknown"
    return str(card.data.get("license_name") or card.data.get("license") or "unknown")


def _check_size(inputs: Tensor, config: TowerConfig) -> None:
    if tuple(inputs.shape[-2:]) != config.input_size:
        raise ModelError(
            f"inputs of size {tuple(inputs.shape[-2:])}, but the tower is configured for "
            f"{config.input_size}; make the processor fit"
        )


def _present(values: Tensor, seen: Bool[Tensor, "batch positions"]) -> Tensor:
    """Pick what is there; or one place-holder, because towers cannot run on nothing."""
    return values[seen] if bool(seen.any()) else values.new_zeros(1, *values.shape[2:])


def _stand_still(
    clips: Float[Tensor, "clips frames 3 height width"], there: Bool[Tensor, "clips frames"]
) -> Float[Tensor, "clips frames 3 height width"]:
    """Put the last frame that is there in the place of missing ones, or the first before it."""
    if bool(there.all()):
        return clips
    index = torch.arange(there.shape[1], device=there.device).expand_as(there)
    index = index.masked_fill(~there, -1).cummax(dim=1).values
    index = index.where(index >= 0, there.int().argmax(dim=1, keepdim=True))
    return clips[torch.arange(len(clips), device=there.device)[:, None], index]


def _spread(
    output: Any,
    seen: Bool[Tensor, "batch positions"],
    valid: Bool[Tensor, "batch positions steps"],
) -> EncoderOutput:
    """Put what a tower gave for the positions that were seen in their places."""

    def placed(x: Float[Tensor, "seen steps *sizes"]) -> Float[Tensor, "batch places *sizes"]:
        full = x.new_zeros(*seen.shape, *x.shape[1:])
        return full.index_put((seen,), x[: int(seen.sum())]).flatten(1, 2)

    features = output.last_hidden_state
    if features.dim() == 4:  # HTSAT gives a picture.
        features = features.flatten(2).transpose(1, 2)
    features = features.unflatten(1, (valid.shape[2], -1))
    pooled = getattr(output, "pooler_output", None) if valid.shape[2] == 1 else None
    summary = features.mean(dim=2) if pooled is None else pooled[:, None]
    tokens, step_valid = placed(features), valid.flatten(1)
    token_valid = step_valid[:, :, None].expand(-1, -1, tokens.shape[2])
    return EncoderOutput(
        tokens=Tokens(features=tokens.flatten(1, 2), valid=token_valid.flatten(1)),
        summary=Tokens(features=placed(summary), valid=step_valid),
    )
