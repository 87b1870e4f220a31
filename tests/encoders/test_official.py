"""Encoder states equal those of the released implementation, in float32."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from valor.checkpoints.official import (
    ast,
    audio_config,
    clip_text,
    clip_vision,
    video_swin,
    vision_config,
)
from valor.encoders.audio import AudioTransformer
from valor.encoders.clip_text import ClipTextConfig, ClipTextTransformer, last_token
from valor.encoders.video_swin import VideoSwinConfig, VideoSwinTransformer
from valor.encoders.vision import VisionTransformer

GOLDEN = Path(__file__).parents[1] / "golden" / "official"
FOLDERS = sorted(path.name for path in GOLDEN.iterdir())


def read(name):
    folder = GOLDEN / name
    sizes = json.loads((folder / "config.json").read_text())["architecture"]
    weights = load_file(folder / "official_state_dict.safetensors")
    return sizes, weights, load_file(folder / "io.safetensors")


def loaded(module, weights):
    module.load_state_dict(weights)
    return module.eval()


def all_there(inputs):
    return torch.ones(inputs.shape[:2], dtype=torch.bool)


def vision_encoder(sizes, weights):
    config = vision_config(sizes)
    if isinstance(config, VideoSwinConfig):
        return loaded(VideoSwinTransformer(config), video_swin(weights))
    return loaded(VisionTransformer(config), clip_vision(weights))


@pytest.mark.parametrize("name", FOLDERS)
def test_vision_states_are_the_released_ones(name):
    sizes, weights, io = read(name)
    encoder = vision_encoder(sizes["vision"], weights)
    pixels = io["in.video_pixels"]
    with torch.no_grad():
        tokens = encoder(pixels, all_there(pixels)).tokens.features
    wanted = io["out.video_hidden"]
    torch.testing.assert_close(tokens.view(wanted.shape), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FOLDERS)
def test_audio_states_are_the_released_ones(name):
    sizes, weights, io = read(name)
    config = audio_config(sizes["audio"])
    encoder = loaded(AudioTransformer(config), ast(weights))
    sound = io["in.audio_spectrograms"]
    with torch.no_grad():
        tokens = encoder(sound, all_there(sound)).tokens.features
    wanted = io["out.audio_hidden"]
    torch.testing.assert_close(tokens.view(wanted.shape), wanted, atol=1e-4, rtol=0)


def test_clip_texts_are_the_released_ones():
    sizes, weights, io = read("clip_text_coarse")
    sizes = sizes["text"]
    config = ClipTextConfig(
        vocab_size=weights["clip_model.token_embedding.weight"].shape[0],
        max_length=sizes["context"],
        dim=sizes["width"],
        num_layers=sizes["layers"],
        num_heads=sizes["heads"],
    )
    encoder = loaded(ClipTextTransformer(config), clip_text(weights))
    ids = io["in.text_tokens"]
    with torch.no_grad():
        summary = last_token(encoder(ids, ids != 0), ids)
    vectors = normalize(summary @ weights["clip_model.text_projection"], dim=-1)
    torch.testing.assert_close(vectors, io["out.feat_t"], atol=1e-4, rtol=0)


def test_videos_of_different_length_do_not_touch_each_other():
    torch.manual_seed(0)
    config = VideoSwinConfig(
        image_px=32, embed_dim=8, depths=(2, 2), num_heads=(1, 2), window=(2, 4, 4)
    )
    encoder = VideoSwinTransformer(config).eval()
    pixels = torch.randn(3, 5, 3, 32, 32)
    valid = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    with torch.no_grad():
        together = encoder(pixels, valid).summary.features
        alone = encoder(pixels[:1, :3], valid[:1, :3]).summary.features
    torch.testing.assert_close(together[:1, :3], alone)
    assert encoder(pixels, valid).summary.valid.equal(valid)
