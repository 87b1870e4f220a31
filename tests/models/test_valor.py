"""Laws of the whole model."""

from dataclasses import replace
from functools import partial
from typing import get_args

import pytest
import torch

from tests.tiny import SPECIAL, VOCAB, texts, tiny_batch, tiny_config, tiny_model
from valor.config import evolve, to_dict
from valor.encoders.clip_text import ClipTextConfig
from valor.encoders.text import CrossAttentionKind
from valor.models.valor import Valor
from valor.objectives.alignment import AlignmentConfig
from valor.objectives.answering import AnsweringConfig
from valor.objectives.base import total
from valor.objectives.captioning import CaptioningConfig
from valor.processing.frames import FrameConfig
from valor.processing.processor import ProcessorConfig
from valor.processing.spectrogram import SpectrogramConfig
from valor.training.step import ObjectivesConfig, loss_terms
from valor.types import AUDIOVISUAL, Modality, QuestionBatch

TINY_CLIP = ClipTextConfig(vocab_size=VOCAB, max_length=16, dim=16, num_layers=1, num_heads=2)
ALL = ObjectivesConfig(
    alignment=AlignmentConfig(), captioning=CaptioningConfig(), answering=AnsweringConfig()
)


@pytest.mark.parametrize(
    "changes",
    [
        *({"text.cross_attention": kind} for kind in get_args(CrossAttentionKind)),
        {"contrast": "coarse"},
        {"contrast": "coarse", "late_fusion": True},
        {"language_modelling": "causal"},
        {"decoder": to_dict(tiny_config().text), "text.cross_attention": "none"},
        {"decoder": to_dict(tiny_config().text), "text": to_dict(TINY_CLIP), "contrast": "coarse"},
    ],
    ids=lambda changes: ",".join(f"{key}={str(value)[:14]}" for key, value in changes.items()),
)
def test_every_parameter_gets_a_finite_gradient(changes):
    torch.manual_seed(0)
    model = Valor(evolve(tiny_config(), changes)).train()
    batch = tiny_batch()
    batch.frame_valid[0, 2:] = False
    total(loss_terms(model, batch, ALL, SPECIAL)).backward()
    # Added to all logits of one softmax; for a prompt that this model does not have.
    no_effect = ("heads.text.scorer.2.bias", "text.prompt_mark")
    for name, parameter in model.named_parameters():
        if name in no_effect:
            continue
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_a_text_may_be_as_long_as_every_part_reads_it():
    """Positions begin anew behind a prompt, and a [MASK] stands behind the last word."""
    whole = evolve(tiny_config(), {"text.max_length": 8})
    clip = {"decoder": to_dict(whole.text), "text": to_dict(TINY_CLIP)}
    frames = FrameConfig(num_bursts=2, frames_per_burst=2, image_px=8)
    sound = SpectrogramConfig(num_mels=8, hops_per_window=16)
    answering = AnsweringConfig(mask_fraction=None)
    for changes, longest in (
        ({}, 7),
        ({"prompts.answer": (5, 6)}, 6),
        ({"prompts.align": (5, 6)}, 7),
        ({**clip, "text.max_length": 6}, 6),
        ({**clip, "text.max_length": 6, "prompts.align": (5, 6)}, 4),
        (clip, 7),
    ):
        config = evolve(whole, changes)
        read = partial(ProcessorConfig, frames=frames, spectrogram=sound)
        config.check(read(max_text_length=longest))
        with pytest.raises(ValueError, match=r"model\.(text|decoder)\.max_length=[68]"):
            config.check(read(max_text_length=longest + 1))
        batch, full = tiny_batch(), texts(4, longest)
        batch.aligned_texts = batch.caption_texts = {AUDIOVISUAL: full}
        batch.questions = [QuestionBatch(question=full, answer=full, group=AUDIOVISUAL)]
        terms = loss_terms(Valor(config), batch, replace(ALL, answering=answering), SPECIAL)
        assert torch.isfinite(total(terms))


def test_missing_audio_changes_no_audio_loss():
    model, whole = tiny_model(), tiny_batch(6)
    torch.manual_seed(0)
    part = tiny_batch(6)
    part.window_valid[4:] = False
    part.spectrograms[4:] = 1e6
    encoded_whole, encoded_part = model(whole), model(part)
    torch.testing.assert_close(
        encoded_part.media[Modality.AUDIO].vectors[:4],
        encoded_whole.media[Modality.AUDIO].vectors[:4],
    )
    config = ObjectivesConfig(captioning=None)
    with_silent_rows = loss_terms(model, part, config, SPECIAL)["align/audio"]
    assert with_silent_rows.num_rows == 4
    for name in ("aligned_texts", "caption_texts"):
        for text in getattr(whole, name).values():
            text.token_ids, text.valid = text.token_ids[:4], text.valid[:4]
    for name in ("pixels", "frame_valid", "spectrograms", "window_valid"):
        setattr(whole, name, getattr(whole, name)[:4])
    without_them = loss_terms(model, whole, config, SPECIAL)["align/audio"]
    torch.testing.assert_close(with_silent_rows.value, without_them.value)


def test_a_batch_without_any_audio_has_no_audio_terms():
    model, batch = tiny_model(), tiny_batch()
    batch.spectrograms = batch.window_valid = None
    terms = loss_terms(model, batch, ALL, SPECIAL)
    assert {"align/vision", "caption/vision", "answer/vision"} <= terms.keys()
    assert not any("audio" in name for name in terms if not name.startswith("answer"))


def test_a_row_of_a_batch_equals_a_batch_of_one():
    model, batch = tiny_model(), tiny_batch()
    whole = model.embed_media(model.encode_media(batch))
    for name in ("pixels", "frame_valid", "spectrograms", "window_valid"):
        setattr(batch, name, getattr(batch, name)[2:3])
    alone = model.embed_media(model.encode_media(batch))
    for modality in AUDIOVISUAL:
        torch.testing.assert_close(whole[modality].vectors[2:3], alone[modality].vectors)


def test_invalid_frames_change_nothing():
    model, batch = tiny_model(), tiny_batch()
    batch.frame_valid[0, 2:] = False
    before = model.embed_media(model.encode_media(batch))[Modality.VISION]
    batch.pixels[0, 2:] = 50.0
    after = model.embed_media(model.encode_media(batch))[Modality.VISION]
    torch.testing.assert_close(before.vectors[before.valid], after.vectors[after.valid])
    assert before.valid[0].tolist() == [True, False]


def test_padding_of_texts_changes_no_loss():
    model = tiny_model()
    for name in ("aligned_texts", "caption_texts"):
        batch = tiny_batch()
        torch.manual_seed(3)
        before = loss_terms(model, batch, ALL, SPECIAL)
        for text in getattr(batch, name).values():
            text.token_ids[~text.valid] = 11
        torch.manual_seed(3)
        after = loss_terms(model, batch, ALL, SPECIAL)
        for key in before:
            torch.testing.assert_close(after[key].value, before[key].value)
