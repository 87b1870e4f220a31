"""Laws of MGC's masking."""

import torch

from tests.tiny import SPECIAL, VOCAB, texts
from valor.objectives.captioning import choose_words, corrupt


def test_never_the_first_word_never_padding_and_at_least_one_in_each_row():
    torch.manual_seed(0)
    text = texts(64, 8, short=5)
    for fraction in (0.01, 0.6, 1.0):
        chosen = choose_words(text.valid, fraction)
        assert not chosen[:, 0].any()
        assert not (chosen & ~text.valid).any()
        assert chosen.any(dim=1).all()


def test_a_row_without_text_has_no_word_to_predict():
    assert not choose_words(torch.zeros(2, 5, dtype=torch.bool), 0.6).any()


def test_the_fraction_is_met():
    torch.manual_seed(0)
    chosen = choose_words(torch.ones(400, 21, dtype=torch.bool), 0.6)
    assert abs(chosen[:, 1:].float().mean().item() - 0.6) < 0.02


def test_only_chosen_words_change_and_most_become_masks():
    torch.manual_seed(0)
    ids = torch.full((200, 20), 7)
    chosen = choose_words(torch.ones_like(ids, dtype=torch.bool), 0.6)
    corrupted = corrupt(ids, chosen, SPECIAL.mask, VOCAB)
    assert (corrupted[~chosen] == 7).all()
    masked = (corrupted[chosen] == SPECIAL.mask).float().mean().item()
    kept = (corrupted[chosen] == 7).float().mean().item()
    assert abs(masked - 0.8) < 0.03
    assert abs(kept - 0.1) < 0.03
