"""Laws of matching: which pairs are asked about, and that the head learns to tell them apart."""

from dataclasses import replace

import pytest
import torch

from tests.tiny import SPECIAL, tiny_batch, tiny_config, tiny_model
from valor.errors import ConfigError
from valor.models.valor import Valor
from valor.objectives.matching import MatchingConfig, hardest, match_logits
from valor.training.step import ObjectivesConfig, loss_terms
from valor.types import AUDIOVISUAL, MEDIA_GROUPS, Modality

ONLY = ObjectivesConfig(alignment=None, captioning=None, matching=MatchingConfig())


def matching_model():
    torch.manual_seed(0)
    return Valor(replace(tiny_config(), matches=True)).eval()


def test_only_wrong_items_are_drawn_and_the_most_similar_most_often():
    torch.manual_seed(0)
    logits = torch.tensor([[9.0, 2.0, 0.0]]).expand(4000, -1)
    wrong = torch.tensor([[False, True, True]]).expand(4000, -1)
    counts = hardest(logits, wrong).bincount(minlength=3)
    assert counts[0] == 0
    assert abs(counts[1] / 4000 - torch.tensor(2.0).sigmoid()) < 0.03


def test_there_is_a_term_for_each_group_with_two_rows_of_other_texts():
    batch = tiny_batch()
    terms = loss_terms(matching_model(), batch, ONLY, SPECIAL)
    assert [*terms] == [f"match/{group.label}" for group in MEDIA_GROUPS]
    texts = batch.caption_texts[Modality.AUDIO]
    texts.token_ids[:], texts.valid[:] = texts.token_ids[0].clone(), texts.valid[0].clone()
    batch.window_valid[3] = False
    terms = loss_terms(matching_model(), batch, ONLY, SPECIAL)
    assert {name: t.num_rows for name, t in terms.items()} == {
        "match/vision": 4, "match/audiovisual": 3,
    }  # fmt: skip


def test_a_text_is_read_in_both_directions_and_padding_is_not():
    model, batch = matching_model(), tiny_batch()
    memory, texts = model.remember(model.encode_media(batch)), batch.caption_texts[AUDIOVISUAL]
    assert not texts.valid[0, -1]
    before = match_logits(model.decoder, model.match_head, texts, memory, AUDIOVISUAL)
    texts.token_ids[0, -1] = 9  # Padding.
    texts.token_ids[3, -1] = 9
    after = match_logits(model.decoder, model.match_head, texts, memory, AUDIOVISUAL)
    torch.testing.assert_close(before[:3], after[:3])
    assert (before[3] - after[3]).abs() > 1e-6


def test_rows_of_a_memory_are_the_memory_of_those_rows():
    model, batch = matching_model(), tiny_batch()
    batch.window_valid[2] = False
    memory, texts = model.remember(model.encode_media(batch)), batch.caption_texts[AUDIOVISUAL]
    whole = match_logits(model.decoder, model.match_head, texts, memory, AUDIOVISUAL)
    rows = torch.tensor([2, 0])
    some = replace(texts, token_ids=texts.token_ids[rows], valid=texts.valid[rows])
    found = match_logits(model.decoder, model.match_head, some, memory.rows(rows), AUDIOVISUAL)
    torch.testing.assert_close(found, whole[rows])


def test_the_head_learns_to_tell_right_from_wrong():
    model, batch = matching_model(), tiny_batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    values = []
    for _ in range(60):
        term = loss_terms(model, batch, ONLY, SPECIAL)["match/audiovisual"]
        optimizer.zero_grad()
        term.value.backward()
        optimizer.step()
        values.append(term.value.item())
    assert model.match_head.weight.grad.abs().sum() > 0
    assert values[-1] < 0.3 < 0.6 < values[0]


def test_a_model_without_the_head_is_refused():
    with pytest.raises(ConfigError, match=r"model\.matches"):
        loss_terms(tiny_model(), tiny_batch(), ONLY, SPECIAL)
