"""Laws of what training begins with: towers from folders, and released files."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.checkpoints.conftest import save_clap
from tests.tiny import small_run
from valor.checkpoints.card import folder_origin, tower_origins
from valor.checkpoints.folder import load_configs, load_model, save_model, weights_of
from valor.checkpoints.official_keys import video_swin
from valor.config import evolve, to_dict
from valor.data.manifest import read_manifest
from valor.encoders.clip_text import ClipTextConfig
from valor.encoders.text import BertConfig
from valor.encoders.video_swin import VideoSwinConfig, VideoSwinTransformer
from valor.errors import ConfigError, ManifestError, ModelError
from valor.models.valor import ValorConfig
from valor.processing.frames import FrameConfig
from valor.processing.processor import ProcessorConfig
from valor.processing.spectrogram import SpectrogramConfig
from valor.training.estimate import estimate
from valor.training.run import TrainConfig, run
from valor.training.start import FolderConfig, TowersConfig, begin, fill_swin
from valor.types import Modality

SWIN = VideoSwinConfig(image_px=32, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window=(2, 4, 4))


def recipe(folder):
    text = BertConfig(vocab_size=400, max_length=96, dim=16, num_layers=1, num_heads=2, mlp_dim=32)
    return TrainConfig(
        model=TowersConfig(
            vision=str(folder / "vision"),
            audio=str(folder / "audio"),
            frozen=(Modality.VISION, Modality.AUDIO),
            model=ValorConfig(text=text, embed_dim=8),
        ),
        processor=ProcessorConfig(
            frames=FrameConfig(num_bursts=3),
            spectrogram=SpectrogramConfig(num_windows=2),
            segment_s=4.0,
        ),
        batch_size=6,
        num_steps=2,
        precision="float32",
    )


def test_a_run_on_frozen_towers_leaves_them_as_they_are(towers, world, tmp_path):
    config = recipe(towers)
    folder = run(config, read_manifest(world, split="train"), tmp_path)
    weights = load_file(folder / "model.safetensors")
    own = load_file(towers / "vision/model.safetensors")
    key = "encoder.layers.0.mlp.fc1.weight"
    ours = next(
        weights[name] for name in weights if name.startswith("vision.") and name.endswith(key)
    )
    assert torch.equal(ours, own[f"vision_model.{key}"])
    card = (folder / "README.md").read_text()
    assert "| vision | vision | apache-2.0 |\n| audio | audio | unknown |\n" in card
    assert "license: other\nlicense_name: several\n" in card
    origins = [folder_origin(folder), *tower_origins(load_configs(folder)[0])]
    assert [origin.licence for origin in origins] == ["several", "apache-2.0", "unknown"]
    found = estimate(config, 12)
    frozen = sum(w.numel() for n, w in weights.items() if n.startswith(("vision.", "audio.")))
    assert found.parameters - found.trained == frozen


def test_frames_may_be_of_another_size_than_the_tower_was_trained_with(towers, world):
    config = evolve(recipe(towers), {"model.frames_px": 48})
    model, processor = begin(config.model, config.processor, read_manifest(world, split="train"))
    assert processor.config.frames.image_px == model.config.vision.image_px == 48
    pixels = torch.randn(1, 2, 3, 48, 48)
    output = model.vision(pixels, torch.ones(1, 2, dtype=torch.bool))
    assert output.tokens.features.shape[1] == 2 * (48 // 16) ** 2


def test_towers_that_came_frozen_learn_where_a_later_run_says_so(towers, world, tmp_path):
    records = read_manifest(world, split="train")
    start = run(evolve(recipe(towers), {"num_steps": 1}), records, tmp_path / "start")
    changes = {"model": FolderConfig(path=str(start)), "processor": load_configs(start)[1]}
    config = evolve(recipe(towers), {**changes, "adapt.trained": ["vision."]})
    folder = run(config, records, tmp_path / "run")
    before, after = (load_file(one / "model.safetensors") for one in (start, folder))
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert {name for name in after if name.startswith("vision.")} <= changed
    assert not any(name.startswith("audio.") for name in changed)


def test_frames_windows_and_lengths_are_the_runs_all_else_the_towers(towers):
    start: Any = recipe(towers).model
    processing = recipe(towers).processor
    model, changed = start.make(processing, 100)
    assert (changed.frames.num_bursts, changed.frames.image_px) == (3, 32)
    assert changed.frames.crop == "stretch"
    sound = changed.spectrogram
    assert (sound.num_windows, sound.num_mels, sound.hops_per_window) == (2, 16, 64)
    assert model.config.vocab_size == 100


def test_a_decoder_of_its_own_gets_the_words_of_the_data(towers, world, tmp_path):
    tower: Any = recipe(towers).model
    text = evolve(tower.model.text, {"cross_attention": "none"})
    config = ValorConfig(text=text, decoder=tower.model.text, embed_dim=8)
    config = evolve(config, {f"{part}.num_layers": 1 for part in ("vision", "audio")})
    model, processor = begin(config, ProcessorConfig(), read_manifest(world)[:1])
    save_model(tmp_path / "model", model.config, weights_of(model), processor, card="x")
    loaded, same, _ = load_model(tmp_path / "model")
    size = same.tokenizer.vocab_size
    assert size < text.vocab_size
    assert loaded.config.text.vocab_size == loaded.config.decoder.vocab_size == size
    own, _ = evolve(tower, {"model": to_dict(config)}).make(recipe(towers).processor, size)
    assert own.config.vocab_size == size


def test_a_text_encoder_whose_words_nothing_gives_is_refused(towers):
    """A run would leave a folder that cannot be loaded."""
    start: Any = recipe(towers).model
    decoder = evolve(start.model.text, {"max_length": 64})
    fresh = ValorConfig(text=ClipTextConfig(), decoder=decoder)
    for config in (fresh, TowersConfig(vision=str(towers / "vision"), model=fresh)):
        with pytest.raises(ConfigError, match=r"text.kind='clip_text'.*start from towers with"):
            begin(config, ProcessorConfig(), [])
    config = TowersConfig(text=str(towers / "text"), model=evolve(start.model, {"decoder": None}))
    _, processor = begin(config, ProcessorConfig(max_text_length=20), [])
    assert processor.text_tokenizer is not None


def test_a_fresh_bias_begins_where_the_run_says(world, tmp_path):
    changes = {"model.align_bias": True, "num_steps": 1, "optim.learning_rate": 1e-9}
    config = evolve(small_run(), {**changes, "objectives.alignment.loss": "sigmoid"})
    folder = run(config, read_manifest(world, split="train"), tmp_path)
    found = load_file(folder / "model.safetensors")["align_bias"].item()
    assert found == pytest.approx(-10.0)


def test_epochs_of_no_records_are_refused_as_what_they_are(tmp_path):
    with pytest.raises(ManifestError, match="none of 0 records of split 'train' has a caption"):
        run(evolve(small_run(), {"num_epochs": 2}), [], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_video_swin_is_read_as_its_authors_released_it(tmp_path):
    torch.manual_seed(0)
    wanted, found = VideoSwinTransformer(SWIN), VideoSwinTransformer(SWIN)
    released = {}
    for name, source in video_swin(SWIN).items():
        (key,) = source.keys
        released[key.replace("video_encoder.", "backbone.")] = wanted.state_dict()[name]
    released["cls_head.fc_cls.weight"] = torch.zeros(600, 16)
    torch.save({"state_dict": released}, tmp_path / "swin.pth")
    fill_swin(found, tmp_path / "swin.pth")
    for name, parameter in found.named_parameters():
        assert torch.equal(parameter, dict(wanted.named_parameters())[name]), name
    wider = VideoSwinTransformer(evolve(SWIN, {"embed_dim": 16}))
    with pytest.raises(ModelError, match="is of size"):
        fill_swin(wider, tmp_path / "swin.pth")
    deeper = VideoSwinTransformer(evolve(SWIN, {"depths": [1, 2]}))
    with pytest.raises(ModelError, match="no weight"):
        fill_swin(deeper, tmp_path / "swin.pth")
    with pytest.raises(ModelError, match="video_swin"):
        fill_swin(torch.nn.Linear(1, 1), tmp_path / "swin.pth")


def test_a_clap_tower_takes_the_windows_of_its_own_front_end(tmp_path):
    """Ten seconds are 1001 hops, and the released tower itself takes up to 1024."""
    save_clap(tmp_path)
    with torch.device("meta"):
        config = TowersConfig(audio=str(tmp_path))
        model, processing = config.make(ProcessorConfig(), 400, weights=False)
    audio: Any = model.config.audio
    assert audio.input_size == (16, 101)
    assert processing.spectrogram.hops_per_window == 101
