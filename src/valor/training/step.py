"""One training step: encode, compute the loss terms, go backward."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from valor.config import configclass
from valor.data.collate import Place, batch_of, tensors_of
from valor.models.fusion import token_weights
from valor.models.valor import Encoded
from valor.objectives.alignment import AlignmentConfig, align
from valor.objectives.answering import AnsweringConfig, answer
from valor.objectives.base import LossTerm, OtherObjective, total
from valor.objectives.captioning import CaptioningConfig, caption
from valor.objectives.distillation import DistillationConfig, distil
from valor.objectives.masked_language import MaskedLanguageConfig, model_masked_language
from valor.objectives.matching import MatchingConfig, match
from valor.objectives.self_critical import Reward, SelfCriticalConfig, criticise
from valor.training.parallel import (
    Parallel,
    averaged,
    gathered,
    gathered_embeddings,
    in_parallel,
    layers_of,
    levelled,
)
from valor.types import MEDIA_GROUPS, Batch, Embeddings, Modality, SpecialIds


@configclass
class ObjectivesConfig:
    """What is learned; None leaves an objective out."""

    alignment: AlignmentConfig | None = AlignmentConfig()
    """Texts and media of one recording become similar, those of different ones dissimilar."""
    captioning: CaptioningConfig | None = CaptioningConfig()
    """Captions are written from media."""
    answering: AnsweringConfig | None = None
    """Questions are answered from media."""
    masked_language: MaskedLanguageConfig | None = None
    """Masked words are predicted from both sides and media."""
    matching: MatchingConfig | None = None
    """Needs a model with `matches`."""
    distillation: DistillationConfig | None = None
    """Single modalities learn from all three together."""
    self_critical: SelfCriticalConfig | None = None
    """Rewards captions that the model writes; to go on with after `captioning`."""
    others: tuple[OtherObjective, ...] = ()
    """Of other systems, and from outside the package."""

    @property
    def describes(self) -> bool:
        """True if anything learns from what the decoder says of media."""
        return bool(self._writes or self.answering or self.others)

    def needed(self, batch: Batch) -> Batch:
        """Leave out texts that nothing learns from, so that no encoder or decoder reads them."""
        compares = self.alignment or self.matching or self.distillation
        return replace(
            batch,
            aligned_texts=batch.aligned_texts if compares or self.others else {},
            caption_texts=batch.caption_texts if self._writes or self.others else {},
            questions=batch.questions if self.answering or self.others else [],
        )

    @property
    def _writes(self) -> bool:
        """True if anything learns from captions that the decoder reads or writes."""
        ways = self.captioning, self.masked_language, self.matching, self.self_critical
        return any(ways)


@configclass
class PartConfig:
    """A part of the data that has steps of its own."""

    name: str
    """Ids of its records begin with it and `/`, as `--data NAME=...` makes them."""
    weight: float = 1.0
    """How often a step sees it, to any scale."""
    groups: tuple[Modality, ...] = MEDIA_GROUPS
    """Groups that learn from it. What is in none of them, such as the sound of recordings whose
    texts never speak of it, is left out."""
    objectives: ObjectivesConfig | None = None
    """What is learned from it; None takes the run's."""

    def __post_init__(self) -> None:
        """Reject a part that nothing can be learned from."""
        if not self.name or "/" in self.name or not self.groups or not self.weight > 0:
            raise ValueError("a part needs a name without /, a weight above 0 and groups")


@configclass
class ComputeConfig:
    """How a step is computed. What it learns is the same, so a run may go on with another way."""

    parallel: Parallel = "ddp"
    """What processes that `torchrun` starts share: with `ddp` each holds the whole model, with
    `fsdp` (FSDP2) a part of every weight, its gradient and its moments. `none` is for a process
    that is alone, which shares nothing whatever stands here."""
    micro_batch: int | None = None
    """Rows that a process computes at a time, twice each, for batches larger than memory; texts are
    still contrasted with the whole batch, but matched with these rows alone. None computes all
    rows at once."""
    recompute_layers: bool = False
    """Compute the layers of encoders and decoder again for the gradients, instead of keeping what
    they made: half the memory for a third more time."""
    compile: bool = False
    """Compile the media encoders' layers with torch.compile, which takes a minute at the start and
    on a CPU needs a C++ compiler. Texts change their length with every step, so that their layers
    would be compiled over and over."""

    def __post_init__(self) -> None:
        """Reject impossible values."""
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"micro_batch={self.micro_batch} must be at least 1")


