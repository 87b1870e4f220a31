"""How each question set scores answers: its normalisation, its tables, its accuracy.

A protocol is a record. `score_answers` computes the accuracy over all questions, a table by
question type in the set's own order, the set's averages over several types, and, for a closed
vocabulary, what can be right at all.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from valor.errors import UsageError
from valor.metrics.answering import (
    Accuracy,
    accuracy_by,
    exact_match,
    normalize_answer,
    vqa_accuracy,
)

_ACTIVITYNET_TYPES = (
    *("motion", "spatial", "temporal", "yes/no", "color", "object", "location", "number", "other"),
)
_MUSIC_TYPES = (
    *("audio counting", "audio comparative", "visual counting", "visual location"),
    *("audio-visual existential", "audio-visual counting", "audio-visual location"),
    *("audio-visual comparative", "audio-visual temporal"),
)
_QUESTION_WORDS = ("what", "who", "how", "when", "where")


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _equals(normalize: Callable[[str], str]) -> Callable[[str, Sequence[str]], float]:
    def score(prediction: str, answers: Sequence[str]) -> float:
        return float(normalize(prediction) in map(normalize, answers))

    return score


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerProtocol:
    """How a set scores an answer and tabulates scores."""

    score: Callable[[str, Sequence[str]], float]
    """Of a prediction and the accepted answers, in [0, 1]."""
    normalize: Callable[[str], str] = _plain
    """For membership in a closed vocabulary."""
    types: tuple[str, ...] = ()
    """The set's question types in its order; a type may be its number here."""
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Types that the set averages over, by name."""
    by_question_word: bool = False
    """The type is the question's first word."""
    source: str = ""


ANSWER_PROTOCOLS = {
    "exact": AnswerProtocol(
        score=lambda prediction, answers: float(exact_match(prediction, answers)),
        normalize=normalize_answer,
        source="one accepted answer, both normalised as by VQA (arXiv 1505.00468)",
    ),
    "vqa-v2": AnswerProtocol(
        score=vqa_accuracy,
        normalize=normalize_answer,
        types=("yes/no", "number", "other"),
        source="VQA v2 (arXiv 1612.00837): min(1, agreeing / 3) of ten annotators",
    ),
    "music-avqa": AnswerProtocol(
        score=_equals(_plain),
        types=_MUSIC_TYPES,
        groups={
            name: tuple(kind for kind in _MUSIC_TYPES if kind.startswith(f"{name} "))
            for name in ("audio", "visual", "audio-visual")
        },
        source="MUSIC-AVQA (arXiv 2203.14072): equal words, nine types",
    ),
    "activitynet-qa": AnswerProtocol(
        score=_equals(_plain),
        types=_ACTIVITYNET_TYPES,
        groups={"free": _ACTIVITYNET_TYPES[3:]},
        source="ActivityNet-QA (arXiv 1906.02467): equal words, types 0 to 8",
    ),
    "msrvtt-qa": AnswerProtocol(
        score=_equals(_plain),
        types=_QUESTION_WORDS,
        by_question_word=True,
        source="MSRVTT-QA (ACM MM 2017): equal words, by the question's first word",
    ),
    "msvd-qa": AnswerProtocol(
        score=_equals(_plain),
        types=_QUESTION_WORDS,
        by_question_word=True,
        source="MSVD-QA (ACM MM 2017): equal words, by the question's first word",
    ),
    "tgif-qa": AnswerProtocol(
        score=_equals(_plain), source="TGIF-QA FrameQA (arXiv 1704.04497): equal words"
    ),
}


