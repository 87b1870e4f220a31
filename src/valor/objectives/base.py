"""Loss terms: a value, its weight and how many rows it was computed from."""

from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from valor.config import ByKind
from valor.types import Batch, SpecialIds


@dataclass(slots=True, kw_only=True)
class LossTerm:
    """One named part of the loss."""

    value: Float[Tensor, ""]
    """Mean over the rows, in nats."""
    weight: float
    num_rows: int
    num_words: int | None = None
    """How many words `value` is the mean of, where it is not one of rows."""

    @property
    def num_items(self) -> int:
        """What `value` is the mean of: words or rows."""
        return self.num_rows if self.num_words is None else self.num_words


def total(terms: dict[str, LossTerm]) -> Float[Tensor, ""]:
    """Return the weighted sum of the terms; no term at all is a `ValueError`."""
    if not terms:
        raise ValueError("no row in this batch has the media and text that any objective needs")
    value = next(iter(terms.values())).value.new_zeros(())
    for term in terms.values():
        value = value + term.weight * term.value
    return value


def row_uniform(
    seeds: Int[Tensor, " rows"] | None, valid: Bool[Tensor, "rows length"], *, stream: int
) -> Float[Tensor, "rows length"]:
    """Draw numbers in [0, 1) that depend on their row's seed alone, not on the rows beside it.

    Args:
        seeds: Of the rows; None draws from torch's generator.
        valid: Gives shape and device.
        stream: Other streams are other numbers.

    Returns:
        The numbers, equal on every device (SplitMix64, its upper 24 bits).
    """
    if seeds is None:
        return torch.rand(valid.shape, device=valid.device)
    place = torch.arange(1, valid.shape[1] + 1, device=valid.device) + (stream << 32)
    x = seeds.to(valid.device)[:, None] + place * _GOLDEN
    for shift, factor in ((30, _MIX_1), (27, _MIX_2), (31, 1)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return ((x >> 40) & 0xFFFFFF).float() / (1 << 24)


# SplitMix64's constants (Steele, Lea, Flood 2014) as signed numbers.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


class Objective(Protocol):
    """A configuration that computes its own terms; its kind is `package.module:Class`."""

    def terms(
        self, encoded: Any, batch: Batch, decoder: Any, special: SpecialIds
    ) -> dict[str, LossTerm]:
        """Compute what is learned from a batch.

        Args:
            encoded: What the system's `forward` returned; encoders are not called again.
            batch: What it was called with.
            decoder: Of the system; None if it has none.
            special: The tokenizer's special ids.

        Returns:
            One term for each thing that the batch could have rows for, of 0 rows and value 0 where
            it has none: processes that share a step must run the same modules.
        """
        ...


OtherObjective = Annotated[Objective, ByKind()]
