"""Tiny models and batches that tests share."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from valor.config import evolve
from valor.encoders.audio import AstConfig
from valor.encoders.pyramid import PyramidConfig
from valor.encoders.text import BertConfig
from valor.encoders.towers import TowerConfig
from valor.encoders.vision import VitConfig
from valor.models.bridge import Bridge, BridgeConfig, QFormerConfig
from valor.models.language_model import PromptPart
from valor.models.temporal_memory import MaskClass, MemoryHeadConfig, TemporalMemoryConfig
from valor.models.valor import Valor, ValorConfig
from valor.recipes.tiny import tiny
from valor.training.run import TrainConfig
from valor.types import (
    AUDIOVISUAL,
    MEDIA_GROUPS,
    Batch,
    Modality,
    QuestionBatch,
    SpecialIds,
    TextBatch,
)

VOCAB = 40
SPECIAL = SpecialIds(pad=0, start=2, end=3, mask=4)


def tiny_config() -> ValorConfig:
    """A model of a few thousand weights with every part that a large one has."""
    return ValorConfig(
        vision=VitConfig(
            image_px=8,
            patch_px=4,
            frames_per_patch=2,
            dim=16,
            num_layers=2,
            num_heads=2,
            mlp_dim=32,
            temporal_layers=1,
        ),
        audio=AstConfig(
            num_mels=8,
            hops_per_window=16,
            patch_mels=4,
            patch_hops=8,
            dim=16,
            num_layers=1,
            num_heads=2,
            mlp_dim=32,
        ),
        text=BertConfig(
            vocab_size=VOCAB,
            max_length=32,
            dim=24,
            num_layers=2,
            num_heads=2,
            mlp_dim=32,
            dropout=0.0,
        ),
        embed_dim=12,
    )


def small_run() -> TrainConfig:
    """The recipe `tiny`, shrunk to a few steps of a very small model."""
    changes = {f"model.{part}.num_layers": 1 for part in ("vision", "audio", "text")}
    changes |= {"model.vision.temporal_layers": 1, "batch_size": 6, "num_steps": 4, "save_every": 2}
    return evolve(tiny(), {**changes, "precision": "float32"})


def tiny_model(seed: int = 0) -> Valor:
    """A fresh model in evaluation mode."""
    torch.manual_seed(seed)
    return Valor(tiny_config()).eval()


def texts(batch: int, length: int, *, short: int = 0, seed: int = 0) -> TextBatch:
    """Random texts; the first rows are `short` tokens shorter."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCAB, (batch, length), generator=generator)
    valid = torch.ones(batch, length, dtype=torch.bool)
    if short:
        valid[: batch // 2, -short:] = False
    ids[:, 0] = SPECIAL.start
    return TextBatch(token_ids=ids.masked_fill(~valid, SPECIAL.pad), valid=valid)


def tiny_batch(size: int = 4, seed: int = 0) -> Batch:
    """A batch with every modality, text and question."""
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        ids=[str(row) for row in range(size)],
        pixels=torch.randn(size, 4, 3, 8, 8, generator=generator),
        frame_valid=torch.ones(size, 4, dtype=torch.bool),
        spectrograms=torch.randn(size, 2, 8, 16, generator=generator),
        window_valid=torch.ones(size, 2, dtype=torch.bool),
        aligned_texts={
            g: texts(size, 6, short=2, seed=seed + i) for i, g in enumerate(MEDIA_GROUPS)
        },
        caption_texts={
            g: texts(size, 7, short=1, seed=seed + i) for i, g in enumerate(MEDIA_GROUPS)
        },
        questions=[
            QuestionBatch(
                question=texts(size, 5, short=2, seed=seed + 7),
                answer=texts(size, 3, short=1, seed=seed + 8),
                group=group,
            )
            for group in (AUDIOVISUAL, Modality.VISION)
        ],
    )


