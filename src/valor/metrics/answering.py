"""Accuracy of short answers, with the answer normalisation of the VQA evaluation.

`exact_match` compares with one or several accepted answers, `soft_accuracy` with the answers of ten
annotators (VQA v2). Scores of questions add up in an `Accuracy`; `accuracy_by` makes the table by
question type. Every accuracy comes with its count.
"""

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from valor.errors import ValorError

Key = TypeVar("Key", bound=Hashable)

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_GROUPS = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_ARTICLES = frozenset(("a", "an", "the"))
_NUMBERS = {
    **{"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"},
    **{"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"},
}
_CONTRACTED = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't "
    "haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't "
    "mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't "
    "she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd "
    "someone'd've someone'll someone's something'd something'd've something'll that's there'd "
    "there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've "
    "we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've "
    "who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll "
    "y'all'd've you'd you'd've you'll you're you've"
)
# Every word with one apostrophe forgotten.
_CONTRACTIONS = {
    word[: mark.start()] + word[mark.end() :]: word
    for word in _CONTRACTED.split()
    for mark in re.finditer("'", word)
}
_AGREEING_ANNOTATORS = 3


def normalize_answer(text: str) -> str:
    """Rewrite an answer so that different spellings of it become equal.

    Lower case, no punctuation, no articles, number words up to ten as digits, forgotten apostrophes
    put back (`dont` becomes `don't`).

    Source:
        The evaluation of VQA (arXiv 1505.00468), with its rule for punctuation: a mark beside a
        space vanishes, a mark between letters becomes a space, and all vanish beside `1,000`.
    """
    return _plain_words(_without_punctuation(" ".join(text.split())))


def _without_punctuation(text: str) -> str:
    vanish = _DIGIT_GROUPS.search(text) is not None
    plain = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if vanish or beside_space else " ")
    return _PERIOD.sub("", plain)


def _plain_words(text: str) -> str:
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VQA v2 accuracy as its script computes it; `soft_accuracy` with the script's normalisation.

    The script rewrites nothing where all annotators agree, and leaves articles, number words and
    capitals in the annotators' answers where they do not.

    Args:
        prediction: The model's answer.
        answers: The answers of all annotators, ten in VQA v2.

    Returns:
        A score in [0, 1].

    Raises:
        ValorError: If there are fewer than two annotators.
    """
    prediction = " ".join(prediction.split())
    if len(set(answers)) > 1:
        answers = [_without_punctuation(answer) for answer in answers]
        prediction = _plain_words(_without_punctuation(prediction))
    return _agreement([answer == prediction for answer in answers])


def exact_match(prediction: str, answers: Iterable[str]) -> bool:
    """True if the prediction equals one of the accepted answers, all normalised."""
    normalized = normalize_answer(prediction)
    return any(normalize_answer(answer) == normalized for answer in answers)


def soft_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VQA v2 accuracy: min(1, agreeing / 3), averaged over leaving each annotator out.

    Differs from the official script, `vqa_accuracy`, in that all answers are normalised alike.

    Args:
        prediction: The model's answer.
        answers: The answers of all annotators, ten in VQA v2.

    Returns:
        A score in [0, 1].

    Raises:
        ValorError: If there are fewer than two annotators.
    """
    normalized = normalize_answer(prediction)
    return _agreement([normalize_answer(answer) == normalized for answer in answers])


def _agreement(agrees: Sequence[bool]) -> float:
    if len(agrees) < 2:
        raise ValorError(f"soft accuracy needs answers of 2 annotators or more, got {len(agrees)}")
    others = (sum(agrees) - own for own in agrees)
    return sum(min(1.0, count / _AGREEING_ANNOTATORS) for count in others) / len(agrees)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Sum and number of scores in [0, 1]."""

    total: float = 0.0
    num: int = 0

    @classmethod
    def of(cls, correct: Iterable[float]) -> "Accuracy":
        """Add up the scores of some questions; True counts 1."""
        scores = list(correct)
        return cls(total=float(sum(scores)), num=len(scores))

    def merge(self, other: "Accuracy") -> "Accuracy":
        """Both parts together."""
        return Accuracy(total=self.total + other.total, num=self.num + other.num)

    def compute(self) -> dict[str, float]:
        """Turn the sums into an accuracy.

        Returns:
            `accuracy`, the mean score, and `num`, how many there are.

        Raises:
            ValorError: If nothing was counted; an accuracy of nothing is not 0.
        """
        if self.num == 0:
            raise ValorError("no answer to score")
        return {"accuracy": self.total / self.num, "num": self.num}


def accuracy_by(keys: Sequence[Key], correct: Sequence[float]) -> dict[Key, dict[str, float]]:
    """Accuracy and count of each group of questions.

    Args:
        keys: Of each question, the group that it is in, such as its type.
        correct: Of each question, its score in [0, 1]; True counts 1.

    Returns:
        `{"accuracy", "num"}` by key, in the order of first appearance.

    Raises:
        ValorError: If the lengths differ.
    """
    if len(keys) != len(correct):
        raise ValorError(f"{len(keys)} keys for {len(correct)} scores")
    groups: dict[Key, Accuracy] = {}
    for key, score in zip(keys, correct, strict=True):
        groups[key] = groups.get(key, Accuracy()).merge(Accuracy.of([score]))
    return {key: group.compute() for key, group in groups.items()}
