"""Laws of the conditional decoder."""

import pytest
import torch

from tests.tiny import texts, tiny_batch, tiny_config, tiny_model
from valor.config import evolve
from valor.encoders.text import interleave, prefix_causal_mask
from valor.models.valor import Valor
from valor.types import AUDIOVISUAL, MEDIA_GROUPS, Modality, TextBatch


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


@pytest.mark.parametrize(
    "kind", ["concatenated", "parallel", "vision_audio", "audio_vision", "none"]
)
def test_several_groups_at_once_are_each_by_itself(kind):
    torch.manual_seed(0)
    config = evolve(tiny_config(), {"text.cross_attention": kind})
    model, batch = Valor(config).eval(), tiny_batch()
    batch.window_valid[1] = False
    memory = remembered(model, batch)
    own = [texts(4, length, short=2) for length in (6, 4, 5)]
    prompt = TextBatch(token_ids=torch.full((12, 1), 7), valid=torch.ones(12, 1, dtype=torch.bool))
    together = model.decoder.read(prompt, interleave(own), memory, MEDIA_GROUPS)
    first = TextBatch(token_ids=prompt.token_ids[:4], valid=prompt.valid[:4])
    for index, (group, text) in enumerate(zip(MEDIA_GROUPS, own, strict=True)):
        alone = model.decoder.read(first, text, memory, group)
        rows = text.valid & (memory.has(group) | (kind != "none"))[:, None]
        found = together[index::3, : text.valid.shape[1]]
        torch.testing.assert_close(found[rows], alone[rows], atol=1e-5, rtol=1e-5)
