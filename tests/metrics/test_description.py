import numpy as np
import pytest

from valor.errors import ValorError
from valor.metrics.description import audio_score, entity_score

DOG, CAT, CAR = np.eye(3)


def test_entities_that_are_all_there_score_one_and_none_score_nothing() -> None:
    vectors = np.stack([DOG, CAT])
    assert entity_score(["dog", "cat"], ["cat", "dog"], vectors, vectors) == pytest.approx(1)
    assert entity_score(["car"], ["dog"], CAR[None], DOG[None]) == 0


def test_half_of_the_entities_is_balanced_with_their_nearness() -> None:
    score = entity_score(["dog"], ["dog", "cat"], DOG[None], np.stack([DOG, CAT]))
    assert score == pytest.approx(2 * 0.5 * 1 / 1.5)
    # An entity that nothing true is like lowers the nearness to (1 + 1/2) / 2.
    both = entity_score(["dog", "car"], ["dog"], np.stack([DOG, CAR]), DOG[None])
    assert both == pytest.approx(2 * 1 * 0.75 / 1.75)


def test_a_side_without_entities_has_no_score() -> None:
    with pytest.raises(ValorError, match="0 and 1 entities"):
        entity_score([], ["dog"], np.zeros((0, 3)), DOG[None])


def test_the_score_of_a_sound_rises_with_its_nearness() -> None:
    texts = np.stack([DOG, DOG, DOG])
    scores = audio_score(texts, np.stack([DOG, CAT, -DOG]), np.stack([DOG, CAT, -DOG]))
    assert scores == pytest.approx([1, 0.5, 0], abs=1e-3)
    # Half of what is looked at: the length of a vector does not matter.
    assert audio_score(texts[:1], 9 * DOG[None], CAT[None])[0] > 0.9
