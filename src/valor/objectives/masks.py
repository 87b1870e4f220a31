"""Classes per pixel: cross-entropy of the main head, and of the auxiliary one at a lower weight.

Source: TMANet (arXiv 2102.08643), section 4.2, and the released configuration.
"""

from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from valor.config import configclass
from valor.models.temporal_memory import MaskLogits
from valor.objectives.base import LossTerm


@configclass
class MaskObjectiveConfig:
    """What counts, and how much."""

    ignore_label: int = 255
    """Pixels of this label are not scored."""
    auxiliary_weight: float = 0.4
    """Of the auxiliary head's loss; the main one counts 1."""


def segment(
    logits: MaskLogits, labels: Int[Tensor, "batch height width"], config: MaskObjectiveConfig
) -> dict[str, LossTerm]:
    """Score the classes of all labelled pixels.

    Args:
        logits: Of the model.
        labels: The true class of each pixel.
        config: What counts.

    Returns:
        Terms `mask` and, where the model has its auxiliary head on, `mask/auxiliary`; none for a
        batch without any labelled pixel.
    """
    num_rows = int((labels != config.ignore_label).flatten(1).any(dim=1).sum())
    heads = {"mask": (logits.main, 1.0)}
    if logits.auxiliary is not None:
        heads["mask/auxiliary"] = (logits.auxiliary, config.auxiliary_weight)
    if not num_rows:
        return {}
    return {
        name: LossTerm(
            value=F.cross_entropy(scores.float(), labels, ignore_index=config.ignore_label),
            weight=weight,
            num_rows=num_rows,
        )
        for name, (scores, weight) in heads.items()
    }
