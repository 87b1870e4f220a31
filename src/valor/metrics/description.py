"""FAVD's measures of audible description, over entities and vectors that the caller brings.

Which words are entities, and what their vectors are, is for a tagger and an encoder to say: none is
chosen here, so a score names both.
"""

from collections.abc import Collection

import numpy as np
from jaxtyping import Float

from valor.errors import ValorError

_STEEPNESS = 10.0


def entity_score(
    given: Collection[str],
    true: Collection[str],
    given_vectors: Float[np.ndarray, "given dim"],
    true_vectors: Float[np.ndarray, "true dim"],
) -> float:
    """EntityScore: how many entities are named, balanced with how near all named ones are.

    Args:
        given: Entities of a description, such as its stemmed nouns.
        true: Entities of the reference.
        given_vectors: Of the first, row for row.
        true_vectors: Of the second.

    Returns:
        The harmonic mean of recall and of (1 + cosine) / 2 with the nearest true entity, in [0, 1].

    Raises:
        ValorError: If a side has no entity, or not as many vectors: such a pair has no score.

    Source:
        FAVDBench (arXiv 2303.15616). Its script adds 0.0001 to the recall, and compares entities
        token by token.
    """
    if not given or not true or (len(given), len(true)) != (len(given_vectors), len(true_vectors)):
        raise ValorError(
            f"{len(given)} and {len(true)} entities with {len(given_vectors)} and "
            f"{len(true_vectors)} vectors, where both sides need one at least, with its vector"
        )
    recall = len(set(given) & set(true)) / len(set(true))
    nearness = float((1 + _cosines(given_vectors, true_vectors).max(axis=1)).mean() / 2)
    return 2 * recall * nearness / (recall + nearness) if recall else 0.0


def audio_score(
    texts: Float[np.ndarray, "items dim"],
    sounds: Float[np.ndarray, "items dim"],
    pictures: Float[np.ndarray, "items dim"],
) -> Float[np.ndarray, " items"]:
    """How well a description fits its sound, seen beside the pictures: like FAVD's AudioScore.

    Args:
        texts: A vector of each description, in the space of the others.
        sounds: Of its sound.
        pictures: Of its pictures.

    Returns:
        The mean cosine of each text with both, stretched to [0, 1] by FAVD's curve, which is 0.5
        for a cosine of 0. Scores depend on the encoder and compare under the same one only.

    Source:
        FAVDBench (arXiv 2303.15616), whose score needs its own encoder of three modalities.
    """
    both = [(_unit(texts) * _unit(other)).sum(axis=1) for other in (sounds, pictures)]
    cosine = np.clip(sum(both) / 2, -1.0, 1.0)
    highest = np.exp(-np.log(2) * np.exp(-_STEEPNESS))
    return np.exp(-np.log(2) * np.exp(-_STEEPNESS * cosine)) / highest


def _cosines(
    a: Float[np.ndarray, "rows dim"], b: Float[np.ndarray, "columns dim"]
) -> Float[np.ndarray, "rows columns"]:
    return _unit(a) @ _unit(b).T


def _unit(vectors: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows dim"]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
