"""Say which of some sounds a recording holds, with a model that was never trained on them.

python examples/zero_shot_sounds.py MODEL FILE "a dog barks" "a bell rings" ...
"""

import sys

import valor
from valor.models.fusion import join, similarity
from valor.models.verbs import need_embedder
from valor.types import Modality


def main(model: str, path: str, *labels: str) -> dict[str, float]:
    """Print the labels, the likeliest first, and return their scores in [-1, 1]."""
    embedder = need_embedder(valor.load(model))
    segment = embedder.read(path)
    media = embedder.embed_media([segment])
    if Modality.AUDIO not in media:
        raise SystemExit(f"{path} has no sound, or {model} does not hear")
    texts = embedder.embed_text(labels)
    scores = similarity(texts, join(media, Modality.AUDIO))[:, 0].tolist()
    ranked = dict(sorted(zip(labels, scores, strict=True), key=lambda pair: -pair[1]))
    for label, score in ranked.items():
        print(f"{score:6.3f}  {label}")
    return ranked


if __name__ == "__main__":
    main(*sys.argv[1:])
