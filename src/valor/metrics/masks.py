"""Mean intersection over union of masks with one class per pixel.

Counts of pixels by true and predicted class add up in a `Confusion`, over any parts in any order,
so that the mean over classes is one of all pixels and not a mean of pictures' means.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from valor.errors import ValorError

IGNORED = 255
"""The label of pixels that are not scored."""


@dataclass(frozen=True, slots=True)
class Confusion:
    """How many pixels of each true class were taken for each class."""

    counts: Int[np.ndarray, "classes classes"]
    """True classes down, predicted ones across."""

    @classmethod
    def of(
        cls,
        predicted: Int[np.ndarray, "*pixels"],
        true: Int[np.ndarray, "*pixels"],
        num_classes: int,
    ) -> "Confusion":
        """Count the pixels of some masks.

        Args:
            predicted: The class of each pixel.
            true: Its true class, or `IGNORED`.
            num_classes: What a pixel can be.

        Returns:
            Their counts.

        Raises:
            ValorError: If the sizes differ, or a class is none of `num_classes`.
        """
        if predicted.shape != true.shape:
            raise ValorError(f"masks of sizes {predicted.shape} and {true.shape}, wanted the same")
        scored = true != IGNORED
        rows, columns = (x[scored].astype(np.int64) for x in (true, predicted))
        highest = max(rows.max(initial=0), columns.max(initial=0))
        if min(rows.min(initial=0), columns.min(initial=0)) < 0 or highest >= num_classes:
            raise ValorError(f"a mask has class {highest}, wanted 0 to {num_classes - 1}")
        flat = np.bincount(rows * num_classes + columns, minlength=num_classes**2)
        return cls(flat.reshape(num_classes, num_classes))

    def merge(self, other: "Confusion") -> "Confusion":
        """Both parts together."""
        return Confusion(self.counts + other.counts)

    def by_class(self) -> list[float]:
        """Intersection over union of each class; NaN for one that is neither true nor predicted."""
        both = np.diag(self.counts)
        either = self.counts.sum(axis=0) + self.counts.sum(axis=1) - both
        return [int(b) / int(e) if e else float("nan") for b, e in zip(both, either, strict=True)]

    def compute(self) -> dict[str, float]:
        """Turn the counts into rates.

        Returns:
            `mean_iou` over the classes that are true or predicted anywhere, `pixel_accuracy`, and
            `num`, how many pixels were scored.

        Raises:
            ValorError: If no pixel was scored.
        """
        num = int(self.counts.sum())
        if num == 0:
            raise ValorError("no pixel to score")
        return {
            "mean_iou": float(np.nanmean(self.by_class())),
            "pixel_accuracy": int(np.trace(self.counts)) / num,
            "num": num,
        }
