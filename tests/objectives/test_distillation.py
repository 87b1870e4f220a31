"""Laws of distillation: the formula, and who learns."""

import numpy as np
import pytest

from tests.tiny import tiny_batch, tiny_model
from valor.objectives.distillation import DistillationConfig, distil
from valor.types import AUDIOVISUAL, Modality


def weighted_mean(*parts):
    """Sum of unit vectors, weighted by one softmax over all of them, made a unit vector."""
    rows = []
    for row in range(len(parts[0].valid)):
        vectors = np.concatenate([p.vectors[row][p.valid[row]].detach() for p in parts])
        weights = np.exp(
            np.concatenate([p.weight_logits[row][p.valid[row]].detach() for p in parts])
        )
        mean = (weights[:, None] / weights.sum() * vectors).sum(axis=0)
        rows.append(mean / np.linalg.norm(mean))
    return np.stack(rows)


def test_equals_a_numpy_reference():
    encoded = tiny_model()(tiny_batch())
    text = encoded.aligned_texts[AUDIOVISUAL]
    vision, audio = (encoded.media[modality] for modality in AUDIOVISUAL)
    terms = distil(encoded, DistillationConfig())
    teacher = weighted_mean(vision, audio, text)
    for name, student in {"text": text, "vision": vision, "audio": audio}.items():
        distance = 1 - (weighted_mean(student) * teacher).sum(axis=1).mean()
        np.testing.assert_allclose(terms[f"distil/{name}"].value.item(), distance, rtol=1e-4)


def test_the_teacher_does_not_learn_from_its_students():
    encoded = tiny_model()(tiny_batch())
    for embeddings in (*encoded.media.values(), *encoded.aligned_texts.values()):
        embeddings.vectors.retain_grad()
    distil(encoded, DistillationConfig(students=(Modality.AUDIO,)))["distil/audio"].value.backward()
    assert encoded.media[Modality.AUDIO].vectors.grad.abs().sum() > 0
    assert encoded.media[Modality.VISION].vectors.grad is None
    assert encoded.aligned_texts[AUDIOVISUAL].vectors.grad is None


def test_rows_that_lack_a_modality_take_no_part():
    batch = tiny_batch()
    batch.window_valid[1:] = False
    assert {
        term.num_rows for term in distil(tiny_model()(batch), DistillationConfig()).values()
    } == {1}
    batch.spectrograms = batch.window_valid = None
    assert distil(tiny_model()(batch), DistillationConfig()) == {}


def test_a_group_is_no_student():
    with pytest.raises(ValueError, match="single modalities"):
        DistillationConfig(students=(AUDIOVISUAL,))
