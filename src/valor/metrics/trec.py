"""Ranked lists as TREC run files, which `trec_eval` and its relatives read."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float


def write_run(
    path: Path,
    queries: Sequence[str],
    items: Sequence[Sequence[str]],
    scores: Float[np.ndarray, "queries items"],
    *,
    name: str = "valor",
) -> None:
    """Write lines of `query Q0 item rank score name`; `path` is replaced when all is written.

    Args:
        path: The run file.
        queries: Ids; spaces in them become `_`.
        items: Ids of each query's items, the best first.
        scores: Of the same.
        name: Of the run.
    """
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        for query, own, values in zip(queries, items, scores, strict=True):
            for rank, (item, value) in enumerate(zip(own, values, strict=True), start=1):
                ids = (query.replace(" ", "_"), item.replace(" ", "_"))
                file.write(f"{ids[0]} Q0 {ids[1]} {rank} {float(value):.9g} {name}\n")
    partial.replace(path)
