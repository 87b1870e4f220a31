"""Open local media files safely, and read their packets within a time limit.

Every file is opened by `open_container`, the one place that calls `av.open`: regular local files
only, and only demuxers that read nothing but the file itself. Playlists and concatenation scripts
would let a file of two lines of text name other files or addresses.
"""

import ctypes
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import av
import av.logging
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import ExitError, FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from valor.errors import MediaError

# FFmpeg's complaints about a file become a MediaError; its log would fill the terminal.
av.logging.set_level(None)

StreamT = TypeVar("StreamT", VideoStream, AudioStream)

TIME_LIMIT_S = 120.0
"""How long one file may be worked on, if nobody says otherwise."""

MAX_PIXELS = 2**27
"""Of one picture, whatever a header promises: 16384 by 8192."""
_PICTURE_LIMIT = {"max_pixels": str(MAX_PIXELS)}
_MAX_ALLOCATION = 2**30
"""Bytes at once, room for the largest picture. FFmpeg's own limit is 2 GiB, and a header's word
enough to take them."""

_DEMUXERS = (
    *("mov", "matroska", "avi", "asf", "mpegts", "mpeg", "mpegvideo", "flv", "rm", "mxf", "gxf"),
    *("nut", "ivf", "dv", "ogg", "m4v", "h263", "mjpeg", "gif", "apng"),
    *("wav", "w64", "aiff", "au", "caf", "flac", "mp3", "aac", "ac3", "eac3", "dts", "truehd"),
    *("amr", "amrnb", "amrwb", "ape", "wv", "tta", "tak", "iff", "mpc", "mpc8", "qcp"),
    *("voc", "nistsphere", "sox", "xwma", "dsf"),
    *("png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe", "j2k_pipe", "jpegxl_pipe"),
    *("ppm_pipe", "pgm_pipe", "pbm_pipe", "pam_pipe"),
)
"""Formats that hold their own data. image2 is left out because it expands patterns in names."""

# PyAV 18 refuses a file for a tag that is not UTF-8, unless told otherwise; 19 has no such option.
_LENIENT: Any = {} if int(av.__version__.split(".")[0]) > 18 else {"metadata_errors": "replace"}

_PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}

_NOT_A_PICTURE_TRACK = Disposition.attached_pic | Disposition.timed_thumbnails
"""Cover art and thumbnails of chapters."""

_deadline: ContextVar[tuple[float, float]] = ContextVar("deadline", default=(math.inf, math.inf))
"""By the clock of `time.monotonic`, with the limit that it comes from."""


@contextmanager
def time_limit(limit_s: float) -> Iterator[None]:
    """End all reading of media inside the block when the time is up; an earlier end stays.

    The clock is looked at between packets, and by FFmpeg whenever it reads from the file: a file
    that is endless, or crawls, is given up. A single packet is always decoded to its end.

    Args:
        limit_s: Seconds of wall-clock time from now on.

    Yields:
        None.
    """
    token = _deadline.set(min(_deadline.get(), (time.monotonic() + limit_s, limit_s)))
    try:
        yield
    finally:
        _deadline.reset(token)


def remaining_s(path: str) -> float:
    """Seconds until the time limit; raises `MediaError` when there are none."""
    left_s = _deadline.get()[0] - time.monotonic()
    if left_s <= 0:
        raise _too_slow(path)
    return left_s


def is_out_of_time() -> bool:
    """True when the time limit is over."""
    return time.monotonic() >= _deadline.get()[0]


def _too_slow(path: str) -> MediaError:
    detail = f"not read within {_deadline.get()[1]:g} s, as it is damaged or needs a larger limit"
    return MediaError(path, "too_slow", detail)


@contextmanager
def open_container(path: str | Path, *, with_pictures: bool = True) -> Iterator[InputContainer]:
    """Open a local media file; what FFmpeg raises inside the block becomes a `MediaError`.

    Args:
        path: A regular file. Anything with an address or a pattern is no file.
        with_pictures: False opens faster, for callers that decode no picture.

    Yields:
        The open container, with at least one stream that `video_stream` or `audio_stream` finds.

    Raises:
        MediaError: If the file is `missing`, `empty`, `unreadable` as any accepted format,
            `too_slow` to read, or later `undecodable`.
    """
    with _open(str(path), with_pictures=with_pictures) as container:
        if not playable_streams(container):
            detail = f"the {container.format.name} file holds no audio or video that can be decoded"
            raise MediaError(str(path), "empty", detail)
        try:
            yield container
        except FFmpegError as error:
            detail = f"the {container.format.name} file cannot be decoded ({error.strerror})"
            raise MediaError(str(path), "undecodable", detail) from None


@cache
def _limit_allocations() -> None:
    """Give the limit to the FFmpeg inside PyAV's wheel, as PyAV itself has no way to it."""
    site = Path(av.__file__).parents[1]
    for library in [*site.glob("av.libs/*avutil*"), *site.glob("av/.dylibs/*avutil*")]:
        set_limit = ctypes.CDLL(str(library)).av_max_alloc
        set_limit.argtypes = [ctypes.c_size_t]
        set_limit(_MAX_ALLOCATION)


