"""Convert a released VALOR checkpoint, check the model on a video, and push it to the hub.

    python examples/push_released.py SOURCE OUT VIDEO [HUB-ID]

SOURCE is the released folder with `vocab.txt` of bert-base-uncased in it. Without HUB-ID nothing
leaves this machine. Nobody has stated a licence of the checkpoints, so the repository is private.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModel, AutoProcessor

import valor
from valor.checkpoints.official import convert
from valor.models.fusion import pooled
from valor.models.verbs import need_embedder


def main(source: str, out: str, video: str, hub_id: str = "") -> float:
    """Return how far the two ways of loading the folder are apart on the video."""
    convert(Path(source), Path(out))
    off = self_check(out, video)
    print(f"{out}: valor and transformers agree to {off:.1e}")
    print(f"{video}: {valor.load(out).caption(video).text}")
    if hub_id:
        AutoModel.from_pretrained(out).push_to_hub(hub_id, private=True)
        print(f"pushed to {hub_id}; valor.load({hub_id!r}) finds it")
    return off


def self_check(folder: str, video: str) -> float:
    """The largest difference between vectors by `valor.load` and by transformers' Auto classes."""
    valor.register_auto_classes()
    embedder = need_embedder(valor.load(folder))
    segment = embedder.read(video)
    processor = AutoProcessor.from_pretrained(folder)
    with torch.no_grad():
        theirs = AutoModel.from_pretrained(folder)(**processor(media=[segment]))
    names = {"vision": "video_embeds", "audio": "audio_embeds"}
    found = [
        (pooled(vectors) - theirs[names[modality.label]]).abs().max().item()
        for modality, vectors in embedder.embed_media([segment]).items()
    ]
    if not found or not max(found) < 1e-4:
        raise SystemExit(f"{folder}: vectors differ by {found}; do not publish it")
    return max(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
