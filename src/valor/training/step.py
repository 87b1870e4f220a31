"""One training step: encode, compute the loss terms, go backward."""

from typing import Any

from valor.config import configclass
from valor.objectives.alignment import AlignmentConfig, align
from valor.objectives.answering import AnsweringConfig, answer
from valor.objectives.base import LossTerm, OtherObjective, total
from valor.objectives.captioning import CaptioningConfig, caption
from valor.objectives.distillation import DistillationConfig, distil
from valor.objectives.masked_language import MaskedLanguageConfig, model_masked_language
from valor.objectives.matching import MatchingConfig, match
from valor.types import Batch, SpecialIds


@configclass
class ObjectivesConfig:
    """What is learned; None leaves an objective out."""

    alignment: AlignmentConfig | None = AlignmentConfig()
    captioning: CaptioningConfig | None = CaptioningConfig()
    answering: AnsweringConfig | None = None
    masked_language: MaskedLanguageConfig | None = None
    matching: MatchingConfig | None = None
    """Needs a model with `matches`."""
    distillation: DistillationConfig | None = None
    others: tuple[OtherObjective, ...] = ()
    """Of other systems, and from outside the package."""


def loss_terms(
    model: Any, batch: Batch, config: ObjectivesConfig, special: SpecialIds
) -> dict[str, LossTerm]:
    """Compute every term that the batch has rows for."""
    encoded = model(batch)
    terms: dict[str, LossTerm] = {}
    if config.alignment:
        terms |= align(encoded, batch, config.alignment)
    if config.captioning:
        terms |= caption(encoded, batch, model.decoder, config.captioning, special)
    if config.answering:
        terms |= answer(encoded, batch, model.decoder, config.answering, special)
    if config.masked_language:
        own = config.masked_language
        terms |= model_masked_language(encoded, batch, model.decoder, own, special)
    if config.matching:
        terms |= match(encoded, batch, model.decoder, model.match_head, config.matching)
    if config.distillation:
        terms |= distil(encoded, config.distillation)
    for objective in config.others:
        terms |= objective.terms(encoded, batch, getattr(model, "decoder", None), special)
    return terms


def backward(terms: dict[str, LossTerm]) -> dict[str, float]:
    """Accumulate gradients of the whole loss.

    Args:
        terms: Of one batch.

    Returns:
        The value of every term and of their weighted sum, `loss`; nothing, and no gradient, for a
        batch in which no row has what any objective needs.
    """
    if not terms:
        return {}
    loss = total(terms)
    loss.backward()
    return {"loss": loss.item(), **{name: term.value.item() for name, term in terms.items()}}
