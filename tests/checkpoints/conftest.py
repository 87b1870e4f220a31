"""Tiny public models, made from their configurations and saved as their hub folders are."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    CLIPConfig,
    CLIPModel,
    DacConfig,
    ModernBertConfig,
    PeAudioEncoderConfig,
    PeAudioFeatureExtractor,
    PeAudioVideoConfig,
    PeAudioVideoEncoderConfig,
    PeAudioVideoModel,
    PeVideoEncoderConfig,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
)
from transformers.configuration_utils import SubConfigSpec
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "a", "red", "circle", "bell", "rings", "dog", "barks"]
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
SIZES |= {"num_attention_heads": 2}
TEXT = {**SIZES, "vocab_size": len(WORDS), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
PICTURE = {**SIZES, "patch_size": 8}


def save_tokenizer(folder: Path) -> None:
    ids = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    ).save_pretrained(folder)


def save_clip(folder: Path) -> None:
    text = {**TEXT, "max_position_embeddings": 16}
    config = CLIPConfig(text_config=text, vision_config={**PICTURE, "image_size": 16})
    config.projection_dim = 12
    CLIPModel(config).save_pretrained(folder)
    crop = {"height": 16, "width": 16}
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=crop).save_pretrained(folder)


def save_siglip(folder: Path) -> None:
    text = {**TEXT, "max_position_embeddings": 16, "projection_size": 16}
    config = SiglipConfig(text_config=text, vision_config={**PICTURE, "image_size": 16})
    SiglipModel(config).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)


def save_siglip2(folder: Path) -> None:
    text = {**TEXT, "max_position_embeddings": 16, "projection_size": 16}
    config = Siglip2Config(text_config=text, vision_config={**PICTURE, "num_patches": 16})
    Siglip2Model(config).save_pretrained(folder)
    Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16).save_pretrained(folder)


def save_clap(folder: Path) -> None:
    audio = {"spec_size": 64, "num_mel_bins": 16, "window_size": 2, "patch_embeds_hidden_size": 8}
    audio |= {"depths": [1, 1], "num_attention_heads": [1, 1], "hidden_size": 16}
    audio |= {"patch_size": 4, "patch_stride": [4, 4], "enable_fusion": True}
    text = {**TEXT, "max_position_embeddings": 80}
    ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=12)).save_pretrained(
        folder
    )
    ClapFeatureExtractor(
        feature_size=16,
        sampling_rate=8000,
        hop_length=160,
        max_length_s=2,
        fft_window_size=256,
        frequency_max=4000,
    ).save_pretrained(folder)


def save_pe_av(folder: Path) -> None:
    part = {**SIZES, "head_dim": 8}
    dac = DacConfig(
        downsampling_ratios=[2, 4, 10], encoder_hidden_size=4, codebook_dim=8, hidden_size=16
    )
    frames = ViTConfig(**PICTURE, image_size=16, num_labels=12)
    fused = PeAudioVideoEncoderConfig(
        audio_config=PeAudioEncoderConfig(dac_config=dac, **part),
        video_config=PeVideoEncoderConfig(vision_config=frames, **part),
        **part,
    )
    text = ModernBertConfig(**TEXT, cls_token_id=1, sep_token_id=2, max_position_embeddings=64)
    model = PeAudioVideoModel(PeAudioVideoConfig(text_config=text, audio_video_config=fused))
    model.save_pretrained(folder)
    PeAudioFeatureExtractor(sampling_rate=8000, hop_length=80).save_pretrained(folder)
    (folder / "video_preprocessor_config.json").write_text(
        '{"size": {"height": 16, "width": 16}, "num_frames": 3, "do_center_crop": null,'
        ' "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.25]}'
    )


@pytest.fixture(scope="session")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders clip, siglip, siglip2 and clap."""
    root = tmp_path_factory.mktemp("public")
    torch.manual_seed(0)
    savers = {"clip": save_clip, "siglip": save_siglip, "siglip2": save_siglip2, "clap": save_clap}
    for name, save in savers.items():
        save(root / name)
        save_tokenizer(root / name)
    return root


@contextmanager
def pe_av_without_timm() -> Iterator[None]:
    """PE-AV's frames go through a ViT of transformers in place of timm's."""
    with pytest.MonkeyPatch.context() as patch:
        backbone = SubConfigSpec(config_class=ViTConfig)
        patch.setitem(PeVideoEncoderConfig.sub_configs_defaults, "vision_config", backbone)
        yield


@pytest.fixture(scope="session")
def pe_av(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of PE-AV."""
    folder = tmp_path_factory.mktemp("public") / "pe-av"
    with pe_av_without_timm():
        torch.manual_seed(0)
        save_pe_av(folder)
        save_tokenizer(folder)
        yield folder
