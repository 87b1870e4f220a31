"""A tower's inputs are prepared as its own processor prepares them."""

import json
import warnings

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer as HubTokenizer
from tokenizers import models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from valor.config import evolve, from_dict
from valor.data.collate import collate_media
from valor.encoders.towers import AudioTower, VisionTower, read_tower
from valor.errors import ConfigError, ModelError
from valor.processing.frames import FrameConfig, normalise, to_squares
from valor.processing.pretrained import frames_for, processor_for, sound_for
from valor.processing.processor import Processor, ProcessorConfig
from valor.processing.spectrogram import SpectrogramConfig
from valor.processing.tokenizer import TextTokenizer, Tokenizer
from valor.types import Modality, Segment

WORDS = ["a bell rings", "the red circle moves left and then right"]
GREY_LEVELS = 2
"""Torch and Pillow round their resizing kernels differently by this much at most."""
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
SMALL |= {"num_attention_heads": 2}
IMAGE = {**SMALL, "image_size": 32, "patch_size": 8}
VIDEO = {"num_frames": 4, "patch_size": 16, "use_mean_pooling": False}
HTSAT = {"hidden_size": 16, "patch_embeds_hidden_size": 8, "depths": [1, 1]}
HTSAT |= {"num_attention_heads": [2, 2]}
CLAP = {"audio_config": HTSAT, "text_config": {**SMALL, "vocab_size": 9}}
WHISPER = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "decoder_layers": 1}
WHISPER |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "decoder_attention_heads": 2}
WHISPER |= {"vocab_size": 9, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
V_JEPA = {**SMALL, "crop_size": 32, "frames_per_clip": 4, "hidden_size": 24, "mlp_ratio": 1.0}
V_JEPA |= {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}

VISION = {
    "clip": (
        "CLIPVisionModel",
        IMAGE,
        "CLIPImageProcessorPil",
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
    ),
    "siglip2": (
        "SiglipVisionModel",
        IMAGE,
        "SiglipImageProcessorPil",
        {"size": {"height": 32, "width": 32}, "resample": 2},
    ),
    "siglip2_naflex": (
        "Siglip2VisionModel",
        {**SMALL, "patch_size": 8, "num_patches": 16},
        "Siglip2ImageProcessorPil",
        {"patch_size": 8, "max_num_patches": 16},
    ),
    # Without torchvision there is neither DINOv3's processor nor V-JEPA 2's; these do the same.
    "dinov3": (
        "DINOv3ViTModel",
        IMAGE,
        "ViTImageProcessorPil",
        {
            "size": {"height": 32, "width": 32},
            "resample": 2,
            "image_mean": [0.43, 0.411, 0.296],
            "image_std": [0.213, 0.156, 0.143],
        },
    ),
    "videomae": (
        "VideoMAEModel",
        {**IMAGE, **VIDEO},
        "VideoMAEImageProcessorPil",
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
    ),
    "vjepa2": (
        "VJEPA2Model",
        V_JEPA,
        "CLIPImageProcessorPil",
        {"size": {"shortest_edge": 36}, "crop_size": 32, "resample": 2},
    ),
}
AUDIO = {
    "ast": ("ASTModel", SMALL, "ASTFeatureExtractor", {"mean": -3.5, "std": 4.0}),
    "clap": (
        "ClapModel",
        CLAP,
        "ClapFeatureExtractor",
        {"truncation": "rand_trunc", "frequency_min": 50},
    ),
    "clap_fused": (
        "ClapModel",
        CLAP,
        "ClapFeatureExtractor",
        {"truncation": "fusion", "padding": "repeat", "frequency_max": 12_000},
    ),
    "whisper": ("WhisperModel", WHISPER, "WhisperFeatureExtractor", {}),
}
PAIRS = [*zip(VISION, [*AUDIO, "ast", "clap"], strict=True)]


def saved(name, folder):
    """Write a tiny tower with its processor, which is returned."""
    model, sizes, processor, settings = (VISION | AUDIO)[name]
    model = getattr(transformers, model)
    model(model.config_class(**sizes)).save_pretrained(folder)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filter")
        processor = getattr(transformers, processor)(**settings)
    processor.save_pretrained(folder)
    if name == "vjepa2":
        (folder / "preprocessor_config.json").rename(folder / "video_preprocessor_config.json")
    return processor


def picture():
    """Wider than high, smooth in one half and noisy in the other."""
    ramp = np.linspace(0, 255, 160 * 80 * 3).reshape(80, 160, 3).astype(np.uint8)
    ramp[:, 80:] = np.random.default_rng(0).integers(0, 256, (80, 80, 3))
    return ramp


def whole_segment(length_s=10.0):
    waveform = np.random.default_rng(0).normal(0, 0.1, round(length_s * 48_000))
    return Segment(
        path="x.mp4",
        start_s=0.0,
        end_s=length_s,
        frames=np.stack([picture()] * 4),
        frame_times_s=np.arange(4.0),
        waveform=waveform.astype(np.float32),
        sample_rate_hz=48_000,
    )


@pytest.mark.parametrize("name", [name for name in VISION if name != "siglip2_naflex"])
def test_frames_are_those_of_the_towers_processor(name, tmp_path):
    theirs = saved(name, tmp_path)(picture(), return_tensors="np")["pixel_values"]
    config = frames_for(tmp_path)
    pixels = torch.from_numpy(to_squares(picture()[None], config))
    assert pixels.shape == (1, 3, 32, 32)
    deviation = np.array(config.normalise[1])[:, None, None]
    error = abs(normalise(pixels, config)[0].numpy() - theirs.reshape(3, 32, 32)) * 255 * deviation
    assert error.max() <= GREY_LEVELS + 0.01
    assert (config.num_bursts, config.frames_per_burst) == (
        (1, 4) if name in ("videomae", "vjepa2") else (4, 1)
    )


def test_siglip2_of_any_shape_gets_a_square_of_as_many_patches(tmp_path):
    saved("siglip2_naflex", tmp_path)
    config = frames_for(tmp_path)
    assert (config.image_px, config.crop, config.normalise) == (32, "centre", ((0.5,) * 3,) * 2)


@pytest.mark.parametrize(
    ("settings", "image_px", "margin_px", "crop"),
    [
        ({"size": 224, "do_center_crop": True, "crop_size": 224}, 224, 0, "centre"),
        ({"size": 224, "do_center_crop": None, "rescale_factor": None}, 224, 0, "stretch"),
        ({"size": {"height": 256, "width": 256}, "crop_size": 224}, 256, 0, "stretch"),
        ({"size": 256, "do_center_crop": True, "crop_size": 224}, 224, 32, "centre"),
        ({"size": {"shortest_edge": 224}, "do_center_crop": False}, 224, 0, "centre"),
    ],
)
def test_sizes_are_read_in_every_way_they_are_written(
    settings, image_px, margin_px, crop, tmp_path
):
    transformers.ViTConfig(**SMALL).save_pretrained(tmp_path)
    settings |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1], "resample": 3}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    config = frames_for(tmp_path)
    assert (config.image_px, config.margin_px, config.crop) == (image_px, margin_px, crop)
    assert (config.resample, config.normalise) == ("bicubic", ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": {"height": 224, "width": 112}}, "a square is needed"),
        ({"size": 224, "do_center_crop": True, "crop_size": 256}, "is not supported"),
        ({"size": 224, "rescale_factor": 1 / 127.5}, "is not supported"),
        ({"size": 224, "image_mean": [0.5]}, "three channels"),
    ],
)
def test_what_cannot_be_done_alike_is_refused(change, message, tmp_path):
    transformers.ViTConfig(**SMALL).save_pretrained(tmp_path)
    settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, **change}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=message):
        frames_for(tmp_path)


