"""Renders small media files, so that the tests know exactly what is in them."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

RATE_HZ = 16_000
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}

Timed = Sequence[tuple[float, np.ndarray]]


@pytest.fixture
def render(tmp_path: Path) -> Callable[..., Path]:
    """Writes pictures and sounds, each with the time at which it begins, to a media file.

    A picture is first turned counterclockwise for display, then mirrored left to right. The options
    are those of the video encoder and of the container.
    """

    def write(
        name: str,
        *,
        pictures: Timed = (),
        sounds: Timed = (),
        rotation_deg: int = 0,
        is_mirrored: bool = False,
        pixel_aspect: Fraction = Fraction(1),
        codec: str = "libx264",
        options: dict[str, str] | None = None,
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w", container_options=options or {}) as container:
            video = _add_video(container, codec, pictures, options or {}) if pictures else None
            audio = _add_audio(container, sounds) if sounds else None
            if video is not None:
                video.codec_context.sample_aspect_ratio = pixel_aspect
                if rotation_deg or is_mirrored:
                    video.set_display_rotation(rotation_deg, hflip=is_mirrored)
                _write_pictures(container, video, pictures)
            if audio is not None:
                _write_sounds(container, audio, sounds)
        return path

    return write


def _add_video(
    container: OutputContainer, codec: str, pictures: Timed, options: dict[str, str]
) -> VideoStream:
    stream = cast(VideoStream, container.add_stream(codec, rate=25))
    stream.height, stream.width = pictures[0][1].shape[:2]
    stream.pix_fmt = "yuv444p" if codec == "libx264" else "yuv420p"
    stream.codec_context.time_base = Fraction(1, 1000)
    stream.options = {"qp": "4", "g": "25", "bf": "2", **options}
    return stream


def _add_audio(container: OutputContainer, sounds: Timed) -> AudioStream:
    codec = "pcm_f32le" if container.name.endswith(".wav") else "aac"
    return container.add_stream(codec, rate=RATE_HZ, layout=LAYOUTS[sounds[0][1].shape[0]])


def _write_pictures(container: OutputContainer, stream: VideoStream, pictures: Timed) -> None:
    for time_s, picture in pictures:
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = round(time_s * 1000), Fraction(1, 1000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _write_sounds(container: OutputContainer, stream: AudioStream, sounds: Timed) -> None:
    is_packed = stream.format.is_packed
    for time_s, samples in sounds:
        for begin in range(0, samples.shape[1], 1024):
            part = samples[:, begin : begin + 1024].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(
                part.T.reshape(1, -1) if is_packed else np.ascontiguousarray(part),
                format=stream.format.name,
                layout=stream.layout.name,
            )
            frame.sample_rate, frame.time_base = RATE_HZ, Fraction(1, RATE_HZ)
            frame.pts = round(time_s * RATE_HZ) + begin
            container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


@pytest.fixture
def grays() -> Callable[..., list[tuple[float, np.ndarray]]]:
    """Plain pictures at the given times, each brighter by 3 than the one before."""

    def make(
        times_s: Sequence[float], *, height: int = 32, width: int = 48
    ) -> list[tuple[float, np.ndarray]]:
        return [
            (time_s, np.full((height, width, 3), 3 * index % 256, np.uint8))
            for index, time_s in enumerate(times_s)
        ]

    return make


@pytest.fixture
def beep() -> Callable[..., np.ndarray]:
    """One channel of zeros with a tone in it."""

    def make(
        *, length_s: float, at_s: float, for_s: float = 0.1, hz: float = 1000, peak: float = 0.5
    ) -> np.ndarray:
        times_s = np.arange(round(length_s * RATE_HZ)) / RATE_HZ
        is_on = (times_s >= at_s) & (times_s < at_s + for_s)
        return (peak * np.sin(2 * np.pi * hz * times_s) * is_on)[None]

    return make


@pytest.fixture
def truncate() -> Callable[[Path, float], Path]:
    """Keeps the first part of a file's bytes."""

    def cut_off(path: Path, fraction: float) -> Path:
        content = path.read_bytes()
        path.write_bytes(content[: round(len(content) * fraction)])
        return path

    return cut_off
