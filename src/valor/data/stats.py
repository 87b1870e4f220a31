"""What is in a manifest, in numbers.

Entry point: `statistics`.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from valor.data.manifest import Record, TaggedText
from valor.data.rows import opened
from valor.data.validate import Examined, examine_files

_WORD = re.compile(r"[\w']+")


@dataclass(slots=True, kw_only=True)
class Statistics:
    """Counts over a manifest."""

    num_records: int
    num_files: int
    splits: dict[str, int]
    num_captions: int
    captions_about: dict[str, int]
    """Captions by the group that they speak about."""
    words_per_caption: float | None
    num_questions: int
    questions_needing: dict[str, int]
    """Questions by what they need, as far as that is known."""
    num_hours: float
    """Sum of the records' lengths, as far as they are known."""
    num_unknown_lengths: int
    """Records without an end, whose media were not opened or cannot be."""
    with_sound_fraction: float | None = None
    """Share of the files with an audio track, which may be silent; None if none was opened."""
    audio_concept_density: float | None = None
    """Audio concepts per word of the captions; None without a list of concepts."""
    unreadable: dict[str, str] = field(default_factory=dict[str, str])
    """Reason by file, of those that were opened in vain."""


def statistics(
    records: Sequence[Record],
    *,
    concepts: Iterable[str] | None = None,
    open_media: bool = False,
    workers: int | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Statistics:
    """Count what is in a manifest.

    Args:
        records: Its records.
        concepts: Words or phrases for what can be heard.
        open_media: Open the media files, for their lengths and whether they have sound.
        workers: Processes that open media; all processors by default.
        progress: Told the stage and how many of how many media files are done.

    Returns:
        The numbers.
    """
    files = sorted({record.media for record in records})
    examined: dict[str, Examined] = {}
    unreadable: dict[str, str] = {}
    for done, (path, result) in enumerate(
        examine_files(files, workers=workers) if open_media else (), start=1
    ):
        if isinstance(result, Examined):
            examined[path] = result
        else:
            unreadable[path] = result.reason
        progress("probe", done, len(files))
    captions = [caption for record in records for caption in record.captions]
    questions = [question for record in records for question in record.questions]
    lengths = [_length_s(record, examined.get(record.media)) for record in records]
    num_words = sum(len(words(caption.text)) for caption in captions)
    return Statistics(
        num_records=len(records),
        num_files=len(files),
        splits=dict(Counter(record.split for record in records)),
        num_captions=len(captions),
        captions_about=dict(Counter(caption.about.label for caption in captions)),
        words_per_caption=num_words / len(captions) if captions else None,
        num_questions=len(questions),
        questions_needing=dict(Counter(q.needs or "unknown" for q in questions)),
        num_hours=sum(length for length in lengths if length is not None) / 3600,
        num_unknown_lengths=lengths.count(None),
        with_sound_fraction=(
            sum(e.info.has_audio for e in examined.values()) / len(examined) if examined else None
        ),
        audio_concept_density=(
            None if concepts is None else audio_concept_density(captions, concepts)
        ),
        unreadable=unreadable,
    )


def _length_s(record: Record, examined: Examined | None) -> float | None:
    if examined is not None:
        whole_s = examined.info.duration_s
        end_s = whole_s if record.end_s is None else min(record.end_s, whole_s)
        return max(0.0, end_s - record.start_s)
    return None if record.end_s is None else record.end_s - record.start_s


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def audio_concept_density(captions: Iterable[TaggedText], concepts: Iterable[str]) -> float | None:
    """Count audio concepts per word.

    Args:
        captions: The texts.
        concepts: Words or phrases; only these forms of them are found.

    Returns:
        Concepts, as `num_concepts` finds them, over words of all captions together, or None
        without a word.

    Source:
        VALOR 3.2, audio concept density; the paper counts 759 concepts of the AudioSet ontology.
    """
    known = concept_words(concepts)
    said = [words(caption.text) for caption in captions]
    num_words = sum(map(len, said))
    return sum(num_concepts(text, known) for text in said) / num_words if num_words else None


def read_concepts(path: Path) -> list[str]:
    """The audio concepts of a text file, one per line."""
    with opened(path) as lines:
        return [line.strip() for line in lines]


def concept_words(concepts: Iterable[str]) -> frozenset[tuple[str, ...]]:
    """The words of each concept; blank ones are left out."""
    return frozenset(tuple(words(concept)) for concept in concepts) - {()}


def num_concepts(said: Sequence[str], concepts: Collection[tuple[str, ...]]) -> int:
    """How often the words of a text name a concept.

    Args:
        said: The words, as `words` cuts them.
        concepts: The words of each concept.

    Returns:
        How many; at each word the longest concept that begins there counts once, and the search
        goes on after it.
    """
    longest = max(map(len, concepts), default=0)
    num = at = 0
    while at < len(said):
        sizes = range(min(longest, len(said) - at), 0, -1)
        size = next((size for size in sizes if tuple(said[at : at + size]) in concepts), 0)
        num += size > 0
        at += max(size, 1)
    return num