@pytest.mark.parametrize("name", AUDIO)
@pytest.mark.parametrize("length_s", [4.0, 10.0])
def test_spectrograms_are_those_of_the_towers_extractor(name, length_s, tmp_path, tokenizer):
    extractor = saved(name, tmp_path)
    processor = processor_for(tokenizer, audio=tmp_path)
    sound = processor.config.spectrogram
    segment = whole_segment(length_s * sound.sample_rate_hz / 48_000)
    ours = processor.prepare(segment).spectrograms
    assert ours.shape == (1, sound.num_mels, sound.hops_per_window)
    theirs = extractor(segment.waveform, sampling_rate=sound.sample_rate_hz, return_tensors="np")
    theirs = next(iter(theirs.values()))
    theirs = theirs[0] if name == "whisper" else theirs.reshape(-1, *theirs.shape[-2:])[0].T
    np.testing.assert_allclose(ours[0], theirs, atol=1e-3 if name == "ast" else 0)


def test_longer_segments_get_several_windows(tmp_path, tokenizer):
    saved("clap", tmp_path)
    processor = processor_for(tokenizer, audio=tmp_path, segment_s=25.0)
    assert processor.config.spectrogram.num_windows == 3
    segment = whole_segment(25.0)
    windows = processor.prepare(segment).spectrograms
    assert windows.shape == (3, 64, 1001)
    fewer = Processor(evolve(processor.config, {"spectrogram.num_windows": 2}), tokenizer)
    np.testing.assert_array_equal(fewer.prepare(segment).spectrograms, windows[[0, 2]])


