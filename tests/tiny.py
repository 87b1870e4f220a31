"""Tiny models and batches that tests share."""

import torch

from valor.config import evolve
from valor.encoders.audio import AstConfig
from valor.encoders.pyramid import PyramidConfig
from valor.encoders.text import BertConfig
from valor.encoders.vision import VitConfig
from valor.models.temporal_memory import MaskClass, MemoryHeadConfig, TemporalMemoryConfig
from valor.models.valor import Valor, ValorConfig
from valor.recipes.tiny import tiny
from valor.training.loop import TrainConfig
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
