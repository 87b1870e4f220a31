"""`valor score`: the metrics alone, over files of predictions; no model is needed.

Captions and answers are matched by id. Both sides must name the same ids: a score over the part
that happens to be there would not be the score of the set.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from valor.cli.arguments import Json, parse_kind
from valor.errors import ValorError
from valor.metrics import answering, captioning, retrieval

_ID_FIELDS = ("image_id", "video_id", "question_id", "id")
_CAPTION_FIELDS = ("caption", "captions", "desc")
_ANSWER_FIELDS = ("answer", "answers")
_TYPE_FIELDS = ("type", "question_type")
_VQA_ANNOTATORS = 10


@dataclass(frozen=True, kw_only=True)
class Captions:
    """BLEU, ROUGE-L, CIDEr-D and language statistics of captions."""

    candidates: Path
    """JSON: {id: caption}, or a list of {"image_id" or "video_id", "caption"} (COCO results)."""
    references: Path
    """JSON: {id: [captions]}, or COCO annotations, or a list of the same records."""
    as_json: Json = False
    """Print JSON on stdout."""

    def score(self) -> dict[str, Any]:
        """Compute the report over the corpus."""
        candidates = {
            id: _single(texts, f"{self.candidates}: {id}")
            for id, texts in _read_texts(self.candidates, _CAPTION_FIELDS).items()
        }
        references = _read_texts(self.references, _CAPTION_FIELDS)
        _check_ids(candidates, references, self.candidates, self.references)
        ids = sorted(candidates)
        texts = [candidates[id] for id in ids]
        return {
            "corpus": captioning.caption_report(texts, [references[id] for id in ids]),
            "language": captioning.language_report(texts),
        }


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Recall, ranks and MRR of a score matrix, in both directions."""

    scores: Path
    """A .npy matrix: a row for each text, a column for each media item, higher is better."""
    captions_per_item: int = 1
    """Texts of each item; they follow each other in the rows."""
    ties: retrieval.Ties = "pessimistic"
    """Where the match stands among equal scores."""
    as_json: Json = False
    """Print JSON on stdout."""

    def score(self) -> dict[str, Any]:
        """Compute the report of both directions."""
        scores = _read_matrix(self.scores)
        try:
            return retrieval.retrieval_report(
                scores, captions_per_item=self.captions_per_item, ties=self.ties
            )
        except ValorError as error:
            raise ValorError(f"{self.scores}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Accuracy of short answers; soft VQA accuracy too, where every question has ten answers."""

    predictions: Path
    """JSON: {id: answer}, or a list of {"question_id", "answer"} (VQA results)."""
    answers: Path
    """JSON: {id: answer or [answers]}, or VQA annotations, or a list of the same records."""
    as_json: Json = False
    """Print JSON on stdout."""

    def score(self) -> dict[str, Any]:
        """Compute accuracies over all questions, and by type where the answers name one."""
        predictions = {
            id: _single(texts, f"{self.predictions}: {id}")
            for id, texts in _read_texts(self.predictions, _ANSWER_FIELDS).items()
        }
        answers = _read_texts(self.answers, _ANSWER_FIELDS)
        _check_ids(predictions, answers, self.predictions, self.answers)
        correct = {id: answering.exact_match(text, answers[id]) for id, text in predictions.items()}
        report: dict[str, Any] = answering.Accuracy.of(correct.values()).compute()
        if all(len(texts) == _VQA_ANNOTATORS for texts in answers.values()):
            soft = [answering.soft_accuracy(text, answers[id]) for id, text in predictions.items()]
            report["soft_accuracy"] = answering.Accuracy.of(soft).compute()["accuracy"]
        types = _read_types(self.answers)
        if types:
            typed = sorted(types.keys() & correct.keys())
            report["by_type"] = answering.accuracy_by(
                [types[id] for id in typed], [correct[id] for id in typed]
            )
        return report


_KINDS = {"captions": Captions, "retrieval": Retrieval, "answers": Answers}


def main(argv: Sequence[str]) -> int:
    """Run `valor score captions|retrieval|answers` and print the report.

    Args:
        argv: The arguments after `valor score`.

    Returns:
        The exit code 0.

    Raises:
        ValorError: If a file cannot be read or does not fit the others; names file and field.
        UsageError: If the arguments are wrong.
        SystemExit: With code 0, after `--help`.
    """
    arguments = parse_kind(_KINDS, argv, verb="score")
    report = arguments.score()
    print(json.dumps(report, indent=2) if arguments.as_json else _table(report))
    return 0


def _table(report: Mapping[str, Any], indent: str = "") -> str:
    """Lay out a nested report as one line for each number."""
    lines = []
    for name, value in report.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{name}", _table(value, indent + "  ")]
        else:
            number = f"{value:.4f}" if isinstance(value, float) else str(value)
            lines.append(f"{indent}{name:<{24 - len(indent)}}{number:>10}")
    return "\n".join(lines)


def _read_matrix(path: Path) -> np.ndarray:
    try:
        scores = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValorError(f"{path}: not a readable .npy array ({error})") from None
    if not isinstance(scores, np.ndarray) or scores.ndim != 2:
        shape = getattr(scores, "shape", "an archive")
        raise ValorError(f"{path}: expected a matrix (texts, media), got {shape}")
    if scores.dtype.kind not in "fiu":
        raise ValorError(f"{path}: expected real numbers, got {scores.dtype}")
    return scores.astype(np.float64)


def _read_json(path: Path) -> object:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValorError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ValorError(f"{path}: not JSON ({error})") from None
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        return content["annotations"]
    return content


def _read_texts(path: Path, fields: tuple[str, ...]) -> dict[str, list[str]]:
    """Read texts by id from any of the accepted layouts."""
    content = _read_json(path)
    texts: dict[str, list[str]] = {}
    if isinstance(content, dict):
        for id, value in content.items():
            texts[id] = _texts(value, f"{path}: {id}")
    elif isinstance(content, list):
        for index, record in enumerate(content):
            where = f"{path}: record {index}"
            id = str(_field(record, _ID_FIELDS, where))
            texts.setdefault(id, []).extend(_texts(_field(record, fields, where), where))
    else:
        raise ValorError(f"{path}: expected an object or a list, got {type(content).__name__}")
    if not texts:
        raise ValorError(f"{path}: no record")
    return texts


def _read_types(path: Path) -> dict[str, str]:
    """Read the question type by id; empty for a layout without types."""
    content = _read_json(path)
    records = content if isinstance(content, list) else []
    return {
        str(_field(record, _ID_FIELDS, str(path))): str(record[name])
        for record in records
        for name in _TYPE_FIELDS
        if name in record
    }


def _field(record: object, names: tuple[str, ...], where: str) -> object:
    if not isinstance(record, dict):
        raise ValorError(f"{where}: expected an object, got {type(record).__name__}")
    for name in names:
        if name in record:
            return record[name]
    raise ValorError(f"{where}: no field {' or '.join(map(repr, names))}")


def _texts(value: object, where: str) -> list[str]:
    """Read one text or several; an annotator's record holds its text in `answer` or `caption`."""
    texts: list[str] = []
    for entry in value if isinstance(value, list) else [value]:
        text = _field(entry, ("answer", "caption"), where) if isinstance(entry, dict) else entry
        if not isinstance(text, str):
            raise ValorError(f"{where}: expected a text, got {text!r}")
        texts.append(text)
    if not texts:
        raise ValorError(f"{where}: expected at least one text, got none")
    return texts


def _single(texts: list[str], where: str) -> str:
    if len(texts) != 1:
        raise ValorError(f"{where}: expected one text, got {len(texts)}")
    return texts[0]


def _check_ids(
    predicted: Mapping[str, Any], expected: Mapping[str, Any], predictions: Path, truth: Path
) -> None:
    """Refuse predictions that are not of exactly the ids of the truth."""
    missing = sorted(expected.keys() - predicted.keys())
    if missing:
        raise ValorError(
            f"{predictions}: {len(missing)} of the {len(expected)} ids of {truth} are missing, "
            f"the first is {missing[0]!r}"
        )
    unknown = sorted(predicted.keys() - expected.keys())
    if unknown:
        raise ValorError(
            f"{predictions}: {len(unknown)} ids are not in {truth}, the first is {unknown[0]!r}"
        )