class Losses(nn.Module):
    """A model and its objectives as one module, which is what ranks share.

    Args:
        model: Of any system.
        config: What is learned from batches that come without objectives of their own.
        special: The tokenizer's special ids.
        micro_batch: Rows that are computed at a time. Their activations are computed again when
            gradients need them, with the same random numbers, so that memory holds those of so
            many rows; texts are still contrasted with all rows, but matched with these alone. None
            computes all rows at once.
        reward: Of texts that the model writes, if an objective needs it.

    Source:
        GradCache (arXiv 2101.06983), by PyTorch's activation checkpoints.
    """

    def __init__(
        self,
        model: nn.Module,
        config: ObjectivesConfig,
        special: SpecialIds,
        micro_batch: int | None = None,
        reward: Reward | None = None,
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.config, self.special, self.micro_batch = config, special, micro_batch
        self.reward = reward
        self.figures: dict[str, float] = {}
        """What the last step is worth a curve for beside its terms."""

    def forward(
        self, batch: Batch, objectives: ObjectivesConfig | None = None
    ) -> dict[str, tuple[Float[Tensor, ""], LossTerm]]:
        """Compute every term that the rows of any rank give.

        The values stand alone too, because DDP and FSDP look for tensors in plain containers.

        Args:
            batch: This rank's rows.
            objectives: What is learned from this step, the same on all ranks; None is the config's.

        Returns:
            Values and terms by name.
        """
        config, self.figures = objectives or self.config, {}
        batch = levelled(config.needed(batch))
        tensors = tensors_of(batch)
        num_rows = len(next(iter(tensors.values()), ()))
        size = self.micro_batch or num_rows
        if num_rows <= size:
            parts = [self._part(config, batch.ids, tensors)]
        else:
            cuts = [slice(first, first + size) for first in range(0, num_rows, size)]
            parts = [
                checkpoint(
                    self._part,
                    config,
                    batch.ids[cut],
                    {place: tensor[cut] for place, tensor in tensors.items()},
                    use_reentrant=False,
                )
                for cut in cuts
            ]
        terms: dict[str, LossTerm] = {}
        if config.alignment:
            terms |= self._contrast([encoded for encoded, _ in parts], batch, config.alignment)
        terms |= averaged(_mean([terms for _, terms in parts]))
        return {name: (term.value, term) for name, term in terms.items()}

    def _part(
        self, config: ObjectivesConfig, ids: list[str], tensors: dict[Place, Tensor]
    ) -> tuple[Any, dict[str, LossTerm]]:
        """Encode some rows; returns their embeddings, and the terms that each row has alone."""
        batch = batch_of(ids, tensors)
        encoded = self.model(batch)
        decoder: Any = getattr(self.model, "decoder", None)
        terms: dict[str, LossTerm] = {}
        if config.captioning:
            terms |= caption(encoded, batch, decoder, config.captioning, self.special)
        if config.answering:
            terms |= answer(encoded, batch, decoder, config.answering, self.special)
        if config.masked_language:
            own = config.masked_language
            terms |= model_masked_language(encoded, batch, decoder, own, self.special)
        if config.matching:
            terms |= match(encoded, batch, decoder, self.model.match_head, config.matching)
        if config.distillation:
            terms |= distil(encoded, config.distillation)
        if config.self_critical:
            own = config.self_critical
            terms |= criticise(encoded, batch, decoder, self.reward, own, self.special)
        for objective in config.others:
            terms |= objective.terms(encoded, batch, decoder, self.special)
        return replace(encoded, memory=None) if config.alignment else None, terms

    def _contrast(
        self, parts: list[Encoded], batch: Batch, config: AlignmentConfig
    ) -> dict[str, LossTerm]:
        """Compare the rows of all parts and of all ranks."""
        encoded = replace(
            parts[0],
            media=_joined([part.media for part in parts]),
            aligned_texts=_joined([part.aligned_texts for part in parts]),
        )
        known = {**encoded.media, Modality.TEXT: next(iter(encoded.aligned_texts.values()), None)}
        self.figures = {
            f"token_weight/{modality.label}": _largest_weight(embeddings)
            for modality, embeddings in known.items()
            if embeddings is not None
        }
        texts = {
            group: replace(text, token_ids=gathered(text.token_ids), valid=gathered(text.valid))
            for group, text in batch.aligned_texts.items()
        }
        return align(encoded, replace(batch, aligned_texts=texts), config)


@torch.no_grad()
def _largest_weight(embeddings: Embeddings) -> float:
    """How much the token counts that matters most: the mean over rows that have any."""
    largest = token_weights(embeddings).amax(dim=1)
    return float(largest.sum() / embeddings.present.sum().clamp(min=1))


def _joined(parts: list[dict[Modality, Embeddings]]) -> dict[Modality, Embeddings]:
    """One part behind the other, those of all ranks."""
    return {
        group: gathered_embeddings(
            Embeddings(
                vectors=torch.cat([part[group].vectors for part in parts]),
                weight_logits=torch.cat([part[group].weight_logits for part in parts]),
                valid=torch.cat([part[group].valid for part in parts]),
            )
        )
        for group in parts[0]
    }


def _mean(parts: list[dict[str, LossTerm]]) -> dict[str, LossTerm]:
    """Terms of all rows from those of some each."""
    if len(parts) == 1:
        return parts[0]
    terms: dict[str, LossTerm] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        found = [part[name] for part in parts if name in part]
        num_items = sum(term.num_items for term in found)
        terms[name] = replace(
            found[0],
            value=torch.stack([term.value * term.num_items for term in found]).sum()
            / max(1, num_items),
            num_rows=sum(term.num_rows for term in found),
            num_words=None if found[0].num_words is None else num_items,
        )
    return terms


def loss_terms(
    model: Any, batch: Batch, config: ObjectivesConfig, special: SpecialIds
) -> dict[str, LossTerm]:
    """Compute every term that the batch has rows for."""
    return found_terms(Losses(model, config, special)(batch))


def shared_losses(
    model: nn.Module,
    config: ObjectivesConfig,
    special: SpecialIds,
    compute: ComputeConfig,
    reward: Reward | None = None,
) -> nn.Module:
    """Model and objectives as all ranks train them, in the way that was asked for.

    Args:
        model: The parameters to train; its layers are changed in place.
        config: What is learned.
        special: The tokenizer's special ids.
        compute: How.
        reward: Of texts that the model writes, if an objective needs it.

    Returns:
        To be called with a batch; see `found_terms`.
    """
    layers = layers_of(model)
    if compute.compile:
        encoders = [part for name, part in model.named_children() if name in ("vision", "audio")]
        for layer in (layer for encoder in encoders for layer in layers_of(encoder)):
            layer.forward = torch.compile(layer.forward)
    if compute.recompute_layers:
        for layer in layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    if reward is not None and isinstance(decoder := getattr(model, "decoder", None), nn.Module):
        # Ranks write texts of other lengths, so they cannot gather layers together meanwhile.
        writing = set(decoder.modules())
        layers = [layer for layer in layers if layer not in writing]
    losses = Losses(model, config, special, compute.micro_batch, reward)
    return in_parallel(losses, compute.parallel, layers)


def found_terms(found: dict[str, tuple[Float[Tensor, ""], LossTerm]]) -> dict[str, LossTerm]:
    """What a shared `Losses` returned, with the values that ranks were made to agree on."""
    return {name: replace(term, value=value) for name, (value, term) in found.items()}


def last_figures(shared: nn.Module) -> dict[str, float]:
    """What a shared `Losses` noted beside its terms when it was last called."""
    return dict(next(part for part in shared.modules() if isinstance(part, Losses)).figures)


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
