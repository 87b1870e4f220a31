"""Which codecs this build of FFmpeg really decodes: a moment of each is written, and read back.

`try_codecs` uses the same reading as everything else, so a codec that works here works everywhere.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.codec.codec import UnknownCodecError
from av.error import FFmpegError
from av.video.stream import VideoStream

from valor.errors import MediaError
from valor.media.audio import decode_waveform
from valor.media.video import decode_frames

_PICTURES: Mapping[str, tuple[str, str]] = {
    "h264": ("libx264", "mp4"),
    "hevc": ("libx265", "mp4"),
    "av1": ("libsvtav1", "mp4"),
    "vp8": ("libvpx", "webm"),
    "vp9": ("libvpx-vp9", "webm"),
    "mpeg4": ("mpeg4", "avi"),
}
_SOUNDS: Mapping[str, tuple[str, str]] = {
    "aac": ("aac", "mp4"),
    "mp3": ("libmp3lame", "mp3"),
    "opus": ("libopus", "webm"),
    "vorbis": ("vorbis", "ogg"),
    "flac": ("flac", "flac"),
    "pcm": ("pcm_s16le", "wav"),
}
"""By codec: who writes it, and into which container."""
_SIZE_PX = 64
_FPS = 10
_NUM_FRAMES = 5
_RATE_HZ = 48_000
_NUM_SAMPLES = 9600


def try_codecs() -> dict[str, str]:
    """Write and read half a second of each codec.

    Returns:
        By codec, whether it can be read, as a text that begins with `yes`, with `no` before what
        reading it said, or with `not tried` before what is missing to write it.
    """
    os.environ.setdefault("SVT_LOG", "0")  # Its encoder would write to stderr.
    with TemporaryDirectory() as folder:
        pictures = {
            name: _try(Path(folder, f"{name}.{suffix}"), writer, pictures=True)
            for name, (writer, suffix) in _PICTURES.items()
        }
        sounds = {
            name: _try(Path(folder, f"{name}.{suffix}"), writer, pictures=False)
            for name, (writer, suffix) in _SOUNDS.items()
        }
    return {**pictures, **sounds}


def _try(path: Path, writer: str, *, pictures: bool) -> str:
    try:
        (_write_pictures if pictures else _write_sound)(path, writer)
    except (UnknownCodecError, FFmpegError, ValueError) as error:
        return f"not tried: {writer} cannot write it ({error})"
    try:
        if pictures:
            num_read = len(decode_frames(path, [0.0])[0])
        else:
            sound = decode_waveform(path, sample_rate_hz=_RATE_HZ)
            num_read = 0 if sound is None else len(sound)
    except MediaError as error:
        return f"no: {error.detail}"
    return "yes" if num_read else "no: nothing was read"


def _write_pictures(path: Path, writer: str) -> None:
    with av.open(str(path), "w") as container:
        stream = cast(VideoStream, container.add_stream(writer, rate=_FPS))
        if writer == "libx265":
            stream.options = {"x265-params": "log-level=none"}
        stream.width = stream.height = _SIZE_PX
        stream.pix_fmt = "yuv420p"
        for index in range(_NUM_FRAMES):
            image = np.full((_SIZE_PX, _SIZE_PX, 3), 40 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def _write_sound(path: Path, writer: str) -> None:
    tone = 0.5 * np.sin(np.arange(_NUM_SAMPLES) * 0.1)
    with av.open(str(path), "w") as container:
        # FFmpeg's own encoder of Vorbis writes two channels, and counts as experimental.
        layout = "stereo" if writer == "vorbis" else "mono"
        stream = cast(AudioStream, container.add_stream(writer, rate=_RATE_HZ, layout=layout))
        stream.options = {"strict": "experimental"}
        frame = av.AudioFrame.from_ndarray(
            (tone[None] * 32767).astype(np.int16), format="s16", layout="mono"
        )
        frame.sample_rate, frame.pts = _RATE_HZ, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
