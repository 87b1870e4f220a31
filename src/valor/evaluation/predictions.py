"""What a model said, in the formats that others' scorers read.

Captions as COCO results, answers as VQA results, retrieval as TREC runs: one file for each group of
modalities that the model was given.
"""

import json
from pathlib import Path
from typing import Any

from valor.evaluation.options import Options
from valor.evaluation.outputs import EvaluatedModel, Outputs
from valor.evaluation.pools import best_items
from valor.evaluation.retrieval import query_pool
from valor.metrics.ranking import numbered
from valor.metrics.trec import write_run
from valor.types import Modality

_RUN_LENGTH = 100


def write_predictions(
    folder: Path, model: EvaluatedModel, outputs: Outputs, options: Options
) -> list[Path]:
    """Write everything that the model said.

    Args:
        folder: Made if needed; gets `captions.GROUP.json`, `answers.GROUP.json`, and
            `retrieval.GROUP.trec` with the best 100 items of each caption.
        model: Embeds the captions, if it embeds.
        outputs: Of the same model.
        options: Which groups, and how many captions of each record are searched for.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for group in options.groups:
        captions = outputs.captions.get(group, [])
        said = [
            {"image_id": record.id, "caption": caption}
            for record, caption in zip(outputs.records, captions, strict=bool(captions))
            if caption is not None
        ]
        if said:
            files.append(write_json(folder / f"captions.{group.label}.json", said))
        answers = outputs.answers.get(group, [])
        answered = [
            {"question_id": id, "answer": answer}
            for id, answer in zip(outputs.question_ids, answers, strict=bool(answers))
        ]
        if answered:
            files.append(write_json(folder / f"answers.{group.label}.json", answered))
        path = folder / f"retrieval.{group.label}.trec"
        if _write_retrieval(path, model, outputs, group, options.captions_per_item):
            files.append(path)
    return files


def _write_retrieval(
    path: Path,
    model: EvaluatedModel,
    outputs: Outputs,
    group: Modality,
    captions_per_item: int | None,
) -> bool:
    """Write the best items of each caption, if the group has both."""
    pool = query_pool(model, outputs, group, captions_per_item=captions_per_item)
    if pool is None:
        return False
    ids = [outputs.records[row].id for row in pool.rows]
    scores, items = best_items(pool.words, pool.media, _RUN_LENGTH)
    queries = numbered([ids[item] for item in map(int, pool.owner)])
    found = [[ids[int(item)] for item in row] for row in items]
    write_run(path, queries, found, scores, name=model.fingerprint)
    return True


def write_json(path: Path, content: Any) -> Path:
    """Write JSON; the file is replaced only when all of it is written."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return partial.replace(path)
