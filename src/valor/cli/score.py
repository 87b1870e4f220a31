"""`valor score`: the metrics alone, over files of predictions; no model is needed.

Captions and answers are matched by id. Both sides must name the same ids: a score over the part
that happens to be there would not be the score of the set.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from valor.cli.arguments import Json, parse_kind
from valor.cli.score_files import (
    check_ids,
    read_answers,
    read_captions,
    read_matrix,
    read_vocabulary,
    single,
)
from valor.errors import ValorError
from valor.metrics import captioning, retrieval
from valor.metrics.answer_protocols import (
    AnsweredQuestion,
    find_answer_protocol,
    score_answers,
)
from valor.metrics.java import java_scores
from valor.metrics.trec import write_run

_SOFT = 10
"""Answers of every question where they are those of VQA's annotators."""


@dataclass(frozen=True, kw_only=True)
class Captions:
    """BLEU, ROUGE-L, CIDEr-D and language statistics of captions."""

    candidates: Path
    """JSON: {id: caption}, or a list of {"image_id" or "video_id", "caption"} (COCO results)."""
    references: Path
    """JSON: {id: [captions]}, or COCO annotations, or a list of the same records."""
    java: bool = False
    """METEOR and SPICE too, by Java and the package pycocoevalcap; absent without them."""
    judge: tuple[str, ...] = ()
    """More scores: package.module:function of (captions, references of each), one number each."""
    as_json: Json = False
    """Print JSON on stdout."""

    def score(self) -> dict[str, Any]:
        """Compute the report over the corpus and each caption's own scores."""
        candidates = {
            id: single(texts, f"{self.candidates}: {id}")
            for id, texts in read_captions(self.candidates).items()
        }
        references = read_captions(self.references)
        check_ids(candidates, references, self.candidates, self.references)
        ids = sorted(candidates)
        texts, truths = [candidates[id] for id in ids], [references[id] for id in ids]
        scores = captioning.caption_scores(texts, truths)
        by_item = {**scores.by_item, **self._judged(texts, truths)}
        corpus = {name: float(values.mean()) for name, values in by_item.items()} | scores.corpus
        java = java_scores(texts, truths, asked=self.java)
        by_item |= java.by_item
        return {
            "corpus": corpus | java.corpus,
            "language": captioning.language_report(texts),
            "absent": java.absent,
            "items": {
                id: {name: float(values[row]) for name, values in by_item.items()}
                for row, id in enumerate(ids)
            },
        }

    def _judged(self, texts: list[str], truths: list[list[str]]) -> dict[str, np.ndarray]:
        judged: dict[str, np.ndarray] = {}
        for name in self.judge:
            from valor.recipes import find_function

            values = np.asarray(find_function(name)(texts, truths), dtype=float)
            if values.shape != (len(texts),):
                raise ValorError(f"{name} gave {values.shape} scores for {len(texts)} captions")
            judged[name.rpartition(":")[2]] = values
        return judged


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Recall, ranks, MRR, mAP and nDCG of a score matrix, in both directions."""

    scores: Path
    """A .npy matrix: a row for each text, a column for each media item, higher is better."""
    captions_per_item: int = 1
    """Texts of each item; they follow each other in the rows."""
    ties: retrieval.Ties = "pessimistic"
    """Where the match stands among equal scores."""
    dual_softmax: float | None = None
    """Also score after a dual softmax with this factor, such as 100, which looks at all queries."""
    trec: Path | None = None
    """Write the best 100 items of each text as a TREC run; ids are `text0` and `media0`."""
    as_json: Json = False
    """Print JSON on stdout."""

    def score(self) -> dict[str, Any]:
        """Compute the report of both directions."""
        scores = read_matrix(self.scores)
        try:
            report = self._report(scores)
        except ValorError as error:
            raise ValorError(f"{self.scores}: {error}") from None
        if self.trec:
            items = np.argsort(-scores, axis=1, kind="stable")[:, :100]
            write_run(
                self.trec,
                [f"text{row}" for row in range(len(scores))],
                [[f"media{item}" for item in row] for row in items],
                np.take_along_axis(scores, items, axis=1),
            )
        return report

    def _report(self, scores: np.ndarray) -> dict[str, Any]:
        report: dict[str, Any] = retrieval.retrieval_report(
            scores, captions_per_item=self.captions_per_item, ties=self.ties
        )
        if self.dual_softmax is not None:
            owner = np.arange(len(scores)) // self.captions_per_item
            report["dual_softmax"] = retrieval.dual_softmax_report(
                scores, owner, self.dual_softmax, ties=self.ties
            )
        return report


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Accuracy of short answers in all, by type of question, and as each set counts it."""

    candidates: Annotated[Path, tyro.conf.arg(aliases=("--predictions",))]
    """JSON: {id: answer}, or a list of {"question_id", "answer"} (VQA results)."""
    references: Annotated[Path, tyro.conf.arg(aliases=("--answers",))]
    """JSON: {id: answer or [answers]}, or VQA annotations, or a list of the same records."""
    protocol: str = "exact"
    """exact, vqa-v2, music-avqa, activitynet-qa, msrvtt-qa, msvd-qa or tgif-qa."""
    vocabulary: Path | None = None
    """JSON list of the answers that a closed model can give: says what it can reach."""
    as_json: Json = False
    """Print JSON on stdout."""

    def score(self) -> dict[str, Any]:
        """Compute accuracies over all questions, and by type where the answers name one."""
        protocol = find_answer_protocol(self.protocol)
        predictions = read_answers(self.candidates)
        answers = read_answers(self.references)
        check_ids(predictions, answers, self.candidates, self.references)
        ids = sorted(answers)
        questions = [
            AnsweredQuestion(
                prediction=single(predictions[id].texts, f"{self.candidates}: {id}"),
                answers=answers[id].texts,
                type=answers[id].type,
                question=answers[id].question,
            )
            for id in ids
        ]
        vocabulary = read_vocabulary(self.vocabulary) if self.vocabulary else None
        report, scores = score_answers(questions, protocol, vocabulary=vocabulary)
        if self.protocol == "exact" and all(len(q.answers) == _SOFT for q in questions):
            soft = score_answers(questions, find_answer_protocol("vqa-v2"))[0]
            report["soft_accuracy"] = soft["accuracy"]
        return {**report, "items": dict(zip(ids, scores, strict=True))}


KINDS = {"captions": Captions, "retrieval": Retrieval, "answers": Answers}


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
    arguments = parse_kind(KINDS, argv, verb="score")
    report = arguments.score()
    if not arguments.as_json:
        report.pop("items", None)  # By id, too many for a table.
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
