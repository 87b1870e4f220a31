"""Every odd or broken file is read as far as it goes, or refused with a clear error.

The files are not part of the project: the environment variable `VALOR_TEST_MEDIA` names their
folder, which says in `odd/manifest.json` what to expect of each.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from valor.errors import MediaError
from valor.media.audio import is_silent
from valor.media.segments import DecodePlan, decode_segment

FOLDER = (
    Path(os.environ.get("VALOR_TEST_MEDIA", Path(__file__).parents[3] / "shared/media")) / "odd"
)
PLAN = DecodePlan(num_frames=4, short_side_px=32, sample_rate_hz=16_000)

READ_SINCE_FFMPEG_8 = {"bad_header.ogm"}
"""Said to be unreadable, by an older version."""


def files() -> list:
    if not (FOLDER / "manifest.json").exists():
        reason = f"no test media in {FOLDER}; set VALOR_TEST_MEDIA to the folder that has odd/"
        return [pytest.param({}, marks=pytest.mark.skip(reason=reason))]
    entries = json.loads((FOLDER / "manifest.json").read_text())["files"]
    return [pytest.param(entry, id=Path(entry["file"]).name[:40]) for entry in entries]


def tracks(path: Path) -> set[str] | None:
    """The tracks that could be decoded, or None if the file was refused."""
    try:
        segment = decode_segment(path, PLAN)
    except MediaError as error:
        assert error.reason
        assert "\n" not in str(error)
        return None
    if segment.waveform is not None:
        assert np.isfinite(segment.waveform).all()
        assert np.abs(segment.waveform).max() <= 1
    if segment.frames is not None:
        assert min(segment.frames.shape[1:3]) == PLAN.short_side_px
    decoded = {"video": segment.frames, "audio": segment.waveform}
    return {name for name, track in decoded.items() if track is not None}


@pytest.mark.media
@pytest.mark.parametrize("entry", files())
def test_an_odd_file_is_read_or_refused_as_expected(entry: dict):
    path = FOLDER / entry["file"]
    found, expected = tracks(path), entry["expect"]
    if expected.startswith("reads; video and audio usable"):
        assert found == {"video", "audio"}
    elif expected.startswith("reads; video only") or expected == "frames come out upright":
        assert found == {"video"}
    elif expected.startswith(("reads; audio only", "reads as audio only")):
        assert found == {"audio"}
    elif expected.startswith("clear per-file error") and path.name not in READ_SINCE_FFMPEG_8:
        assert found is None
    elif expected.startswith(("video and audio", "silence", "audio padded", "picks one")):
        assert found == {"video", "audio"}


PROMISES = {
    "editlist_11s_says_10s.mp4": lambda segment: abs(segment.end_s - 10) < 0.1,
    "silent_track_datastream.mp4": lambda segment: segment.is_silent,
    "audio_starts_1s_late.mp4": lambda segment: is_silent(segment.waveform[: round(0.95 * 16_000)]),
    "audio_shorter_than_video.mp4": lambda segment: len(segment.waveform) < 1.1 * 16_000,
    "rotated_90.mov": lambda segment: segment.frames.shape[1] > segment.frames.shape[2],
    "rotated_180.mov": lambda segment: segment.frames.shape[1] < segment.frames.shape[2],
    "rotated_270.mov": lambda segment: segment.frames.shape[1] > segment.frames.shape[2],
}


@pytest.mark.media
@pytest.mark.skipif(not FOLDER.exists(), reason=f"no test media in {FOLDER}")
@pytest.mark.parametrize("name", PROMISES)
def test_an_odd_file_is_what_its_name_says(name: str):
    assert PROMISES[name](decode_segment(FOLDER / "media" / name, PLAN))
