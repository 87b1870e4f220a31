"""MLM: masked words predicted from the words on both sides and from each group's media.

Source: BERT (arXiv 1810.04805) 3.1; the released configuration of VALOR-L, which the paper does not
mention, has it on the data sets without sound.
"""

from dataclasses import replace

from valor.config import configclass
from valor.models.decoder import Predictor, Remembered
from valor.objectives.base import LossTerm
from valor.objectives.captioning import Masking, written_terms
from valor.types import MEDIA_GROUPS, Batch, Modality, SpecialIds


@configclass
class MaskedLanguageConfig:
    """Which groups words are predicted from, and how texts are masked."""

    groups: tuple[Modality, ...] = MEDIA_GROUPS
    """Media that masked words are predicted from; one term for each."""
    weight: float = 1.0
    """Of the mean over groups, in the sum of all losses."""
    mask_fraction: float = 0.15
    """Share of the words that are predicted."""

    def __post_init__(self) -> None:
        """Reject a fraction that masks nothing or is none."""
        if not 0 < self.mask_fraction <= 1:
            raise ValueError(f"mask_fraction={self.mask_fraction}, wanted above 0 and at most 1")


def model_masked_language(
    encoded: Remembered,
    batch: Batch,
    decoder: Predictor,
    config: MaskedLanguageConfig,
    special: SpecialIds,
) -> dict[str, LossTerm]:
    """Predict masked words of each group's captions, with the words before and after in sight.

    Args:
        encoded: With the decoder's memory.
        batch: With `caption_texts`; a row counts for a group if it has text and all its media.
        decoder: Predicts words; one that is no `Decoder` of ours sees the words before only.
        config: Groups, weight and masking.
        special: The tokenizer's special ids.

    Returns:
        One term per group with texts, also if no row has its media.
    """
    masking = Masking(
        mask_id=special.mask,
        fraction=config.mask_fraction,
        # Other words than captioning masks in the same step.
        seeds=None if batch.row_seeds is None else batch.row_seeds + 1009,
        both_sides=True,
    )
    terms = written_terms(encoded, batch, decoder, config.groups, masking)
    return {
        f"mlm/{group.label}": replace(term, weight=config.weight / len(config.groups))
        for group, term in terms.items()
    }
