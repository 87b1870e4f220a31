"""What a browser cannot play becomes something that it can, at the right moment."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from valor.errors import MediaError
from valor.media.audio import decode_waveform
from valor.media.browser import playable, poster_jpeg, sound_png, write_preview
from valor.media.video import decode_frames

SIDE_PX, FPS, RATE_HZ, LENGTH_S = 64, 25, 48_000, 2
FOREIGN = {
    "mpeg2.mxf": ("mpeg2video", "yuv420p", "pcm_s16le"),
    "tape.mpg": ("mpeg2video", "yuv420p", "mp2"),
    "prores.mov": ("prores_ks", "yuv422p10le", "pcm_s16le"),
    "hevc.mp4": ("libx265", "yuv420p", "aac"),
    "studio.mp4": ("libx264", "yuv422p", "aac"),
}


def write_film(path: Path, codec: str, pixels: str, voice: str | None) -> Path:
    """A picture that gets brighter, and a tone in the second half."""
    with av.open(str(path), "w") as container:
        picture: Any = container.add_stream(codec, rate=FPS)
        picture.width, picture.height, picture.pix_fmt = SIDE_PX, SIDE_PX, pixels
        if codec == "libx265":
            picture.options = {"x265-params": "log-level=none:pools=1"}
        sound: Any = container.add_stream(voice, rate=RATE_HZ, layout="mono") if voice else None
        for number in range(FPS * LENGTH_S):
            image = np.full((SIDE_PX, SIDE_PX, 3), 5 * number, np.uint8)
            container.mux(picture.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(picture.encode(None))
        if sound is not None:
            times_s = np.arange(RATE_HZ * LENGTH_S) / RATE_HZ
            wave = 8_000 * np.sin(times_s * 2_000) * (times_s > LENGTH_S / 2)
            heard = av.AudioFrame.from_ndarray(wave[None].astype(np.int16), "s16", "mono")
            heard.sample_rate = RATE_HZ
            container.mux(sound.encode(heard))
            container.mux(sound.encode(None))
    return path


@pytest.fixture(params=FOREIGN)
def foreign(request, tmp_path):
    return write_film(tmp_path / request.param, *FOREIGN[request.param])


def test_a_preview_plays_everywhere_and_shows_the_same_moment(foreign, tmp_path):
    assert not playable(str(foreign)).is_playable
    out = str(tmp_path / "preview.mp4")
    assert write_preview(str(foreign), out, start_s=0.5, end_s=1.5) == 1.0
    known = playable(out)
    assert known.is_playable
    assert (known.info.has_video, known.info.has_audio) == (True, True)
    assert known.info.duration_s == pytest.approx(1.0, abs=0.1)
    for at_s in (0.1, 0.5, 0.9):
        (shown,), _ = decode_frames(out, np.array([at_s]), short_side_px=SIDE_PX)
        (meant,), _ = decode_frames(str(foreign), np.array([at_s + 0.5]), short_side_px=SIDE_PX)
        assert shown.mean() == pytest.approx(meant.mean(), abs=9)  # Two frames.
    wave = decode_waveform(out, sample_rate_hz=8_000, start_s=0.0, end_s=1.0)
    before, after = np.abs(wave[:3_500]).mean(), np.abs(wave[4_500:7_500]).mean()
    assert after > 0.05 > 20 * before


def test_what_a_browser_plays_needs_no_preview(tmp_path):
    path = write_film(tmp_path / "usual.mp4", "libx264", "yuv420p", "aac")
    assert playable(str(path)).is_playable


def test_a_preview_of_a_film_without_sound_has_none(tmp_path):
    path = write_film(tmp_path / "silent.mxf", "mpeg2video", "yuv420p", None)
    write_preview(str(path), str(tmp_path / "preview.mp4"), start_s=0, end_s=100)
    info = playable(str(tmp_path / "preview.mp4")).info
    assert not info.has_audio
    assert info.duration_s == pytest.approx(LENGTH_S, abs=0.1)
    with pytest.raises(MediaError, match="no sound"):
        sound_png(str(path), start_s=0, end_s=1, width=20, height=20)


def test_a_poster_is_of_the_moment_and_the_end_is_the_last_frame(tmp_path):
    path = str(write_film(tmp_path / "film.mxf", "mpeg2video", "yuv420p", None))
    sizes = [poster_jpeg(path, at_s=at_s, max_side_px=32) for at_s in (0.0, 1.0, LENGTH_S, 99.0)]
    assert len(set(sizes)) == 3
    assert sizes[2] == sizes[3]


def test_nothing_can_be_shown_of_what_is_after_the_end(tmp_path):
    path = write_film(tmp_path / "film.mxf", "mpeg2video", "yuv420p", None)
    with pytest.raises(MediaError, match="is after its 2 s"):
        write_preview(str(path), str(tmp_path / "preview.mp4"), start_s=LENGTH_S, end_s=9)
    assert not (tmp_path / "preview.mp4").exists()
