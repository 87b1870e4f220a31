"""Laws of MGA."""

import numpy as np
import torch

from tests.tiny import SPECIAL, tiny_batch, tiny_model
from valor.objectives.alignment import contrastive_loss, same_text
from valor.training.step import ObjectivesConfig, loss_terms
from valor.types import MEDIA_GROUPS, TextBatch


def test_equals_a_numpy_reference():
    scores = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    loss = contrastive_loss(scores, torch.eye(5) > 0, torch.tensor(1.3))
    logits = scores.numpy() * np.exp(1.3)
    rows = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    columns = logits - np.log(np.exp(logits).sum(axis=0, keepdims=True))
    np.testing.assert_allclose(
        loss.item(), -(np.diag(rows) + np.diag(columns)).mean() / 2, rtol=1e-5
    )


def test_rows_with_equal_text_are_positives_of_each_other():
    ids = torch.tensor([[2, 7, 3, 0], [2, 7, 3, 9], [2, 8, 3, 0]])
    valid = torch.tensor([[True, True, True, False]] * 3)
    positive = same_text(TextBatch(token_ids=ids, valid=valid))
    assert positive.tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    scores = torch.zeros(3, 3, requires_grad=True)
    contrastive_loss(scores, positive, torch.tensor(0.0)).backward()
    assert scores.grad[0, 1] < 0 < scores.grad[0, 2]


def test_permuting_the_batch_changes_nothing():
    scores = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    eye = torch.eye(6) > 0
    before = contrastive_loss(scores, eye, torch.tensor(1.0))
    after = contrastive_loss(scores[order][:, order], eye, torch.tensor(1.0))
    torch.testing.assert_close(before, after)


def test_terms_are_weighted_to_alpha_in_all():
    terms = loss_terms(tiny_model(), tiny_batch(), ObjectivesConfig(captioning=None), SPECIAL)
    assert [name for name in terms] == [f"align/{group.label}" for group in MEDIA_GROUPS]
    assert sum(term.weight for term in terms.values()) == 1.5
