"""Laws of the conditional decoder."""

import torch

from tests.tiny import texts, tiny_batch, tiny_model
from valor.encoders.text import prefix_causal_mask
from valor.types import AUDIOVISUAL, Modality


def remembered(model, batch):
    return model.remember(model.encode_media(batch))


def test_no_word_depends_on_later_words_by_gradient():
    model, batch = tiny_model(), tiny_batch()
    memory = remembered(model, batch)
    inputs = []
    original = model.decoder.text.embed

    def embed(token_ids, positions, *, num_prefix=0):
        x = original(token_ids, positions, num_prefix=num_prefix)
        x = x.detach().requires_grad_()
        inputs.append(x)
        return x

    model.decoder.text.embed = embed
    text = texts(4, 6)
    hidden = model.decoder(text, memory, AUDIOVISUAL)
    # Weighted, because the plain sum of a normalised vector is constant.
    values = (hidden * torch.randn(hidden.shape[-1])).sum(dim=(0, 2))
    for place, value in enumerate(values):
        (gradient,) = torch.autograd.grad(value, inputs[0], retain_graph=True)
        by_place = gradient.abs().amax(dim=(0, 2))
        assert (by_place[: place + 1] > 0).all()
        assert (by_place[place + 1 :] == 0).all()


def test_a_prompt_is_seen_in_both_directions_and_never_sees_the_answer():
    allowed = prefix_causal_mask(torch.ones(1, 5, dtype=torch.bool), num_prefix=3)[0, 0]
    assert allowed[0].tolist() == [True, True, True, False, False]
    assert allowed[3].tolist() == [True, True, True, True, False]


def test_a_group_sees_nothing_of_other_modalities():
    model, batch = tiny_model(), tiny_batch()
    text = texts(4, 6)
    before = model.decoder(text, remembered(model, batch), Modality.AUDIO)
    batch.pixels = batch.pixels + 1
    after = model.decoder(text, remembered(model, batch), Modality.AUDIO)
    torch.testing.assert_close(before, after)


def test_padding_does_not_change_the_words_before_it():
    model, batch = tiny_model(), tiny_batch()
    memory = remembered(model, batch)
    text = texts(4, 6, short=2)
    before = model.decoder(text, memory, AUDIOVISUAL)
    text.token_ids[~text.valid] = 9
    after = model.decoder(text, memory, AUDIOVISUAL)
    torch.testing.assert_close(before[text.valid], after[text.valid])
