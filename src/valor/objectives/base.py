"""Loss terms: a value, its weight and how many rows it was computed from."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


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