@pytest.mark.parametrize(("vision", "audio"), PAIRS)
@torch.no_grad()
def test_towers_take_what_their_processor_prepares(vision, audio, tmp_path, tokenizer):
    saved(vision, tmp_path / "vision")
    saved(audio, tmp_path / "audio")
    processor = processor_for(tokenizer, vision=tmp_path / "vision", audio=tmp_path / "audio")
    (tmp_path / "model").mkdir()
    processor.save(tmp_path / "model")
    processor = Processor.load(tmp_path / "model")
    frames, sound = processor.config.frames, processor.config.spectrogram
    batch = collate_media([processor.prepare(whole_segment(2.0))], processor)
    size = (frames.image_px, frames.image_px)
    tower = VisionTower(*read_tower(tmp_path / "vision", Modality.VISION, input_size=size)).eval()
    assert tower(batch.pixels, batch.frame_valid).summary.features.isfinite().all()
    size = (sound.num_mels, sound.hops_per_window)
    tower = AudioTower(*read_tower(tmp_path / "audio", Modality.AUDIO, input_size=size)).eval()
    assert tower(batch.spectrograms, batch.window_valid).summary.features.isfinite().all()
    assert processor.plan.short_side_px == frames.image_px + frames.margin_px
    assert processor.plan.sample_rate_hz == sound.sample_rate_hz


def test_older_folders_have_kaldis_front_end():
    values = {"spectrogram": {"num_mels": 80}}
    config = from_dict(ProcessorConfig, values)
    assert config.spectrogram == SpectrogramConfig(num_mels=80)
    assert config.frames == FrameConfig()
    for wrong in ({"kind": "clap", "window": "hann"}, {"kind": "other"}, {"window_s": 30}):
        with pytest.raises(ConfigError, match="spectrogram"):
            from_dict(ProcessorConfig, {"spectrogram": wrong})


def test_what_cannot_be_read_is_one_clear_error(tmp_path, tokenizer):
    for read in (frames_for, sound_for, TextTokenizer.from_hub):
        for source in ("no/such-tower", tmp_path):
            with pytest.raises(ModelError, match=f"^{source}: .*(give|no preproc)") as error:
                read(source)
            assert "\n" not in str(error.value)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    transformers.Wav2Vec2Config().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="Wav2Vec2FeatureExtractor is not supported"):
        sound_for(tmp_path)


@pytest.fixture
def tokenizer():
    return Tokenizer.train(WORDS, vocab_size=100)


FAMILIES = {
    "xlm_roberta": {"bos": "<s>", "pad": "<pad>", "eos": "</s>"},
    "clip": {"bos": "<|startoftext|>", "pad": "<|endoftext|>", "eos": "<|endoftext|>"},
    "siglip": {"pad": "<pad>", "eos": "</s>"},
    "modernbert": {"bos": "[CLS]", "pad": "[PAD]", "eos": "[SEP]"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_text_towers_get_the_token_ids_of_their_own_tokenizer(family, tmp_path, tokenizer):
    special = FAMILIES[family]
    tokens = dict.fromkeys([*special.values(), "<unk>", *" ".join(WORDS).split()])
    vocabulary = {token: index for index, token in enumerate(tokens)}
    hub = HubTokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    hub.pre_tokenizer = pre_tokenizers.Whitespace()
    names = [special[name] for name in ("bos", "eos") if name in special]
    template = (
        "$A " + special["eos"] if "bos" not in special else f"{special['bos']} $A {special['eos']}"
    )
    ids = [(name, vocabulary[name]) for name in names]
    hub.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    own = {f"{name}_token": token for name, token in special.items()}
    theirs = PreTrainedTokenizerFast(tokenizer_object=hub, **own)
    theirs.save_pretrained(tmp_path)
    processor = processor_for(tokenizer, text=tmp_path)
    (tmp_path / "model").mkdir()
    processor.save(tmp_path / "model")
    ours = Processor.load(tmp_path / "model")
    for length in (40, 5):
        processor.config = evolve(ours.config, {"max_text_length": length})
        wanted = theirs(
            WORDS, padding=True, truncation=True, max_length=length, return_tensors="pt"
        )
        for made in (processor, Processor(processor.config, tokenizer, ours.text_tokenizer)):
            texts = made.encode_aligned_texts(WORDS)
            assert torch.equal(texts.token_ids, wanted["input_ids"])
            assert torch.equal(texts.valid, wanted["attention_mask"].bool())
    assert ours.encode_aligned_texts(["", "a"]).has_text.tolist() == [False, True]
    assert torch.equal(
        ours.encode_texts(WORDS).token_ids, tokenizer.encode(WORDS, max_length=40).token_ids
    )
