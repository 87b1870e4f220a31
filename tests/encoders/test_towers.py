"""Towers of the transformers library give their own features through the adapter.

Every tower is tiny, built from its configuration class, saved to a folder and read from there.
"""

import dataclasses
import json

import pytest
import torch
import transformers
from torch import nn

from valor.config import evolve, from_dict, to_json
from valor.encoders.towers import AudioTower, TextTower, TowerConfig, VisionTower, read_tower
from valor.errors import ModelError
from valor.types import Modality

SIZES = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 2}
IMAGE = {**SIZES, "image_size": 32, "patch_size": 8}
TEXT = {**SIZES, "vocab_size": 50, "max_position_embeddings": 20}
CLIP_TEXT = {**TEXT, "bos_token_id": 1, "eos_token_id": 2}
VIDEO_MAE = {**IMAGE, "num_frames": 4, "patch_size": 16, "use_mean_pooling": False}
V_JEPA = {**SIZES, "crop_size": 32, "patch_size": 16, "frames_per_clip": 4, "mlp_ratio": 2.0}
V_JEPA |= {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
HTSAT = {"spec_size": 64, "num_mel_bins": 16, "window_size": 4, "depths": [1, 1]}
HTSAT |= {"patch_embeds_hidden_size": 12, "num_attention_heads": [2, 2], "hidden_size": 24}
AST = {**SIZES, "num_mel_bins": 16, "max_length": 32, "patch_size": 8}
AST |= {"frequency_stride": 8, "time_stride": 8}
WHISPER = {"d_model": 24, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
WHISPER |= {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32}
WHISPER |= {"num_mel_bins": 16, "max_source_positions": 20, "vocab_size": 50, "pad_token_id": 0}
WHISPER |= {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}

VISION_MODELS = {
    "clip": ("CLIPModel", {"vision_config": IMAGE, "text_config": CLIP_TEXT}),
    "siglip2": ("SiglipModel", {"vision_config": IMAGE, "text_config": TEXT}),
    "siglip2_naflex": (
        "Siglip2Model",
        {"vision_config": {**SIZES, "patch_size": 8, "num_patches": 16}, "text_config": TEXT},
    ),
    "dinov3": ("DINOv3ViTModel", {**IMAGE, "num_register_tokens": 2}),
    "videomae": ("VideoMAEForPreTraining", {**VIDEO_MAE, "decoder_num_hidden_layers": 1}),
    "vjepa2": ("VJEPA2Model", V_JEPA),
}
AUDIO_MODELS = {
    "ast": ("ASTModel", AST),
    "clap": ("ClapModel", {"audio_config": HTSAT, "text_config": TEXT}),
    "clap_fused": (
        "ClapModel",
        {"audio_config": {**HTSAT, "enable_fusion": True}, "text_config": TEXT},
    ),
    "whisper": ("WhisperForConditionalGeneration", WHISPER),
}
TEXT_MODELS = {
    "bert": ("BertModel", TEXT),
    "modernbert": ("ModernBertModel", {**TEXT, "pad_token_id": 0}),
    "xlm_roberta": ("XLMRobertaForMaskedLM", {**TEXT, "pad_token_id": 1}),
    "clip_text": ("CLIPModel", {"vision_config": IMAGE, "text_config": CLIP_TEXT}),
    "siglip2_text": ("SiglipModel", {"vision_config": IMAGE, "text_config": TEXT}),
}
MODELS = VISION_MODELS | AUDIO_MODELS | TEXT_MODELS
VIDEO = ("videomae", "vjepa2")


def modality_of(name):
    if name in TEXT_MODELS:
        return Modality.TEXT
    return Modality.AUDIO if name in AUDIO_MODELS else Modality.VISION


def saved(name, folder):
    """Write a tiny pretrained model and return it."""
    cls, settings = MODELS[name]
    model = getattr(transformers, cls)
    model = model(model.config_class(**settings)).eval()
    with torch.no_grad():  # Fresh biases and position tables are zeros, which hide mistakes.
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
    model.save_pretrained(folder)
    return model


def tower_of(name, folder, **options):
    cls = {Modality.VISION: VisionTower, Modality.AUDIO: AudioTower, Modality.TEXT: TextTower}
    modality = modality_of(name)
    return cls[modality](*read_tower(folder, modality, **options)).eval()


def inputs_of(name, rows=2):
    """Two positions per row: frames, clips, windows or, of texts, twenty tokens."""
    if name in TEXT_MODELS:
        valid = torch.ones(rows, 9, dtype=torch.bool)
        valid[0, 6:] = False
        return torch.randint(3, 50, (rows, 9)).masked_fill(~valid, 1), valid
    if name in VISION_MODELS:
        values = torch.randn(rows, 8 if name in VIDEO else 2, 3, 32, 32)
    else:
        hops = {"ast": 32, "whisper": 40}.get(name, 256)
        values = torch.randn(rows, 2, 16, hops)
    return values, torch.ones(values.shape[:2], dtype=torch.bool)


def direct(name, model, x):
    """What transformers gives for one frame, clip, window or text: its tokens and summaries."""
    if name == "siglip2_naflex":
        patches = [
            f[:, r : r + 8, c : c + 8] for f in x for r in range(0, 32, 8) for c in range(0, 32, 8)
        ]
        patches = torch.stack([p.permute(1, 2, 0).flatten() for p in patches])
        mask, shape = torch.ones(1, 16), torch.tensor([[4, 4]])
        output = model.vision_model(patches[None], pixel_attention_mask=mask, spatial_shapes=shape)
    elif name in ("clip", "siglip2"):
        output = model.vision_model(x)
    elif name == "videomae":
        output = model.videomae(x)
    elif name == "vjepa2":
        output = model(x, skip_predictor=True)
    elif name == "ast":
        output = model(x.transpose(1, 2))
    elif name in ("clap", "clap_fused"):
        sound = x.transpose(1, 2)[:, None].expand(-1, 4 if name == "clap_fused" else 1, -1, -1)
        output = model.audio_model(sound, is_longer=torch.zeros(1, 1))
    elif name == "whisper":
        output = model.model.encoder(x)
    else:
        output = model(x)
    tokens = output.last_hidden_state
    tokens = tokens.flatten(2).transpose(1, 2) if tokens.dim() == 4 else tokens
    pooled = getattr(output, "pooler_output", None)
    if pooled is None:
        steps = tokens.unflatten(1, (2 if name in VIDEO else 1, -1))
        pooled = steps.mean(dim=2)[0]
    return tokens[0], pooled


@pytest.mark.parametrize("name", [*VISION_MODELS, *AUDIO_MODELS])
@torch.no_grad()
def test_media_features_are_the_models_own(name, tmp_path):
    model, tower = saved(name, tmp_path), tower_of(name, tmp_path)
    values, valid = inputs_of(name)
    output = tower(values, valid)
    width = 4 if name in VIDEO else 1
    clips = values.unflatten(1, (2, width))
    for row in range(2):
        parts = [
            direct(name, model, clips[row, i][None] if name in VIDEO else clips[row, i])
            for i in range(2)
        ]
        tokens, summary = (torch.cat(part) for part in zip(*parts, strict=True))
        torch.testing.assert_close(output.tokens.features[row], tokens, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(output.summary.features[row], summary, atol=1e-5, rtol=1e-5)
    assert output.tokens.features.shape[2] == tower.config.dim == 24
    assert output.summary.valid.shape == output.summary.features.shape[:2]
    assert output.tokens.valid.shape == output.tokens.features.shape[:2]
    assert output.tokens.valid.all()


@pytest.mark.parametrize("name", TEXT_MODELS)
@torch.no_grad()
def test_text_features_are_the_models_own(name, tmp_path):
    model, tower = saved(name, tmp_path), tower_of(name, tmp_path)
    model = getattr(model, "text_model", getattr(model, "roberta", model))
    ids, valid = inputs_of(name)
    ours = tower(ids, valid)
    for row, length in enumerate(valid.sum(dim=1)):
        theirs = model(ids[row : row + 1, :length]).last_hidden_state[0]
        torch.testing.assert_close(ours[row, :length], theirs, atol=1e-5, rtol=1e-5)
    assert tower(ids, torch.zeros_like(valid)).isfinite().all()
    assert (tower.config.vocab_size, ours.shape[2]) == (50, tower.config.dim)
    assert tower.config.max_length == (18 if name == "xlm_roberta" else 20)


@pytest.mark.parametrize("name", [*VISION_MODELS, *AUDIO_MODELS])
@torch.no_grad()
def test_what_is_invalid_changes_nothing_and_stays_invalid(name, tmp_path):
    saved(name, tmp_path)
    tower = tower_of(name, tmp_path)
    values, valid = inputs_of(name, rows=3)
    valid[0, valid.shape[1] // 2 :] = False
    valid[1] = False
    before = tower(values, valid)
    values[~valid] = 77.0
    after = tower(values, valid)
    assert before.summary.valid.any(dim=1).tolist() == [True, False, True]
    alone = tower(values[:1, : valid.shape[1] // 2], valid[:1, : valid.shape[1] // 2])
    for tokens, others, own in (
        (before.tokens, after.tokens, alone.tokens),
        (before.summary, after.summary, alone.summary),
    ):
        assert torch.equal(tokens.features[tokens.valid], others.features[others.valid])
        torch.testing.assert_close(tokens.features[:1][tokens.valid[:1]], own.features[0])
    nothing = tower(values, torch.zeros_like(valid))
    assert not nothing.tokens.valid.any()
    assert tower(values[:0], valid[:0]).summary.features.shape == (
        0,
        *before.summary.features.shape[1:],
    )


@pytest.mark.parametrize("name", VIDEO)
@torch.no_grad()
def test_a_clip_that_breaks_off_stands_still(name, tmp_path):
    saved(name, tmp_path)
    tower = tower_of(name, tmp_path)
    pixels, valid = inputs_of(name, rows=1)
    valid[0, 3] = False
    output = tower(pixels, valid)
    assert output.summary.valid.tolist() == [[True, False, True, True]]
    pixels[0, 3] = pixels[0, 2]
    still = tower(pixels, torch.ones_like(valid))
    torch.testing.assert_close(output.summary.features, still.summary.features)
    with pytest.raises(ModelError, match="frames_per_burst=4"):
        tower(pixels[:, :3], valid[:, :3])


@torch.no_grad()
def test_the_length_of_a_v_jepa_clip_is_free(tmp_path):
    model = saved("vjepa2", tmp_path)
    config, part = read_tower(tmp_path, Modality.VISION)
    tower = VisionTower(evolve(config, {"architecture.frames_per_clip": 8}), part).eval()
    pixels, valid = inputs_of("vjepa2")
    theirs = model(pixels, skip_predictor=True).last_hidden_state
    torch.testing.assert_close(tower(pixels, valid).tokens.features, theirs)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_that_is_trained_gets_a_gradient(name, tmp_path):
    saved(name, tmp_path)
    tower = tower_of(name, tmp_path).train()
    output = tower(*inputs_of(name))
    features = (
        (output,) if name in TEXT_MODELS else (output.tokens.features, output.summary.features)
    )
    torch.stack([(x * torch.randn_like(x)).sum() for x in features]).sum().backward()
    lacking = {n for n, p in tower.named_parameters() if p.requires_grad and p.grad is None}
    assert lacking == set()
    fixed = {n.rpartition(".")[2] for n, p in tower.named_parameters() if not p.requires_grad}
    of_clap = {"mean", "variance"} if "clap" in name and name in AUDIO_MODELS else set()
    assert fixed == of_clap | ({"weight"} if name == "whisper" else set())


@pytest.mark.parametrize("name", MODELS)
def test_a_frozen_tower_is_not_trained(name, tmp_path):
    saved(name, tmp_path)
    tower = tower_of(name, tmp_path, frozen=True)
    assert tower.config.frozen
    inputs = inputs_of(name)
    with torch.no_grad():
        before = tower(*inputs)
    tower.train()
    assert not any(module.training for module in tower.tower.modules())
    after = tower(*inputs)
    if name not in TEXT_MODELS:
        before, after = before.tokens.features, after.tokens.features
    assert torch.equal(before, after)
    assert not after.requires_grad


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_configuration_and_parameters_are_all_there_is(name, tmp_path):
    saved(name, tmp_path)
    tower = tower_of(name, tmp_path)
    inputs = inputs_of(name)
    config = from_dict(TowerConfig, json.loads(to_json(tower.config)))
    assert config == tower.config
    rebuilt = type(tower)(config).eval()
    assert rebuilt.state_dict().keys() == dict(tower.named_parameters()).keys()
    rebuilt.load_state_dict(dict(tower.named_parameters()))
    first, second = tower(*inputs), rebuilt(*inputs)
    if name not in TEXT_MODELS:
        first, second = first.summary.features, second.summary.features
    assert torch.equal(first, second)
    assert str(tmp_path) not in to_json(config)


@pytest.mark.parametrize("name", ["modernbert", "dinov3"])
@torch.no_grad()
def test_rotary_frequencies_stay_exact_in_bfloat16(name, tmp_path):
    saved(name, tmp_path)
    tower = tower_of(name, tmp_path)
    exact = {n: b.clone() for n, b in tower.named_buffers()}
    tower.bfloat16()
    assert exact
    assert all(torch.equal(b, exact[n]) for n, b in tower.named_buffers())
    assert all(p.dtype == torch.bfloat16 for p in tower.parameters())


@pytest.mark.parametrize("name", VISION_MODELS)
@torch.no_grad()
def test_another_resolution_is_interpolated_or_refused(name, tmp_path):
    saved(name, tmp_path)
    pixels, valid = inputs_of(name)
    if name == "videomae":
        with pytest.raises(ModelError, match=r"takes frames of \(32, 32\) px only"):
            tower_of(name, tmp_path, input_size=(48, 48))
        return
    tower = tower_of(name, tmp_path, input_size=(48, 48))
    assert tower.config.image_px == 48
    larger = torch.randn(*pixels.shape[:3], 48, 48)
    output, own = tower(larger, valid), tower_of(name, tmp_path)(pixels, valid)
    assert output.summary.features.shape == own.summary.features.shape
    assert output.tokens.features.shape[1] > own.tokens.features.shape[1]
    with pytest.raises(ModelError, match="configured for"):
        tower(pixels, valid)


@pytest.mark.parametrize("name", AUDIO_MODELS)
def test_windows_of_another_size_are_refused(name, tmp_path):
    saved(name, tmp_path)
    with pytest.raises(ModelError, match="mels"):
        tower_of(name, tmp_path, input_size=(8, 32))
    own = tower_of(name, tmp_path).config.input_size
    with pytest.raises(ModelError, match="hops"):
        tower_of(name, tmp_path, input_size=(own[0], own[1] + 1))


def test_clap_takes_the_hops_of_its_front_end(tmp_path):
    model = saved("clap", tmp_path)
    tower = tower_of("clap", tmp_path, input_size=(16, 250))
    sound = torch.randn(1, 1, 16, 250)
    with torch.no_grad():
        theirs = model.audio_model(sound.transpose(2, 3)).pooler_output
        ours = tower(sound, torch.ones(1, 1, dtype=torch.bool)).summary.features[0]
    torch.testing.assert_close(ours, theirs)


def test_the_card_states_the_licence(tmp_path):
    saved("clip", tmp_path)
    assert read_tower(tmp_path, Modality.TEXT)[0].licence == "unknown"
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A tower\n")
    config, _ = read_tower(tmp_path, Modality.TEXT)
    assert (config.licence, config.source) == ("apache-2.0", tmp_path.name)


@pytest.mark.parametrize("source", ["no/such-tower", "/no/such/folder", "not a name"])
def test_what_cannot_be_found_is_one_clear_error(source):
    with pytest.raises(
        ModelError, match=f"^{source}: no tower can be loaded .*give a folder"
    ) as error:
        read_tower(source, Modality.VISION)
    assert "\n" not in str(error.value)


def test_what_is_no_tower_of_the_modality_is_named(tmp_path):
    saved("bert", tmp_path)
    with pytest.raises(ModelError, match="bert cannot be used as vision tower"):
        read_tower(tmp_path, Modality.VISION)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "model_type": "strange"}))
    with pytest.raises(ModelError, match="strange"):
        read_tower(tmp_path, Modality.TEXT)


def test_missing_weights_are_named(tmp_path):
    cls, settings = MODELS["bert"]
    model = getattr(transformers, cls)(transformers.BertConfig(**settings))
    weights = {k: v for k, v in model.state_dict().items() if "layer.1.output.dense" not in k}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ModelError, match=r"missing: encoder\.layer\.1\.output\.dense\.weight"):
        read_tower(tmp_path, Modality.TEXT)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no tower can be loaded"):
        read_tower(tmp_path, Modality.TEXT)


def test_an_unknown_model_class_is_refused(tmp_path):
    saved("bert", tmp_path)
    config, _ = read_tower(tmp_path, Modality.TEXT)
    for name in ("BertConfig", "pipeline", "Nothing"):
        architecture = {**config.architecture, "architectures": [name]}
        with pytest.raises(ModelError, match=f"no model class {name}"):
            TextTower(dataclasses.replace(config, architecture=architecture))
