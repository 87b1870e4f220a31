"""Media as a browser shows them: what it plays itself, and pictures and previews of the rest.

Entry points: `playable`, `poster_jpeg`, `sound_png` and `write_preview`.
"""

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

from valor.errors import MediaError
from valor.media.audio import decode_waveform
from valor.media.container import audio_stream, is_still_image, open_container, video_stream
from valor.media.isolation import isolated
from valor.media.preview import spectrogram_png, thumbnail
from valor.media.probe import MediaInfo, probe
from valor.media.segments import DecodePlan, decode_segment
from valor.media.video import decode_frames

_MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
_PICTURES = {_MP4: {"h264", "av1", "vp9"}, "matroska,webm": {"vp8", "vp9", "av1"}}
_SOUNDS = {
    _MP4: {"aac", "mp3", "opus", "flac"},
    "matroska,webm": {"opus", "vorbis"},
    "ogg": {"opus", "vorbis", "flac"},
    "mp3": {"mp3"},
    "flac": {"flac"},
    "wav": {"pcm_s16le", "pcm_s24le", "pcm_u8", "pcm_f32le"},
    "aac": {"aac"},
}
"""Codecs by container that every current browser plays."""
_STILLS = {"png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe", "gif", "apng"}
_PIXELS = {"yuv420p", "yuvj420p"}

_RATE_HZ = 44_100
_MAX_FPS = 25.0
_SHORT_SIDE_PX = 360
_PIECE_FRAMES = 100
"""Decoded at a time: some 70 MB of pictures."""
_PIECE_SAMPLES = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Playability:
    """What a player needs to know of a file."""

    info: MediaInfo
    is_playable: bool
    """True if every current browser plays the file as it is."""


@isolated
def playable(path: str) -> Playability:
    """Say what a file holds and whether a browser plays it; raises `MediaError`."""
    info = probe(path)
    with open_container(path) as container:
        name, video, audio = container.format.name, video_stream(container), audio_stream(container)
        plays = name in _SOUNDS
        if is_still_image(container):
            plays = name in _STILLS
        elif video is not None:
            codec = video.codec_context
            plays = codec.codec.canonical_name in _PICTURES.get(name, ())
            plays &= codec.pix_fmt in _PIXELS
        if audio is not None:
            plays &= audio.codec_context.codec.canonical_name in _SOUNDS.get(name, ())
    return Playability(info=info, is_playable=plays)


@isolated
def poster_jpeg(path: str, *, at_s: float, max_side_px: int) -> bytes:
    """One frame as a JPEG.

    Args:
        path: A local file.
        at_s: When the frame is displayed; after the end the last one is meant.
        max_side_px: Of the picture.

    Returns:
        The bytes of the JPEG file.

    Raises:
        MediaError: If the file has no picture, or cannot be read.
    """
    info = probe(path)
    if not info.has_video:
        raise MediaError(path, "no-video", "the file has no picture; ask for its spectrogram")
    start_s = min(at_s, max(0.0, info.duration_s - 0.1))
    plan = DecodePlan(num_frames=1, short_side_px=max_side_px, sample_rate_hz=8_000)
    segment = decode_segment(path, plan, start_s=start_s, end_s=start_s + 0.1)
    return thumbnail(segment, max_side_px=max_side_px)


@isolated
def sound_png(path: str, *, start_s: float, end_s: float, width: int, height: int) -> bytes:
    """The spectrogram of a stretch as a PNG.

    Args:
        path: A local file.
        start_s: Begin of the stretch.
        end_s: Its end; what is beyond the sound's end is black.
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.

    Returns:
        The bytes of the PNG file.

    Raises:
        MediaError: If the file has no sound, or cannot be read.
    """
    heard = decode_waveform(path, sample_rate_hz=16_000, start_s=start_s, end_s=end_s)
    if heard is None:
        raise MediaError(path, "no-audio", "the file has no sound; ask for its poster")
    padded = np.zeros(max(len(heard), round((end_s - start_s) * 16_000)), np.float32)
    padded[: len(heard)] = heard
    return spectrogram_png(padded, 16_000, width=width, height=height)


@isolated
def write_preview(path: str, out: str, *, start_s: float, end_s: float) -> float:
    """Encode a stretch as H.264 and AAC, small enough for any browser.

    Args:
        path: A local file; a still image is shown for the whole stretch.
        out: The mp4 file to write.
        start_s: Begin of the stretch.
        end_s: Its end, or later than the recording's.

    Returns:
        Length of what was written, in seconds.

    Raises:
        MediaError: If nothing of the stretch can be decoded.
    """
    info = probe(path)
    end_s = end_s if info.is_image else min(end_s, info.duration_s)
    if end_s <= start_s:
        raise MediaError(path, "outside", f"{start_s:g} s is after its {info.duration_s:g} s")
    sound = decode_waveform(path, sample_rate_hz=_RATE_HZ, start_s=start_s, end_s=end_s)
    with av.open(out, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        fps = min(info.fps or _MAX_FPS, _MAX_FPS)
        rate = Fraction(fps).limit_denominator(1001)
        picture = container.add_stream("libx264", rate=rate) if info.has_video else None
        voice = None
        if sound is not None and len(sound):
            voice = container.add_stream("aac", rate=_RATE_HZ, layout="mono")
            voice.time_base = Fraction(1, _RATE_HZ)
        if picture is not None:
            _write_pictures(container, picture, path, np.arange(start_s, end_s, 1 / fps))
        if sound is not None and voice is not None:
            _write_sound(container, voice, sound)
    return end_s - start_s


def _write_pictures(
    container: OutputContainer, stream: VideoStream, path: str, times_s: np.ndarray
) -> None:
    stream.pix_fmt = "yuv420p"
    stream.options = {"preset": "veryfast", "crf": "23", "threads": "1"}
    for first in range(0, len(times_s), _PIECE_FRAMES):
        piece_s = times_s[first : first + _PIECE_FRAMES]
        frames, _ = decode_frames(path, piece_s, short_side_px=_SHORT_SIDE_PX)
        height, width = (side // 2 * 2 for side in frames.shape[1:3])
        if first == 0:
            stream.width, stream.height = width, height
        for number, image in enumerate(frames, start=first):
            even = np.ascontiguousarray(image[:height, :width])
            frame = av.VideoFrame.from_ndarray(even, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _write_sound(container: OutputContainer, stream: AudioStream, sound: np.ndarray) -> None:
    for start in range(0, len(sound), _PIECE_SAMPLES):
        chunk = sound[None, start : start + _PIECE_SAMPLES]
        heard = av.AudioFrame.from_ndarray(chunk, format="fltp", layout="mono")
        heard.sample_rate, heard.pts = _RATE_HZ, start
        container.mux(stream.encode(heard))
    container.mux(stream.encode(None))
