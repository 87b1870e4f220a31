"""Laws of MGC: masking, and the other two ways of predicting words."""

import pytest
import torch
from torch.nn import functional as F

from tests.tiny import SPECIAL, VOCAB, texts, tiny_batch, tiny_config
from valor.config import evolve
from valor.models.valor import Valor
from valor.objectives.base import row_uniform
from valor.objectives.captioning import (
    CaptioningConfig,
    caption,
    choose_words,
    corrupt,
    smoothed_cross_entropy,
)
from valor.types import AUDIOVISUAL, TextBatch


def test_never_the_first_word_never_padding_and_at_least_one_in_each_row():
    torch.manual_seed(0)
    text = texts(64, 8, short=5)
    for fraction in (0.01, 0.6, 1.0):
        chosen = choose_words(text.valid, fraction, torch.rand(text.valid.shape))
        assert not chosen[:, 0].any()
        assert not (chosen & ~text.valid).any()
        assert chosen.any(dim=1).all()


def test_a_row_without_text_has_no_word_to_predict():
    assert not choose_words(torch.zeros(2, 5, dtype=torch.bool), 0.6, torch.rand(2, 5)).any()


def test_the_fraction_is_met():
    torch.manual_seed(0)
    chosen = choose_words(torch.ones(400, 21, dtype=torch.bool), 0.6, torch.rand(400, 21))
    assert abs(chosen[:, 1:].float().mean().item() - 0.6) < 0.02


def test_only_chosen_words_change_and_most_become_masks():
    torch.manual_seed(0)
    ids = torch.full((200, 20), 7)
    chosen = choose_words(torch.ones_like(ids, dtype=torch.bool), 0.6, torch.rand(ids.shape))
    random_ids = torch.randint_like(ids, VOCAB)
    corrupted = corrupt(ids, chosen, SPECIAL.mask, torch.rand(ids.shape), random_ids)
    assert (corrupted[~chosen] == 7).all()
    masked = (corrupted[chosen] == SPECIAL.mask).float().mean().item()
    kept = (corrupted[chosen] == 7).float().mean().item()
    assert abs(masked - 0.8) < 0.03
    assert abs(kept - 0.1) < 0.03


def test_smoothed_targets_are_the_divergence_from_them():
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 7), torch.randint(7, (5,))
    wanted = torch.full((5, 7), 0.1 / 6)
    wanted[torch.arange(5), targets] = 0.9
    divergence = F.kl_div(logits.log_softmax(1), wanted, reduction="none").sum(dim=1)
    torch.testing.assert_close(smoothed_cross_entropy(logits, targets, 0.1), divergence)
    plain = smoothed_cross_entropy(logits, targets, 0.0)
    torch.testing.assert_close(plain, F.cross_entropy(logits, targets, reduction="none"))


@pytest.mark.parametrize("predicts", ["masked", "causal"])
def test_one_pass_over_all_words_is_the_loss_of_writing_them_one_by_one(predicts):
    torch.manual_seed(0)
    model = Valor(evolve(tiny_config(), {"language_modelling": predicts})).eval()
    batch, config = tiny_batch(), CaptioningConfig(groups=(AUDIOVISUAL,), mask_fraction=None)
    text = batch.caption_texts[AUDIOVISUAL]
    with torch.no_grad():
        memory = model.remember(model.encode_media(batch))
        term = caption(model(batch), batch, model.decoder, config, SPECIAL)["caption/audiovisual"]
        losses = []
        for place in range(1, text.valid.shape[1]):
            seen = text.token_ids[:, :place]
            if predicts == "masked":
                seen = torch.cat([seen, torch.full((4, 1), SPECIAL.mask)], dim=1)
            head = TextBatch(token_ids=seen, valid=torch.ones_like(seen, dtype=torch.bool))
            prompt = model.decoder.caption_prompt(4)
            hidden = model.decoder.read(prompt, head, memory, AUDIOVISUAL)[:, -1]
            there = text.valid[:, place]
            logits = model.decoder.word_logits(hidden[there])
            losses.append(F.cross_entropy(logits, text.token_ids[there, place], reduction="none"))
    torch.testing.assert_close(term.value, torch.cat(losses).mean(), atol=1e-5, rtol=0)
    assert term.num_rows == 4


def test_masks_of_a_row_are_its_own_whatever_rows_stand_beside_it():
    torch.manual_seed(0)
    seeds = torch.randint(2**62, (5,))
    valid = torch.ones(5, 300, dtype=torch.bool)
    whole = row_uniform(seeds, valid, stream=3)
    share = row_uniform(seeds[1::2], valid[1::2], stream=3)
    assert torch.equal(whole[1::2], share)
    others = [row_uniform(seeds, valid, stream=4), row_uniform(seeds + 1, valid, stream=3)]
    assert all((whole != other).float().mean() > 0.99 for other in others)


def test_row_numbers_are_even():
    seeds = torch.arange(400)
    draw = row_uniform(seeds, torch.ones(400, 100, dtype=torch.bool), stream=0)
    counts = torch.histc(draw, 20, 0, 1)
    assert (counts / 2000 - 1).abs().max() < 0.1
    assert torch.corrcoef(torch.stack([draw[:-1].flatten(), draw[1:].flatten()]))[0, 1].abs() < 0.02
    assert 0 <= draw.min() <= draw.max() < 1
