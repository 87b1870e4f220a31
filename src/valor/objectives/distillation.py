"""Distillation: what all modalities say together teaches what each says by itself.

The teacher is the mean of a row's text, vision and audio vectors in the shared space; each single
modality's mean is drawn towards it, which makes any of them a usable query for any other.

Source: the fused audio-video-text embedding of PE-AV as a target.
"""

from torch.nn import functional as F

from valor.config import configclass
from valor.models.fusion import join, pooled
from valor.models.valor import Encoded
from valor.objectives.base import LossTerm
from valor.types import AUDIOVISUAL, Modality


@configclass
class DistillationConfig:
    """Which modalities learn from the whole, and how much it counts."""

    students: tuple[Modality, ...] = (Modality.TEXT, Modality.VISION, Modality.AUDIO)
    """Modalities whose vector is drawn towards that of all three together."""
    weight: float = 0.5
    """Of the mean over students, in the sum of all losses."""

    def __post_init__(self) -> None:
        """Reject students that are no single modality."""
        if any(len(student) != 1 for student in self.students):
            raise ValueError("students are single modalities: text, vision or audio")


def distil(encoded: Encoded, config: DistillationConfig) -> dict[str, LossTerm]:
    """Draw the vectors of single modalities towards that of all three.

    Args:
        encoded: With `media` and the texts of the audiovisual group.
        config: Students and weight.

    Returns:
        One term per student, one minus its cosine with the teacher, which gets no gradient, mean
        over the rows that have all three; none if no batch could have such a row.
    """
    text = encoded.aligned_texts.get(AUDIOVISUAL)
    if text is None or any(modality not in encoded.media for modality in AUDIOVISUAL):
        return {}
    parts = {m: encoded.media[m] for m in AUDIOVISUAL} | {Modality.TEXT: text}
    rows = text.present & parts[Modality.VISION].present & parts[Modality.AUDIO].present
    num_rows = int(rows.sum())
    found = {modality: embeddings.select(rows) for modality, embeddings in parts.items()}
    teacher = pooled(join(found, AUDIOVISUAL | Modality.TEXT)).detach()
    return {
        f"distil/{student.label}": LossTerm(
            value=(1 - F.cosine_similarity(pooled(found[student]), teacher)).sum()
            / max(1, num_rows),
            weight=config.weight / len(config.students),
            num_rows=num_rows,
        )
        for student in config.students
    }
