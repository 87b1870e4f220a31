"""Laws of the objective of masks."""

import pytest
import torch

from valor.models.temporal_memory import MaskLogits
from valor.objectives.base import total
from valor.objectives.masks import MaskObjectiveConfig, segment

CONFIG = MaskObjectiveConfig()


def logits(*, training=True):
    auxiliary = torch.randn(2, 3, 4, 5, requires_grad=True) if training else None
    return MaskLogits(main=torch.randn(2, 3, 4, 5, requires_grad=True), auxiliary=auxiliary)


def test_the_loss_is_the_mean_over_labelled_pixels_with_the_auxiliary_at_its_weight():
    scores, labels = logits(), torch.randint(3, (2, 4, 5))
    labels[0, 0] = 255

    def mean(x):
        chosen = x.log_softmax(1).movedim(1, -1)[labels != 255]
        return -chosen.gather(1, labels[labels != 255][:, None]).mean()

    terms = segment(scores, labels, CONFIG)
    wanted = mean(scores.main) + 0.4 * mean(scores.auxiliary)
    assert total(terms).item() == pytest.approx(wanted.item())
    assert {term.num_rows for term in terms.values()} == {2}


def test_ignored_pixels_get_no_gradient():
    scores, labels = logits(), torch.randint(3, (2, 4, 5))
    labels[1, 2:] = 255
    total(segment(scores, labels, CONFIG)).backward()
    for head in (scores.main, scores.auxiliary):
        assert not head.grad[1, :, 2:].any()
        assert head.grad[1, :, :2].all()


def test_without_any_label_there_is_no_term():
    assert segment(logits(), torch.full((2, 4, 5), 255), CONFIG) == {}


def test_outside_of_training_only_the_main_head_counts():
    assert list(segment(logits(training=False), torch.zeros(2, 4, 5).long(), CONFIG)) == ["mask"]
