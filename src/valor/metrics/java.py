"""METEOR and SPICE by their own Java programs, where a user has them; absent otherwise.

The package `pycocoevalcap` holds METEOR's program; SPICE's looks for its models on the network when
it first runs. What is missing is said in words, and is never a score of zero.
"""

import contextlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from valor.metrics.ptb import tokenize

_NAMES = ("meteor", "spice")


@dataclass(frozen=True, slots=True)
class JavaScores:
    """What the programs gave."""

    corpus: dict[str, float]
    """METEOR of a corpus is not the mean of its items: it adds up their matches first."""
    by_item: dict[str, Float[np.ndarray, " items"]]
    absent: dict[str, str]
    """Why a metric is not there."""


def java_scores(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, asked: bool = True
) -> JavaScores:
    """Score captions by METEOR and SPICE.

    Args:
        candidates: One caption per item.
        references: The reference captions of each item.
        asked: Whether a user wants them; they take long.

    Returns:
        The scores of those that are there, and why others are absent.
    """
    found = JavaScores({}, {}, {})
    if not asked:
        return JavaScores({}, {}, dict.fromkeys(_NAMES, "not asked for; use --java"))
    if shutil.which("java") is None:
        return JavaScores({}, {}, dict.fromkeys(_NAMES, "no Java on the path"))
    if importlib.util.find_spec("pycocoevalcap") is None:
        reason = 'no pycocoevalcap; run `pip install "valor-omni[eval]"`'
        return JavaScores({}, {}, dict.fromkeys(_NAMES, reason))
    given = {row: [" ".join(tokenize(text))] for row, text in enumerate(candidates)}
    truth = {
        row: [" ".join(tokenize(text)) for text in texts] for row, texts in enumerate(references)
    }
    for name in _NAMES:
        try:
            found.corpus[name], found.by_item[name] = _run(name, truth, given)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            found.absent[name] = f"its program failed: {error}"
    return found


def _run(
    name: str, truth: dict[int, list[str]], given: dict[int, list[str]]
) -> tuple[float, Float[np.ndarray, " items"]]:
    """Score of the corpus and of each item; what the package prints goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        if name == "meteor":
            from pycocoevalcap.meteor.meteor import (  # pyright: ignore[reportMissingImports]
                Meteor,
            )

            scorer = Meteor()
            try:
                corpus, items = scorer.compute_score(truth, given)
            finally:
                # The package waits for ever for a lock that it held when its program failed.
                if scorer.lock.locked():
                    scorer.lock.release()
                for pipe in (scorer.meteor_p.stdout, scorer.meteor_p.stderr):
                    if pipe is not None:
                        pipe.close()
            return float(corpus), np.array(items, dtype=float)
        from pycocoevalcap.spice.spice import Spice  # pyright: ignore[reportMissingImports]

        corpus, items = Spice().compute_score(truth, given)
        return float(corpus), np.array([item["All"]["f"] for item in items])
