"""What a model said, in the formats that others' scorers read.

Captions as COCO results, answers as VQA results, retrieval as TREC runs: one file for each group of
modalities that the model was given.
"""

import json
from pathlib import Path
from typing import Any

from valor.evaluation.outputs import EvaluatedModel, Outputs
from valor.evaluation.pools import best_items
from valor.evaluation.run import query_pool
from valor.metrics.ranking import numbered
from valor.metrics.trec import write_run
from valor.types import MEDIA_GROUPS

_RUN_LENGTH = 100


def write_predictions(folder: Path, model: EvaluatedModel, outputs: Outputs) -> list[Path]:
    """Write everything that the model said.

    Args:
        folder: Made if needed; gets `captions.GROUP.json`, `answers.GROUP.json`, and
            `retrieval.GROUP.trec` with the best 100 items of each caption.
        model: Embeds the captions, if it embeds.
        outputs: Of the same model.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for group, captions in outputs.captions.items():
        rows = [
            {"image_id": record.id, "caption": caption}
            for record, caption in zip(outputs.records, captions, strict=True)
            if caption is not None
        ]
        files.append(write_json(folder / f"captions.{group.label}.json", rows))
    for group, answers in outputs.answers.items():
        rows = [
            {"question_id": id, "answer": answer}
            for id, answer in zip(outputs.question_ids, answers, strict=True)
        ]
        files.append(write_json(folder / f"answers.{group.label}.json", rows))
    for group in MEDIA_GROUPS:
        pool = query_pool(model, outputs, group)
        if pool is None:
            continue
        ids = [outputs.records[row].id for row in pool.rows]
        scores, items = best_items(pool.words, pool.media, _RUN_LENGTH)
        path = folder / f"retrieval.{group.label}.trec"
        queries = numbered([ids[item] for item in map(int, pool.owner)])
        found = [[ids[int(item)] for item in row] for row in items]
        write_run(path, queries, found, scores, name=model.fingerprint)
        files.append(path)
    return files


def write_json(path: Path, content: Any) -> Path:
    """Write JSON; the file is replaced only when all of it is written."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return partial.replace(path)
