"""Laws of the similarity."""

import numpy as np
import pytest
import torch

from valor.models import fusion
from valor.models.fusion import join, pooled, similarity, token_weights
from valor.types import AUDIOVISUAL, Embeddings, Modality


def random_embeddings(rows, tokens, *, invalid=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.nn.functional.normalize(
        torch.randn(rows, tokens, 8, generator=generator), dim=-1
    )
    valid = torch.ones(rows, tokens, dtype=torch.bool)
    if invalid:
        valid[:, -invalid:] = False
    logits = torch.randn(rows, tokens, generator=generator)
    return Embeddings(vectors=vectors, weight_logits=logits, valid=valid)


def test_padding_never_changes_a_similarity():
    text, media = random_embeddings(3, 5, invalid=2), random_embeddings(4, 6, invalid=3, seed=1)
    before = similarity(text, media)
    for embeddings in (text, media):
        embeddings.vectors[~embeddings.valid] = 99.0
        embeddings.weight_logits[~embeddings.valid] = 99.0
    torch.testing.assert_close(similarity(text, media), before)


def test_padding_cannot_win_where_all_similarities_are_negative():
    text = Embeddings(
        vectors=torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]),
        weight_logits=torch.zeros(1, 2),
        valid=torch.tensor([[True, False]]),
    )
    media = Embeddings(
        vectors=torch.tensor([[[-1.0, 0.0]]]),
        weight_logits=torch.zeros(1, 1),
        valid=torch.tensor([[True]]),
    )
    assert similarity(text, media).item() == -1.0


def test_equals_the_formula_written_out():
    text, media = random_embeddings(2, 3, seed=2), random_embeddings(2, 4, seed=3)
    scores = similarity(text, media).numpy()
    words, tokens = text.vectors.numpy(), media.vectors.numpy()
    for i in range(2):
        for j in range(2):
            cosine = words[i] @ tokens[j].T
            of_words = np.exp(text.weight_logits[i].numpy())
            of_tokens = np.exp(media.weight_logits[j].numpy())
            expected = (
                (of_words / of_words.sum()) @ cosine.max(axis=1)
                + (of_tokens / of_tokens.sum()) @ cosine.max(axis=0)
            ) / 2
            np.testing.assert_allclose(scores[i, j], expected, atol=1e-6)


def test_a_row_without_tokens_scores_zero_and_gives_finite_gradients():
    text, media = random_embeddings(2, 3), random_embeddings(2, 4, seed=1)
    media.valid[0] = False
    media.vectors.requires_grad_()
    scores = similarity(text, media)
    assert scores[:, 0].abs().max() == 0
    scores.sum().backward()
    assert torch.isfinite(media.vectors.grad).all()


def test_permuting_rows_permutes_scores():
    text, media = random_embeddings(4, 3), random_embeddings(4, 5, seed=1)
    order = torch.tensor([2, 0, 3, 1])
    moved = Embeddings(
        vectors=media.vectors[order],
        weight_logits=media.weight_logits[order],
        valid=media.valid[order],
    )
    torch.testing.assert_close(similarity(text, moved), similarity(text, media)[:, order])


def test_joined_weights_share_one_softmax():
    media = {
        Modality.VISION: random_embeddings(2, 3),
        Modality.AUDIO: random_embeddings(2, 2, invalid=1, seed=1),
    }
    weights = token_weights(join(media, AUDIOVISUAL))
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2))
    assert weights[:, -1].abs().max() == 0


def test_a_modality_that_nobody_has_is_left_out_of_the_group():
    media = {Modality.VISION: random_embeddings(2, 3)}
    assert join(media, AUDIOVISUAL) is media[Modality.VISION]


@pytest.mark.parametrize("late", [False, True])
def test_a_model_in_bfloat16_fuses_coarsely_as_one_in_float32(late):
    vision, audio = random_embeddings(6, 1), random_embeddings(6, 1, seed=1)
    torch.manual_seed(0)
    fuse = fusion.CoarseFusion(8, late=late)
    wanted = fuse(vision, audio).vectors
    found = fuse.to(torch.bfloat16)(vision, audio).vectors
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.02)


def test_pooled_vectors_have_unit_length():
    torch.testing.assert_close(pooled(random_embeddings(3, 4)).norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("padded_words", ["excluded", "zero"])
def test_blocks_change_neither_similarities_nor_gradients(monkeypatch, padded_words):
    def scored(side):
        monkeypatch.setattr(fusion, "_SIDE", side)
        text, media = random_embeddings(7, 5, seed=1), random_embeddings(11, 4, seed=2)
        text.valid[2, 3:] = media.valid[4, 1:] = media.valid[5] = False
        inputs = [text.vectors, text.weight_logits, media.vectors, media.weight_logits]
        for tensor in inputs:
            tensor.requires_grad_()
        scores = similarity(text, media, padded_words=padded_words)
        above = torch.linspace(-1, 1, scores.numel()).view_as(scores)
        return scores, torch.autograd.grad((scores * above).sum(), inputs)

    whole, whole_gradients = scored(1000)
    parts, part_gradients = scored(12)
    torch.testing.assert_close(parts, whole)
    for ours, theirs in zip(part_gradients, whole_gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
