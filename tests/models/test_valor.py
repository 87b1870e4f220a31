"""Laws of the whole model."""

import torch

from tests.tiny import SPECIAL, tiny_batch, tiny_model
from valor.objectives.alignment import AlignmentConfig
from valor.objectives.answering import AnsweringConfig
from valor.objectives.base import total
from valor.objectives.captioning import CaptioningConfig
from valor.training.step import ObjectivesConfig, loss_terms
from valor.types import AUDIOVISUAL, Modality

ALL = ObjectivesConfig(
    alignment=AlignmentConfig(), captioning=CaptioningConfig(), answering=AnsweringConfig()
)


def test_every_parameter_gets_a_finite_gradient():
    model = tiny_model().train()
    total(loss_terms(model, tiny_batch(), ALL, SPECIAL)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if name != "heads.text.scorer.2.bias":  # Added to all logits of a softmax: no effect.
            assert parameter.grad.abs().max() > 0, name


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
