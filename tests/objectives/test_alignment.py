"""Laws of MGA."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.tiny import SPECIAL, tiny_batch, tiny_model
from valor.errors import ConfigError
from valor.objectives import alignment
from valor.objectives.alignment import (
    AlignmentConfig,
    contrastive_loss,
    same_text,
    sigmoid_loss,
    volume,
)
from valor.training.step import ObjectivesConfig, backward, loss_terms
from valor.types import AUDIOVISUAL, MEDIA_GROUPS, Modality, TextBatch


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


def terms_of(config, batch=None):
    objectives, model = ObjectivesConfig(alignment=config, captioning=None), tiny_model()
    if config.loss == "sigmoid":
        model.add_bias(config.sigmoid_bias)
    return loss_terms(model, batch or tiny_batch(), objectives, SPECIAL)


def test_any_two_groups_can_be_a_pair():
    vision, audio, text = Modality.VISION, Modality.AUDIO, Modality.TEXT
    pairs = ((vision, audio), (vision | text, audio), (audio | text, vision))
    terms = terms_of(AlignmentConfig(groups=(AUDIOVISUAL,), pairs=pairs))
    names = ("audiovisual", "vision:audio", "vision+text:audio", "audio+text:vision")
    assert [*terms] == [f"align/{name}" for name in names]
    assert all(term.weight == 1.5 / 4 for term in terms.values())
    silent = tiny_batch()
    silent.window_valid[1:] = False
    assert terms_of(AlignmentConfig(groups=(vision,), pairs=pairs), silent).keys() == {
        "align/vision"
    }


@pytest.mark.parametrize("loss", ["softmax", "sigmoid", "volume"])
def test_a_row_without_sound_changes_no_other_pair(loss):
    config = AlignmentConfig(pairs=((Modality.VISION, Modality.AUDIO),), loss=loss)
    batch = tiny_batch()
    batch.window_valid[0] = False
    before = terms_of(config, batch)
    batch.spectrograms[0] = 99.0
    batch.aligned_texts[Modality.AUDIO].token_ids[0, 1:] = 7
    after = terms_of(config, batch)
    assert before.keys() == after.keys()
    assert {name: term.num_rows for name, term in after.items()} == {
        "align/vision": 4, "align/audio": 3, "align/audiovisual": 3, "align/vision:audio": 3,
    }  # fmt: skip
    for name, term in after.items():
        torch.testing.assert_close(term.value, before[name].value)


@pytest.mark.parametrize("pair", [(Modality.VISION, AUDIOVISUAL), (Modality(0), Modality.TEXT)])
def test_groups_of_a_pair_have_nothing_in_common(pair):
    with pytest.raises(ValueError, match="a pair"):
        AlignmentConfig(pairs=(pair,))


def test_sigmoid_equals_a_numpy_reference():
    scores = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    positive = torch.eye(5) > 0
    positive[0, 1] = positive[1, 0] = True
    loss = sigmoid_loss(scores, positive, torch.tensor(1.3), torch.tensor(-2.0))
    sign = np.where(positive.numpy(), 1, -1)
    each = np.log1p(np.exp(-sign * (scores.numpy() * np.exp(1.3) - 2.0)))
    np.testing.assert_allclose(loss.item(), each.sum() / 5, rtol=1e-5)


def test_the_bias_of_sigmoid_is_learned_and_a_model_without_one_is_refused():
    objectives = ObjectivesConfig(alignment=AlignmentConfig(loss="sigmoid"), captioning=None)
    model = tiny_model()
    with pytest.raises(ConfigError, match=r"model\.align_bias=true"):
        loss_terms(model, tiny_batch(), objectives, SPECIAL)
    model.add_bias(-10.0)
    model.add_bias(3.0)
    assert model.align_bias.item() == -10
    backward(loss_terms(model, tiny_batch(), objectives, SPECIAL))
    # At -10 each of 3 x 4 wrong pairs is right already and each of 4 right ones is wrong.
    assert model.align_bias.grad.item() == pytest.approx(-1.5, abs=0.05)


@pytest.mark.parametrize(("some", "others"), [(1, 1), (1, 2), (2, 1)])
def test_volumes_in_blocks_are_those_of_whole_gram_matrices(monkeypatch, some, others):
    monkeypatch.setattr(alignment, "_BLOCK_ROWS", 2)
    torch.manual_seed(0)
    vectors = [torch.randn(5, some, 8), torch.randn(6, others, 8)]
    sides = [F.normalize(x, dim=-1).requires_grad_() for x in vectors]
    whole = torch.cat([
        sides[0][:, None].expand(-1, 6, -1, -1), sides[1][None].expand(5, -1, -1, -1)
    ], dim=2)  # fmt: skip
    wanted, found = torch.linalg.det(whole @ whole.mT).sqrt(), volume(*sides)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    weights = torch.randn(5, 6)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), sides),
        torch.autograd.grad((wanted * weights).sum(), sides),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest tensor holds that any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                held = tensor.untyped_storage().nbytes() // tensor.itemsize
                self.numbers = max(self.numbers, held)
        return made


def test_nothing_is_as_large_as_all_pairs_times_their_width():
    rows, length, dim = 64, 32, 128
    sides = [torch.randn(rows, k, dim, requires_grad=True) for k in (1, 2)]
    ids = torch.randint(40, (rows, length))
    with LargestTensor() as largest:
        volume(*sides).sum().backward()
        same_text(TextBatch(token_ids=ids, valid=ids > 3))
    assert largest.numbers <= rows * rows * 3**2


def test_volumes_are_those_of_geometry():
    vectors = torch.nn.functional.normalize(torch.randn(2, 3, 3), dim=-1)
    found = volume(vectors[:, :1], vectors[:, 1:])
    for row in range(2):
        for item in range(2):
            whole = torch.stack([vectors[row, 0], *vectors[item, 1:]])
            torch.testing.assert_close(found[row, item], torch.linalg.det(whole).abs())
    cosine = vectors[0, 0] @ vectors[1, 0]
    area = volume(vectors[:1, :1], vectors[1:, :1])
    torch.testing.assert_close(area[0, 0], (1 - cosine**2).sqrt())
    flat = vectors[:1, :1].clone().requires_grad_()
    volume(flat, flat).sum().backward()
    assert flat.grad.isfinite().all()