def find_answer_protocol(name: str) -> AnswerProtocol:
    """The protocol of that name; a `UsageError` that lists all if there is none."""
    if name not in ANSWER_PROTOCOLS:
        known = ", ".join(ANSWER_PROTOCOLS)
        raise UsageError(f"unknown answer protocol {name!r}; there is {known}")
    return ANSWER_PROTOCOLS[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredQuestion:
    """A prediction beside what is accepted."""

    prediction: str
    answers: Sequence[str]
    type: str | None = None
    question: str | None = None


def score_answers(
    questions: Sequence[AnsweredQuestion],
    protocol: AnswerProtocol,
    *,
    vocabulary: Collection[str] | None = None,
) -> tuple[dict[str, Any], list[float]]:
    """Score answers as a set does.

    Args:
        questions: With the predictions.
        protocol: Of the set.
        vocabulary: The answers that a closed model can give.

    Returns:
        A report and each question's score. The report has `accuracy` and `num` over all questions
        (the open vocabulary); `by_type` where all questions have a type, in the set's order, and
        `by_group`; with a vocabulary `closed_set`: accuracy over the questions that it can answer,
        how many these are of all (`reachable`), and predictions that it does not hold (`outside`).

    Raises:
        ValorError: If there is no question.
    """
    scores = [protocol.score(question.prediction, question.answers) for question in questions]
    report: dict[str, Any] = Accuracy.of(scores).compute()
    types = [_type(question, protocol) for question in questions]
    if all(types):
        by_type = accuracy_by([str(kind) for kind in types], scores)
        order = [*protocol.types, *by_type]
        report["by_type"] = {
            kind: by_type[kind] for kind in dict.fromkeys(order) if kind in by_type
        }
        report["by_group"] = {
            name: Accuracy.of(own).compute()
            for name, kinds in protocol.groups.items()
            if (own := [s for s, kind in zip(scores, types, strict=True) if kind in kinds])
        }
        if not report["by_group"]:
            del report["by_group"]
    if vocabulary is not None:
        report["closed_set"] = _closed(questions, scores, protocol, vocabulary)
    return report, scores


def confusions(
    questions: Sequence[AnsweredQuestion],
    scores: Sequence[float],
    protocol: AnswerProtocol,
    *,
    limit: int = 20,
) -> list[dict[str, Any]]:
    """Which wrong answers stand most often in the place of which right ones.

    Args:
        questions: With the predictions.
        scores: Of each, from `score_answers`; what scores nothing is wrong.
        protocol: Of the set.
        limit: How many rows at most.

    Returns:
        The most frequent first, each with `type` (empty where a set has none), `right` (of several
        accepted answers the most frequent), `given`, `num`, and `of`, how many questions of the
        type have that right answer.
    """
    wrong: Counter[tuple[str, str, str]] = Counter()
    asked: Counter[tuple[str, str]] = Counter()
    for question, score in zip(questions, scores, strict=True):
        right = Counter(map(protocol.normalize, question.answers)).most_common(1)[0][0]
        place = (_type(question, protocol) or "", right)
        asked[place] += 1
        if score == 0:
            wrong[*place, protocol.normalize(question.prediction)] += 1
    ordered = sorted(wrong.items(), key=lambda row: (-row[1], row[0]))
    return [
        {"type": kind, "right": right, "given": given, "num": num, "of": asked[kind, right]}
        for (kind, right, given), num in ordered[:limit]
    ]


def _type(question: AnsweredQuestion, protocol: AnswerProtocol) -> str | None:
    if protocol.by_question_word:
        words = (question.question or "").lower().split()
        if not words:
            return None
        first = words[0]
        return first if first in protocol.types else "other"
    if question.type is not None and question.type.isdigit():
        number = int(question.type)
        return protocol.types[number] if number < len(protocol.types) else question.type
    return question.type


def _closed(
    questions: Sequence[AnsweredQuestion],
    scores: Sequence[float],
    protocol: AnswerProtocol,
    vocabulary: Collection[str],
) -> dict[str, Any]:
    known = {protocol.normalize(answer) for answer in vocabulary}
    reachable = [any(protocol.normalize(a) in known for a in q.answers) for q in questions]
    inside = [score for score, is_inside in zip(scores, reachable, strict=True) if is_inside]
    outside = sum(protocol.normalize(question.prediction) not in known for question in questions)
    return {
        **(Accuracy.of(inside).compute() if inside else {"num": 0}),
        "reachable": len(inside) / len(questions),
        "outside": outside / len(questions),
    }
