"""PE-AV's encoders as frozen towers of a model of ours, and the recipe that is made of them."""

import importlib.util

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from valor.config import evolve
from valor.data.manifest import read_manifest
from valor.errors import DependencyError
from valor.inference import load
from valor.processing.extractors import WaveformConfig
from valor.recipes import find_recipe
from valor.training.monitor import read_metrics
from valor.training.run import run
from valor.types import AUDIOVISUAL, Modality

RUN = {"batch_size": 4, "num_steps": 2, "save_every": 2, "precision": "float32"}
RUN |= {f"model.model.text.{key}": value for key, value in (("dim", 16), ("num_layers", 1))}
RUN |= {"model.model.text.num_heads": 2, "model.model.text.mlp_dim": 32}
RUN |= {"processor.segment_s": 4.0, "processor.spectrogram.num_windows": 2}


@pytest.fixture(scope="module")
def config(pe_av):
    changes = {"model.vision": str(pe_av), "model.audio": str(pe_av)}
    return evolve(find_recipe("from_pe_av"), RUN | changes)


@torch.inference_mode()
def test_the_towers_see_and_hear_what_pe_av_does(config, pe_av):
    model, processing = config.model.make(config.processor, vocab_size=30)
    model.eval()
    sound, frames = processing.spectrogram, processing.frames
    assert isinstance(sound, WaveformConfig)
    assert (sound.sample_rate_hz, sound.hops_per_window, sound.num_windows) == (8000, 20_000, 2)
    assert (frames.frames_per_burst, frames.num_bursts, frames.image_px) == (16, 1, 16)
    assert (frames.crop, frames.resample) == ("stretch", "bilinear")
    whole = AutoModel.from_pretrained(pe_av).eval()
    pixels, there = torch.randn(2, 16, 3, 16, 16), torch.ones(2, 16, dtype=torch.bool)
    seen = model.vision(pixels, there)
    expected = whole.video_model.video_encoder(pixels).last_hidden_state
    torch.testing.assert_close(seen.tokens.features, expected)
    torch.testing.assert_close(seen.summary.features, expected)  # A frame is one token.
    assert seen.summary.valid.all()
    waves, windows = torch.randn(2, 2, 1, 20_000), torch.tensor([[True, True], [True, False]])
    heard = model.audio(waves, windows)
    output = whole.audio_model.audio_encoder(waves[windows])
    assert torch.equal(heard.summary.valid, windows)
    torch.testing.assert_close(heard.summary.features[windows], output.pooler_output)
    tokens = heard.tokens.features.unflatten(1, (2, 250))[windows]
    torch.testing.assert_close(tokens, output.last_hidden_state)


def test_the_recipe_trains_heads_and_decoder_and_leaves_the_towers(config, pe_av, world, tmp_path):
    folder = run(config, read_manifest(world, split="train"), tmp_path / "run")
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    assert len(rows) == 2
    assert all(row["grad_norm"] > 0 for row in rows)
    weights = load_file(folder / "model.safetensors")
    for name, part in (("vision", "video_model.video"), ("audio", "audio_model.audio")):
        encoder = AutoModel.from_pretrained(pe_av).get_submodule(f"{part}_encoder")
        for key, value in encoder.named_parameters():
            assert torch.equal(weights[f"{name}.tower.model.{key}"], value)
    model = load(folder)
    record = read_manifest(world, split="test")[0]
    assert model.caption(record.media).modalities_used == AUDIOVISUAL
    assert model.embed(record.media)[0][2].keys() == {
        Modality.VISION, Modality.AUDIO, AUDIOVISUAL,
    }  # fmt: skip


def test_without_timm_the_error_names_it(config, monkeypatch):
    if importlib.util.find_spec("timm"):
        pytest.skip("timm is installed")
    from transformers import PeVideoEncoderConfig, TimmWrapperConfig
    from transformers.configuration_utils import SubConfigSpec

    backbone = SubConfigSpec(config_class=TimmWrapperConfig)
    monkeypatch.setitem(PeVideoEncoderConfig.sub_configs_defaults, "vision_config", backbone)
    with pytest.raises(DependencyError, match="pip install timm"):
        config.model.make(config.processor, vocab_size=30)
