"""Put one vector per segment into a vector store of your own; here that store is a numpy matrix.

    python examples/own_vector_store.py MODEL "what to look for" FILE...

A vector is the weighted mean of a segment's tokens. `valor.Library` compares the tokens themselves,
which finds more; vectors alone are for stores that hold nothing else.
"""

import sys

import numpy as np

import valor
from valor.models.fusion import pooled
from valor.models.verbs import need_embedder
from valor.types import AUDIOVISUAL


class Store:
    """The least that a vector store does: keep vectors with a payload, and find the nearest."""

    def __init__(self) -> None:
        self.vectors: list[np.ndarray] = []
        self.payloads: list[dict[str, object]] = []

    def add(self, vector: np.ndarray, payload: dict[str, object]) -> None:
        """Keep a unit vector."""
        self.vectors.append(vector)
        self.payloads.append(payload)

    def nearest(self, query: np.ndarray, limit: int) -> list[tuple[float, dict[str, object]]]:
        """Cosine and payload of the vectors that fit best."""
        scores = np.stack(self.vectors) @ query
        return [(float(scores[row]), self.payloads[row]) for row in np.argsort(-scores)[:limit]]


def main(model: str, query: str, *paths: str) -> list[tuple[float, dict[str, object]]]:
    """Fill the store, search it, print and return the three nearest."""
    embedder, store = valor.load(model), Store()
    asked = need_embedder(embedder).embed_text([query])
    for path in paths:
        for start_s, end_s, vectors in embedder.embed(path):
            for group, vector in vectors.items():
                if group == AUDIOVISUAL:  # Segments with one modality have a vector of that group.
                    store.add(vector, {"path": path, "start_s": start_s, "end_s": end_s})
    nearest = store.nearest(pooled(asked)[0].numpy(), limit=3)
    for score, payload in nearest:
        print(f"{score:.3f}  {payload}")
    return nearest


if __name__ == "__main__":
    main(*sys.argv[1:])
