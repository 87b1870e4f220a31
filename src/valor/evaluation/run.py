"""Retrieval, captioning and answering by group of modalities, from what a model said.

Figures are computed once from all records in the order of their ids; `outputs.collect` gathers what
several processes found. Whoever passes `items` gets the values of every single item as well.
"""

from collections.abc import Sequence
from typing import Any

from valor.data.manifest import Record
from valor.evaluation.items import Items
from valor.evaluation.matching import add_reranked
from valor.evaluation.options import PLAIN, Options
from valor.evaluation.outputs import EvaluatedModel, Outputs, collect
from valor.evaluation.retrieval import pairs, retrieval
from valor.metrics.answer_protocols import AnsweredQuestion, confusions, score_answers
from valor.metrics.answering import accuracy_by
from valor.metrics.captioning import caption_scores, language_report
from valor.metrics.java import java_scores
from valor.types import AUDIOVISUAL, Embedder

__all__ = ["EvaluatedModel", "Outputs", "captioning", "collect", "evaluate"]


def captioning(
    outputs: Outputs, options: Options = PLAIN, *, items: Items | None = None
) -> dict[str, Any]:
    """Caption metrics by group, against all captions about what the group can tell.

    Args:
        outputs: Of a model that writes.
        options: Whether the Java programs are asked.
        items: Gets each caption's values by name.

    Returns:
        `caption_report` by group, with what it cannot tell left out; `absent` says why METEOR and
        SPICE are not there.
    """
    report: dict[str, Any] = {}
    for group in options.groups:
        captions = outputs.captions.get(group, [None] * len(outputs.records))
        rows: list[tuple[str, str, list[str]]] = []
        for record, caption in zip(outputs.records, captions, strict=True):
            own = [c.text for c in record.captions if c.about == group]
            references = own or [c.text for c in record.captions if c.about == AUDIOVISUAL]
            if caption is not None and references:
                rows.append((record.id, caption, references))
        if rows:
            ids, texts, references = map(list, zip(*rows, strict=True))
            scores = caption_scores(texts, references)
            java = java_scores(texts, references, asked=options.java)
            report[group.label] = {
                **scores.corpus,
                **java.corpus,
                **language_report(texts),
                "absent": java.absent,
            }
            if items is not None:
                for name, values in (scores.by_item | java.by_item).items():
                    items[f"captioning/{group.label}/{name}"] = dict(
                        zip(ids, values.tolist(), strict=True)
                    )
    return report


def answering(
    outputs: Outputs, options: Options = PLAIN, *, items: Items | None = None
) -> dict[str, Any]:
    """Accuracy by group, in all, by what a question needs and by its type.

    Args:
        outputs: Of a model that answers.
        options: How answers are scored, and which a closed model can give.
        items: Gets each question's score.

    Returns:
        `score_answers` by group, with `by_need`, and the most frequent `confusions`.
    """
    report: dict[str, Any] = {}
    questions = [question for _, question in outputs.questions]
    for group in options.groups:
        answers = outputs.answers.get(group, [])
        answered = [
            AnsweredQuestion(
                prediction=answer,
                answers=question.answers,
                type=question.type,
                question=question.text,
            )
            for answer, question in zip(answers, questions, strict=bool(answers))
        ]
        if not answered:
            continue
        figures, scores = score_answers(answered, options.answers, vocabulary=options.vocabulary)
        needs = [question.needs or "unknown" for question in questions]
        report[group.label] = {
            **figures,
            "by_need": accuracy_by(needs, scores),
            "confusions": confusions(answered, scores, options.answers),
        }
        if items is not None:
            items[f"answering/{group.label}/accuracy"] = dict(
                zip(outputs.question_ids, scores, strict=True)
            )
    return report


def evaluate(
    model: EvaluatedModel,
    records: Sequence[Record],
    outputs: Outputs | None = None,
    *,
    options: Options = PLAIN,
    items: Items | None = None,
) -> dict[str, Any]:
    """Measure everything.

    Args:
        model: What to evaluate.
        records: With captions and questions.
        outputs: Of the same model and records, if there already.
        options: What is measured where there is a choice.
        items: Gets the values of each item by metric and id.

    Returns:
        The report without protocol, as DESIGN.md, "Files", describes it.
    """
    outputs = outputs or collect(model, records)
    embed_text = model.embed_text if isinstance(model, Embedder) else None
    report = {
        "model": model.fingerprint,
        "data": {
            "n": len(outputs.records),
            "coverage": len(outputs.records) / len(records),
            "missing": outputs.missing,
        },
        "retrieval": retrieval(model, outputs, options, items=items),
        "pairs": pairs(outputs, options.pairs, embed_text),
        "captioning": captioning(outputs, options, items=items),
        "answering": answering(outputs, options, items=items),
    }
    if options.rerank is not None:
        add_reranked(report, model, outputs, options)
    return report
