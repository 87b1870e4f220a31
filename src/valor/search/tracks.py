"""Text tracks: what is said in a recording, as a subtitle file beside it tells.

`talk.mp4` has its words in `talk.srt` or `talk.vtt`, or in `talk.mp4.srt` or `talk.mp4.vtt`.
"""

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_SUFFIXES = (".vtt", ".srt")
_CLOCK = r"(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{1,3})"
_TIMES = re.compile(rf"\s*{_CLOCK}\s*-->\s*{_CLOCK}")
_TAG = re.compile(r"<[^>]*>|\{\\[^}]*\}")


class Cue(NamedTuple):
    """Words with their time."""

    start_s: float
    end_s: float
    text: str


def sidecar_of(path: str | Path) -> Path | None:
    """Return the subtitle file beside a recording, if there is one."""
    media = Path(path)
    for suffix in _SUFFIXES:
        for candidate in (media.with_suffix(suffix), media.with_name(media.name + suffix)):
            if candidate.is_file():
                return candidate
    return None


def read_subtitles(path: Path) -> list[Cue]:
    """Read an .srt or .vtt file; what is no cue is passed over.

    Args:
        path: In UTF-8, or else in Latin-1.

    Returns:
        Cues by start, without mark-up.
    """
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    cues = []
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        lines = block.split("\n")
        for place, line in enumerate(lines):
            if match := _TIMES.match(line):
                times = match.groups()
                said = html.unescape(_TAG.sub("", " ".join(lines[place + 1 :])))
                cues.append(Cue(_seconds(times[:4]), _seconds(times[4:]), " ".join(said.split())))
                break
    return sorted(cue for cue in cues if cue.text)


def words_between(cues: Sequence[Cue], start_s: float, end_s: float) -> str | None:
    """Return what the cues say that overlap a stretch; None if there is none."""
    said = [cue.text for cue in cues if cue.start_s < end_s and cue.end_s > start_s]
    return " ".join(dict.fromkeys(said)) or None


def _seconds(clock: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = (part or "0" for part in clock)
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction.ljust(3, "0")) / 1000
