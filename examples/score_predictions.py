"""Score what another model predicted: captions against references, and a matrix of scores.

    python examples/score_predictions.py CAPTIONS.json REFERENCES.json [SCORES.npy]

CAPTIONS maps an id to a text, REFERENCES an id to a list of texts. SCORES has a row per text and a
column per video; the match of row i is column i. `valor score` reads more layouts than these.
"""

import json
import sys
from pathlib import Path

import numpy as np

from valor.metrics.captioning import caption_report
from valor.metrics.retrieval import retrieval_report


def main(captions: str, references: str, scores: str | None = None) -> dict[str, object]:
    """Print and return all figures; rates are in [0, 1]."""
    said = json.loads(Path(captions).read_text(encoding="utf-8"))
    right = json.loads(Path(references).read_text(encoding="utf-8"))
    if said.keys() != right.keys():
        raise SystemExit(f"ids differ: {sorted(said.keys() ^ right.keys())[:5]}")
    ids = sorted(said)
    report: dict[str, object] = {
        "captions": caption_report([said[id] for id in ids], [right[id] for id in ids])
    }
    if scores:
        report["retrieval"] = retrieval_report(np.load(scores))
    print(json.dumps(report, indent=2))
    return report


if __name__ == "__main__":
    main(*sys.argv[1:])
