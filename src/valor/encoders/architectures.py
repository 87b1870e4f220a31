"""What differs between the architectures of the transformers library, for `towers`.

Where a model's own configuration says it, it is read there; the names here are the exceptions.
"""

import math
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from valor.errors import ModelError
from valor.types import Modality

INPUTS = {
    Modality.VISION: ("pixel_values", "pixel_values_videos"),
    Modality.AUDIO: ("input_values", "input_features"),
    Modality.TEXT: ("input_ids",),
}
"""What the models of a modality call their input."""
ANY_SIZE = ("dinov2", "dinov2_with_registers", "dinov3_vit", "siglip2_vision_model")
"""Image towers that fit their positions to every picture without being asked."""


PE_FRAMES = 16
"""Frames that PE-AV sees together; its variants for any number get as many."""
_PE_STEPS = 250
"""Tokens of sound that PE-AV hears together here: 10 s."""


def own_size(architecture: dict[str, Any]) -> tuple[int, ...]:
    """Height and width of frames, or mels and hops of windows, that a tower was trained with.

    Args:
        architecture: Of a vision or audio tower.

    Returns:
        Both sizes; for CLAP the largest number of hops, for PE-AV one row of samples.

    Raises:
        ModelError: If the tower is none of the known audio towers and states no image size.
    """
    match architecture:
        case {"model_type": "audio-spectrogram-transformer", "num_mel_bins": mels, **rest}:
            return mels, rest["max_length"]
        case {"model_type": "whisper", "num_mel_bins": mels, **rest}:
            return mels, 2 * rest["max_source_positions"]
        case {"model_type": "clap_audio_model", "num_mel_bins": mels, **rest}:
            return mels, rest["spec_size"] ** 2 // mels
        case {"model_type": "pe_audio_encoder", "dac_config": codec}:
            return 1, _PE_STEPS * math.prod(codec["downsampling_ratios"])
        case {"model_type": "pe_video_encoder", "vision_config": frames}:
            side = _pe_side(frames)
        case {"model_type": "siglip2_vision_model", **rest}:
            side = rest["patch_size"] * math.isqrt(rest["num_patches"])
        case {"crop_size": side} | {"image_size": side}:
            pass
        case _:
            kind = architecture["model_type"]
            raise ModelError(
                f"towers of type {kind} are not supported, of unknown input size; use another"
            )
    return (side, side) if isinstance(side, int) else tuple(side)


def _pe_side(frames: dict[str, Any]) -> int | Sequence[int]:
    """The size of PE-AV's frames; timm's name of the network ends in it."""
    given = (frames.get("model_args") or {}).get("img_size") or frames.get("image_size")
    name = frames.get("architecture", "").rpartition("_")[2]
    if not given and not name.isdigit():
        raise ModelError(f"PE-AV with frames of {frames.get('architecture')}: size is unknown")
    return given or int(name)


def build_model(architecture: dict[str, Any]) -> nn.Module:
    """A model with random weights; a class that transformers lacks is a `ModelError`."""
    import transformers

    (name,) = architecture["architectures"]
    cls = getattr(transformers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
        raise ModelError(f"transformers {transformers.__version__} has no model class {name}")
    config_class: Any = cls.config_class
    return cls(config_class.from_dict(architecture))


def half_of(model: Any, modality: Modality) -> Any:
    """The tower of one modality, of a model that may have two."""
    match modality, model.config.model_type:
        case Modality.VISION, "pe_audio_video":
            return model.video_model.video_encoder
        case Modality.AUDIO, "pe_audio_video":
            return model.audio_model.audio_encoder
    return getattr(model, f"{modality.label}_model", model)


def used_part(model: Any) -> nn.Module:
    """Cut away what no output here depends on, and make what is left parameters only."""
    if hasattr(model, "decoder") or hasattr(model, "predictor"):
        model = model.encoder
    if getattr(model, "main_input_name", None) == "input_ids":
        for name in ("pooler", "head"):
            if getattr(model, name, None) is not None:
                setattr(model, name, nn.Identity())
    if model.config.model_type == "whisper":
        model.embed_positions.requires_grad_(requires_grad=False)  # sines, never trained
    for module in model.modules():
        if isinstance(getattr(module, "mask_token", None), nn.Parameter):
            module.mask_token = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, FixedBatchNorm(child))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, buffer, persistent=False)
    return model


class FixedBatchNorm(nn.Module):
    """Batch norm by the statistics of its training, so that no row depends on its batch.

    Args:
        norm: Its statistics become parameters, which are saved but never trained.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.mean = nn.Parameter(norm.get_buffer("running_mean"), requires_grad=False)
        self.variance = nn.Parameter(norm.get_buffer("running_var"), requires_grad=False)

    def forward(
        self, x: Float[Tensor, "rows channels height width"]
    ) -> Float[Tensor, "rows channels height width"]:
        """Normalise each channel."""
        return F.batch_norm(x, self.mean, self.variance, self.weight, self.bias, eps=self.eps)
