"""One caption from what was drafted of the seen, the heard and the said.

By rules (`by_rules`), or by a language model that is asked with `merge_prompt`.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from valor.data.sources.folders import read_cues

Drafts = dict[str, str]
"""Texts by `vision`, `audio` and `speech`; what there is nothing to say of is absent."""

_MAX_SPOKEN_WORDS = 25
_STOP_WORDS = set(
    "a an the is are was were be and or of in on at to from with while as it its this that there "
    "some someone something can heard seen sound sounds noise".split()
)
_STARTERS = set("a an the there some someone people it two three several".split())
"""First words that are written small within a sentence."""
_PHRASE = re.compile(r"(the |a |an )?(\w+ )?(sounds?|noises?) of\b")
_VERB = re.compile(r"\b(is|are|was|were|has|have|can|does|do)\b")
_PARTICIPLE = re.compile(r"\w{2,}ing\b")
_SINGULAR = re.compile(r"(a|an|the|someone|it)\b.*\b\w+[^s\W]s\b")

_PROMPT = """Merge notes on one recording into one caption of one or two plain English sentences.
Keep every fact of the notes, say none twice, and add none. Reply with the caption alone.
"""
_NAMES = {"vision": "Seen", "audio": "Heard", "speech": "Said"}


def merge_prompt(drafts: Drafts) -> str:
    """What to ask a language model that merges drafts."""
    notes = [f"{_NAMES[kind]}: {text}" for kind, text in drafts.items()]
    return "\n".join([_PROMPT, *notes])


def by_rules(drafts: Drafts) -> str:
    """Merge drafts into sentences that say nothing twice.

    A sentence whose words another one has as well is left out. One sentence about the sound is
    joined to one about the picture with `while` or `with`, if it is clear which of them is right.

    Args:
        drafts: At least one.

    Returns:
        The caption.
    """
    said = _distinct([(k, s) for k in ("vision", "audio") for s in _sentences(drafts.get(k, ""))])
    seen, heard = ([s for kind, s in said if kind == which] for which in ("vision", "audio"))
    if len(seen) == len(heard) == 1 and (joint := _joint(heard[0])):
        parts = [f"{seen[0]}{joint}{_small(heard[0])}"]
    else:
        parts = [*seen, *heard]
    text = " ".join(f"{part[0].upper()}{part[1:]}." for part in parts)
    words = drafts.get("speech", "").split()
    if words:
        spoken = " ".join(words[:_MAX_SPOKEN_WORDS])
        text += f' Someone says: "{spoken}{" ..." if len(words) > _MAX_SPOKEN_WORDS else ""}"'
    return text.strip()


def _sentences(text: str) -> list[str]:
    parts = re.split(r"(?<=[.!?])\s+|;\s*", " ".join(text.split()))
    return [part.rstrip(" .") for part in parts if part.rstrip(" .")]


def _distinct(sentences: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Sentences of both kinds, without those whose words are all in another one."""
    kept: list[tuple[str, str]] = []
    for kind, sentence in sentences:
        words = _content(sentence)
        if not any(words <= _content(other) for _, other in kept):
            kept = [(of, other) for of, other in kept if not _content(other) < words]
            kept.append((kind, sentence))
    return kept


def _content(sentence: str) -> frozenset[str]:
    words = re.findall(r"[\w']+", sentence.lower())
    return frozenset(words) - _STOP_WORDS or frozenset(words)


def _joint(sentence: str) -> str | None:
    """What joins a sentence about the sound to another one; None if that is not clear."""
    text = sentence.lower()
    if _PHRASE.match(text):
        return ", with "
    if _VERB.search(text):
        return ", while "
    if _PARTICIPLE.search(text):
        return ", with "
    return ", while " if _SINGULAR.match(text) else None


def _small(sentence: str) -> str:
    first = sentence.partition(" ")[0]
    return sentence[0].lower() + sentence[1:] if first.lower() in _STARTERS else sentence


def speech_of(media: str, start_s: float, end_s: float | None) -> str:
    """What is said in a stretch, by the subtitles beside the file.

    Args:
        media: A local file; `clip.vtt` or else `clip.srt` beside `clip.mp4` is read.
        start_s: Begin of the stretch.
        end_s: Its end; None for that of the file.

    Returns:
        The words of the cues whose middles lie in the stretch, without those that a cue repeats of
        the one before it; empty without subtitles.

    Raises:
        ManifestError: If the subtitles cannot be read.
    """
    words: list[str] = []
    for suffix in (".vtt", ".srt"):
        path = Path(media).with_suffix(suffix)
        if path.is_file():
            for cue_start_s, cue_end_s, text in read_cues(path):
                middle_s = (cue_start_s + cue_end_s) / 2
                if start_s <= middle_s and (end_s is None or middle_s < end_s):
                    said = text.split()
                    words += said[_num_repeated(words, said) :]
            break
    return " ".join(words)


def _num_repeated(before: Sequence[str], words: Sequence[str]) -> int:
    """How many of the first words are the last ones before; one alone is said again."""
    sizes = range(min(len(before), len(words)), 1, -1)
    return next((size for size in sizes if list(before[-size:]) == list(words[:size])), 0)
