"""Laws of MLM: both sides are seen, and each group has its term."""

import pytest
import torch

from tests.tiny import SPECIAL, tiny_batch, tiny_model
from valor.objectives.captioning import Masking, predict_words
from valor.objectives.masked_language import MaskedLanguageConfig, model_masked_language
from valor.types import AUDIOVISUAL, MEDIA_GROUPS, Modality


def test_the_words_after_a_masked_one_are_seen_only_with_both_sides():
    model, batch = tiny_model(), tiny_batch()
    memory, texts = model.remember(model.encode_media(batch)), batch.caption_texts[AUDIOVISUAL]
    seeds = torch.arange(4)

    def first_word(*, both_sides):
        masking = Masking(mask_id=SPECIAL.mask, fraction=0.15, seeds=seeds, both_sides=both_sides)
        prompt = model.decoder.caption_prompt(4)
        words = predict_words(model.decoder, prompt, texts, memory, AUDIOVISUAL, masking)
        return words.hidden[3, 1]

    before = {sides: first_word(both_sides=sides) for sides in (True, False)}
    texts.token_ids[3, -1] = 9 if texts.token_ids[3, -1] != 9 else 10
    torch.testing.assert_close(first_word(both_sides=False), before[False])
    assert (first_word(both_sides=True) - before[True]).abs().max() > 1e-6


def test_there_is_a_term_for_each_group_that_a_row_has():
    model, batch = tiny_model(), tiny_batch()
    batch.spectrograms = batch.window_valid = None
    config = MaskedLanguageConfig(weight=3.0)
    terms = model_masked_language(model(batch), batch, model.decoder, config, SPECIAL)
    assert {n: (t.weight, t.num_rows) for n, t in terms.items() if t.num_rows} == {
        "mlm/vision": (1.0, 4)
    }
    batch = tiny_batch()
    terms = model_masked_language(model(batch), batch, model.decoder, config, SPECIAL)
    assert [*terms] == [f"mlm/{group.label}" for group in MEDIA_GROUPS]
    terms["mlm/audio"].value.backward()
    assert model.memory_projections[Modality.AUDIO.label].modality.grad.abs().sum() > 0


def test_a_fraction_that_masks_nothing_is_refused():
    with pytest.raises(ValueError, match=r"mask_fraction=0\.0"):
        MaskedLanguageConfig(mask_fraction=0.0)
