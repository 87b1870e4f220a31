"""A stranger's metric: how many different words a model's captions have, per caption."""

from valor.evaluation.run import Outputs


def richness(outputs: Outputs) -> dict[str, float]:
    words = {
        group.label: [caption.split() for caption in captions if caption is not None]
        for group, captions in outputs.captions.items()
    }
    return {
        label: len({word for caption in captions for word in caption}) / len(captions)
        for label, captions in words.items()
    }
