"""What the systems have in common: encoders of vision and audio by their configuration.

An encoder from outside the package is a configuration with the kind `package.module:Class`, with
the sizes that are read here (for vision `dim`, `image_px`, `frames_per_patch`; for audio `dim`,
`num_mels`, `hops_per_window`) and a method `build` that returns the module.
"""

from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from valor.config import ByKind, Foreign
from valor.encoders.audio import AstConfig, AudioTransformer
from valor.encoders.towers import AudioTower, TowerConfig, VisionTower
from valor.encoders.video_swin import VideoSwinConfig, VideoSwinTransformer
from valor.encoders.vision import VisionTransformer, VitConfig
from valor.processing.processor import ProcessorConfig
from valor.types import EncoderOutput, Tokens

VisionConfig = Annotated[VitConfig | VideoSwinConfig | TowerConfig | Foreign, ByKind()]
AudioConfig = Annotated[AstConfig | TowerConfig | Foreign, ByKind()]


def vision_encoder(config: VisionConfig, tower: nn.Module | None = None) -> nn.Module:
    """An encoder of frames; `tower` gives the weights of a pretrained one."""
    match config:
        case TowerConfig():
            return VisionTower(config, tower)
        case VideoSwinConfig():
            return VideoSwinTransformer(config)
        case VitConfig():
            return VisionTransformer(config)
    return config.build()


def audio_encoder(config: AudioConfig, tower: nn.Module | None = None) -> nn.Module:
    """An encoder of audio windows; `tower` gives the weights of a pretrained one."""
    match config:
        case TowerConfig():
            return AudioTower(config, tower)
        case AstConfig():
            return AudioTransformer(config)
    return config.build()


def check_media(
    vision: VisionConfig, audio: AudioConfig, processor: ProcessorConfig, max_positions: int
) -> None:
    """Raise a `ValueError` unless encoders and positions take what the processor gives."""
    frames, sound = processor.frames, processor.spectrogram
    if max(frames.num_bursts, sound.num_windows) > max_positions:
        raise ValueError(f"more bursts or windows than max_positions={max_positions}")
    if frames.image_px != vision.image_px:
        raise ValueError(
            f"processor.frames.image_px={frames.image_px} "
            f"but model.vision.image_px={vision.image_px}"
        )
    if (sound.num_mels, sound.hops_per_window) != (audio.num_mels, audio.hops_per_window):
        raise ValueError(
            f"processor.spectrogram gives {sound.num_mels} mels x {sound.hops_per_window} hops "
            f"but model.audio takes {audio.num_mels} x {audio.hops_per_window}"
        )
    if frames.frames_per_burst % vision.frames_per_patch:
        raise ValueError("processor.frames.frames_per_burst is no multiple of a patch's frames")


def initialise(module: nn.Module) -> None:
    """Keep the size of signals: He for the convolutions of a stem, Xavier for linear layers."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)


def at_least_one(there: Bool[Tensor, "*places"]) -> Bool[Tensor, "*places"]:
    """The same, or the first place where there is none, so that an encoder has something to run on.

    Processes that share a step must run the same modules, also one whose rows lack a modality.
    """
    if bool(there.any()):
        return there
    first = torch.zeros_like(there)
    first.view(-1)[0] = True
    return first


def encode_present(
    encoder: nn.Module,
    inputs: Float[Tensor, "batch positions *sizes"],
    valid: Bool[Tensor, "batch positions"],
) -> EncoderOutput:
    """Encode the rows that have the modality and put them back in their places."""
    rows = valid.any(dim=1)
    if bool(rows.all()):
        return encoder(inputs, valid)
    seen = at_least_one(rows)
    output = encoder(inputs[seen], valid[seen] | ~rows[seen, None])

    def spread(tokens: Tokens) -> Tokens:
        full = tokens.features.new_zeros(len(rows), *tokens.features.shape[1:])
        full_valid = tokens.valid.new_zeros(len(rows), tokens.valid.shape[1])
        full_valid[seen] = tokens.valid & rows[seen, None]
        return Tokens(features=full.index_put((seen,), tokens.features), valid=full_valid)

    return EncoderOutput(tokens=spread(output.tokens), summary=spread(output.summary))
