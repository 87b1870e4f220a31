"""Loss terms: a value, its weight and how many rows it was computed from."""

from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from jaxtyping import Float
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


def total(terms: dict[str, LossTerm]) -> Float[Tensor, ""]:
    """Return the weighted sum of the terms; no term at all is a `ValueError`."""
    if not terms:
        raise ValueError("no row in this batch has the media and text that any objective needs")
    value = next(iter(terms.values())).value.new_zeros(())
    for term in terms.values():
        value = value + term.weight * term.value
    return value


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
            One term for each thing that the batch has rows for.
        """
        ...


OtherObjective = Annotated[Objective, ByKind()]