def tiny_language_model(kind: str = "llama", seed: int = 0) -> tuple[TowerConfig, nn.Module]:
    """A frozen causal language model of a few thousand random weights."""
    import transformers

    torch.manual_seed(seed)
    cls, config = {
        "llama": (
            transformers.LlamaForCausalLM,
            transformers.LlamaConfig(
                hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                vocab_size=VOCAB, max_position_embeddings=128,
            ),
        ),
        "gpt2": (
            transformers.GPT2LMHeadModel,
            transformers.GPT2Config(
                n_embd=24, n_layer=2, n_head=2, n_positions=128, vocab_size=VOCAB
            ),
        ),
        "opt": (
            transformers.OPTForCausalLM,
            transformers.OPTConfig(
                hidden_size=24, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32,
                vocab_size=VOCAB, word_embed_proj_dim=24, max_position_embeddings=128,
            ),
        ),
    }[kind]  # fmt: skip
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 0, SPECIAL.start, SPECIAL.end
    model = cls(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)  # Far from uniform, so that words differ.
    architecture = {**config.to_dict(), "architectures": [cls.__name__]}
    return TowerConfig(architecture=architecture, dim=24, frozen=True), model


def tiny_bridge(kind: str = "llama", **changes: Any) -> Bridge:
    """A bridge to such a language model, in evaluation mode."""
    tower, model = tiny_language_model(kind)
    valor = tiny_config()
    config = BridgeConfig(
        vision=replace(valor.vision, temporal_layers=0),
        audio=valor.audio,
        qformer=QFormerConfig(
            dim=16, num_heads=2, mlp_dim=32, num_vision_queries=3, num_audio_queries=2
        ),
        language_model=tower,
        vocab_size=VOCAB,
        prompt=(
            PromptPart(words=(5, 6), slot=Modality.VISION),
            PromptPart(words=(7,), slot=Modality.AUDIO),
            PromptPart(words=(8,), slot=Modality.TEXT),
            PromptPart(words=(9,)),
        ),
        caption=(10, 11),
        **changes,
    )
    return Bridge(config, model).eval()


def save_towers(folder: Path) -> None:
    """Tiny SigLIP, AST and BERT as `save_pretrained` leaves them, with their settings and words."""
    import transformers as hf

    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32}
    image = {**sizes, "image_size": 32, "patch_size": 16}
    words = {**sizes, "vocab_size": 50, "max_position_embeddings": 20}
    sound = {**sizes, "num_mel_bins": 16, "max_length": 64, "patch_size": 8}
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    known += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    longer = {**words, "vocab_size": len(known), "max_position_embeddings": 160}
    towers: dict[str, Any] = {
        "vision": hf.SiglipModel(hf.SiglipConfig(vision_config=image, text_config=words)),
        "audio": hf.ASTModel(hf.ASTConfig(**sound, frequency_stride=8, time_stride=8)),
        "text": hf.BertModel(hf.BertConfig(**longer)),
    }
    for name, tower in towers.items():
        tower.save_pretrained(folder / name)
    hf.ASTFeatureExtractor(num_mel_bins=16, max_length=64).save_pretrained(folder / "audio")
    settings = {
        "size": {"height": 32, "width": 32},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "vision/preprocessor_config.json").write_text(json.dumps(settings))
    (folder / "vision/README.md").write_text("---\nlicense: apache-2.0\n---\n")
    hf.BertTokenizer(vocab={word: id for id, word in enumerate(known)}).save_pretrained(
        folder / "text"
    )


def tiny_memory_config() -> TemporalMemoryConfig:
    """TMANet with two past frames and three classes, at a quarter of the picture's resolution."""
    return TemporalMemoryConfig(
        backbone=PyramidConfig(
            block="basic",
            stem_dim=4,
            stem_pool=False,
            widths=(6, 8),
            depths=(1, 1),
            strides=(2, 1),
            dilations=(1, 2),
        ),
        head=MemoryHeadConfig(num_slots=2, key_dim=4, value_dim=8, bottleneck_dim=8, dropout=0.0),
        auxiliary_dim=4,
        classes=tuple(
            MaskClass(name=name, colour=colour)
            for name, colour in (
                ("ground", (0, 0, 0)),
                ("red", (255, 0, 0)),
                ("blue", (0, 0, 255)),
            )
        ),
    )
