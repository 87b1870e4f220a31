"""What an evaluation measures where the data or a benchmark leaves a choice."""

from collections.abc import Collection
from dataclasses import dataclass, field

from valor.errors import UsageError
from valor.metrics.answer_protocols import ANSWER_PROTOCOLS, AnswerProtocol
from valor.types import MEDIA_GROUPS, Modality

Pair = tuple[Modality, Modality]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The defaults are those of a plain report."""

    groups: tuple[Modality, ...] = MEDIA_GROUPS
    """Groups of media that figures are about."""
    captions_per_item: int | None = 1
    """The first so many captions of each record are queries; None takes all."""
    pairs: tuple[Pair, ...] = ((Modality.AUDIO, Modality.VISION),)
    """Groups that are searched by each other, which may hold text."""
    candidates: int | None = None
    """Also rank in two stages: so many items by pooled vectors, these again exactly."""
    dual_softmax: float | None = None
    """Also weigh scores by all queries of the set, with this factor."""
    rerank: int | None = None
    """Also let a matching head order so many first recordings of each text again."""
    java: bool = False
    """Whether captions are scored by METEOR and SPICE too."""
    answers: AnswerProtocol = field(default_factory=lambda: ANSWER_PROTOCOLS["exact"])
    """How answers are scored."""
    vocabulary: Collection[str] | None = None
    """Answers that a closed model can give."""

    @property
    def widest(self) -> Modality:
        """The first group of the most modalities: what examples are about."""
        return max(self.groups, key=len)

    def __post_init__(self) -> None:
        """Reject numbers that take nothing."""
        for name in ("captions_per_item", "candidates", "dual_softmax", "rerank"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UsageError(f"{name}={value}, expected more than 0")


PLAIN = Options()


def parse_pair(text: str) -> Pair:
    """Read two groups such as `audio:vision` or `audio+text:vision`; else a `UsageError`."""
    parts = text.split(":")
    if len(parts) != 2:
        raise UsageError(f"pair {text!r}: expected two groups such as audio:vision")
    return Modality.parse(parts[0]), Modality.parse(parts[1])