def _open(path: str, *, with_pictures: bool) -> InputContainer:
    _limit_allocations()
    file = Path(path)
    try:
        if not file.exists():
            raise MediaError(path, "missing", "no such file; give the path of a media file")
        if not file.is_file():
            raise MediaError(
                path, "unreadable", "not a regular file; give the path of a media file"
            )
        if file.stat().st_size == 0:
            raise MediaError(path, "empty", "0 bytes; copy or download the file again")
        left_s = remaining_s(path)
        # The explicit protocol keeps a colon in a file's name from being read as an address.
        return av.open(
            f"file:{path}",
            format="jpeg_pipe" if _is_jpeg(file) else None,
            # To learn their properties, FFmpeg would decode the first pictures and drop them.
            options={**_PICTURE_LIMIT, "skip_frame": "default" if with_pictures else "all"},
            container_options={
                "protocol_whitelist": "file",
                "format_whitelist": ",".join(_DEMUXERS),
            },
            **_LENIENT,
            timeout=None if left_s == math.inf else left_s,
        )
    except ExitError:
        raise _too_slow(path) from None
    except FFmpegError as error:
        detail = f"no audio, video or picture of an accepted format ({error.strerror})"
        raise MediaError(path, "unreadable", detail) from None
    except OSError as error:
        raise MediaError(
            path, "unreadable", f"cannot be opened ({error.strerror}); check who may read it"
        ) from None


def _is_jpeg(file: Path) -> bool:
    """True for a photo that FFmpeg may, for its name, take for one of a numbered series."""
    if file.suffix.lower() not in _PICTURE_SUFFIXES:
        return False
    with file.open("rb") as opened:
        return opened.read(3) == b"\xff\xd8\xff"


def file_path(container: InputContainer) -> str:
    """The path that the container was opened from."""
    return container.name.removeprefix("file:")


def video_stream(container: InputContainer) -> VideoStream | None:
    """The picture track to decode: the first one marked as default, or else the first one."""
    return _preferred(
        [
            stream
            for stream in container.streams.video
            if stream.codec_context is not None and not stream.disposition & _NOT_A_PICTURE_TRACK
        ]
    )


def audio_stream(container: InputContainer) -> AudioStream | None:
    """The audio track to decode: the first one marked as default, or else the first one."""
    return _preferred(audio_tracks(container))


def audio_tracks(container: InputContainer) -> list[AudioStream]:
    """All tracks of a known codec."""
    return [stream for stream in container.streams.audio if stream.codec_context is not None]


def _preferred(streams: list[StreamT]) -> StreamT | None:
    marked = [stream for stream in streams if stream.disposition & Disposition.default]
    return next(iter(marked or streams), None)


def playable_streams(container: InputContainer) -> list[VideoStream | AudioStream]:
    """The one video and the one audio stream that are decoded, as far as they exist."""
    streams = (video_stream(container), audio_stream(container))
    return [stream for stream in streams if stream is not None]


def is_still_image(container: InputContainer) -> bool:
    """True for a single picture without time and sound."""
    video = video_stream(container)
    if video is None or audio_stream(container) is not None:
        return False
    return container.format.name.endswith("_pipe") or (video.frames == 1 and not video.duration)


def origin_s(container: InputContainer) -> float:
    """The container's time at which the presentation starts; all other times count from here."""
    starts = [
        float(stream.start_time * stream.time_base)
        for stream in playable_streams(container)
        if stream.start_time is not None and stream.time_base is not None
    ]
    return min(starts, default=0.0)


def units(time_s: float, unit_s: Fraction) -> int:
    """A time as FFmpeg counts it, in 64 bits; damaged files hold times beyond that."""
    return int(min(max(time_s / unit_s, -(2.0**62)), 2.0**62))


def go_to(container: InputContainer, time_s: float) -> None:
    """Go on reading from a keyframe at or before a time, in the container's time.

    Args:
        container: Where to read.
        time_s: Where formats without an index, or with a wrong one, may miss.

    Raises:
        FFmpegError: If the format does not let us go anywhere.
    """
    container.seek(units(time_s, Fraction(1, av.time_base)))


def packets(
    container: InputContainer, streams: list[VideoStream | AudioStream]
) -> Iterator[Packet]:
    """Packets of the streams up to the end of the file or to where it breaks off, then flushes.

    Args:
        container: Where to read, from its position on.
        streams: Of that container.

    Yields:
        Packets in the order of the file, and at last an empty one of each stream.

    Raises:
        MediaError: If it takes too long (`too_slow`).
    """
    path = file_path(container)
    try:
        for packet in container.demux(streams):
            remaining_s(path)
            yield packet
    except ExitError:
        raise _too_slow(path) from None
    except FFmpegError:
        yield from map(flush, streams)


def flush(stream: VideoStream | AudioStream) -> Packet:
    """The empty packet for which a decoder gives out what it still holds."""
    packet = Packet()
    packet.stream = stream
    if stream.time_base is not None:
        packet.time_base = stream.time_base
    return packet


def decoded(packets: Iterable[Packet], *, skip_damage: bool = True) -> Iterator[Any]:
    """Decode packets of one stream.

    Args:
        packets: From the container's position on, in the order of the file.
        skip_damage: True leaves out packets that cannot be decoded; False raises for them.

    Yields:
        Video or audio frames in presentation order.

    Raises:
        FFmpegError: If a packet is damaged and `skip_damage` is False.
    """
    for packet in packets:
        decoder = packet.stream.codec_context
        if not decoder.is_open:
            # Frame threads hang when a decoder is left early:
            # https://github.com/PyAV-Org/PyAV/issues/1962
            decoder.thread_count = 1
            decoder.options = _PICTURE_LIMIT
        try:
            yield from packet.decode()
        except FFmpegError:
            if not skip_damage:
                raise
        except ValueError:  # What PyAV 19 says of a decoder that could not be opened before.
            return
