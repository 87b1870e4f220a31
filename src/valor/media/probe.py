"""Open local media files safely, and say what is in them.

Every file is opened by `open_container`, the one place that calls `av.open`: regular local files
only, and only demuxers that read nothing but the file itself. Playlists and concatenation scripts
would let a file of two lines of text name other files or addresses.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import av
import av.logging
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from valor.errors import MediaError

# FFmpeg's complaints about a file become a MediaError; its log would fill the terminal.
av.logging.set_level(None)

StreamT = TypeVar("StreamT", VideoStream, AudioStream)

_DEMUXERS = (
    *("mov", "matroska", "avi", "asf", "mpegts", "mpeg", "mpegvideo", "flv", "rm", "mxf", "gxf"),
    *("nut", "ivf", "dv", "ogg", "m4v", "h263", "mjpeg", "gif", "apng"),
    *("wav", "w64", "aiff", "au", "caf", "flac", "mp3", "aac", "ac3", "eac3", "dts", "truehd"),
    *("amr", "amrnb", "amrwb", "ape", "wv", "tta", "tak", "iff", "mpc", "mpc8", "qcp"),
    *("voc", "nistsphere", "sox", "xwma"),
    *("png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe", "j2k_pipe", "jpegxl_pipe"),
    *("ppm_pipe", "pgm_pipe", "pbm_pipe", "pam_pipe"),
)
"""Formats that hold their own data. image2 is left out because it expands patterns in names."""

_TAIL_S = 5.0
"""How much of a recording's end is read to find out whether it is there."""

_ROUNDING_S = 1.0
"""By how much a last packet may end before the claimed end; some packets know no length."""

_LONGEST_PACKET_S = 1e4
"""A packet whose samples are trimmed below zero claims an unsigned length of days."""

_PIXEL_ASPECTS = (0.1, 10.0)
"""Outside of these a header is broken; no lens does that."""

_NOT_A_PICTURE_TRACK = Disposition.attached_pic | Disposition.timed_thumbnails
"""Cover art and thumbnails of chapters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaInfo:
    """What a file holds; a value that its streams do not have is None."""

    path: str
    format: str
    """FFmpeg's name of the container format."""
    duration_s: float
    """Length of what is really in the file, whatever its header says; 0 for a still image."""
    has_video: bool
    """True if there are pictures that can be decoded; cover art does not count."""
    has_audio: bool
    """True if there is an audio stream with a known codec; it may be silent."""
    is_image: bool
    """True for a single picture without time and sound."""
    width: int | None
    """In square pixels, of the upright picture."""
    height: int | None
    fps: float | None
    """Average frame rate."""
    rotation_deg: int
    """How far the stored picture is turned counterclockwise for display: 0, 90, 180 or 270."""
    sample_rate_hz: int | None
    channels: int | None
    num_audio_tracks: int


@contextmanager
def open_container(path: str | Path) -> Iterator[InputContainer]:
    """Open a local media file; what FFmpeg raises inside the block becomes a `MediaError`.

    Args:
        path: A regular file. Anything with an address or a pattern is no file.

    Yields:
        The open container, with at least one stream that `video_stream` or `audio_stream` finds.

    Raises:
        MediaError: If the file is `missing`, `empty`, `unreadable` as any accepted format, or
            later `undecodable`.
    """
    with _open(str(path)) as container:
        if not playable_streams(container):
            detail = f"the {container.format.name} file holds no audio or video that can be decoded"
            raise MediaError(str(path), "empty", detail)
        try:
            yield container
        except FFmpegError as error:
            detail = f"the {container.format.name} file cannot be decoded ({error.strerror})"
            raise MediaError(str(path), "undecodable", detail) from None


def _open(path: str) -> InputContainer:
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
        # The explicit protocol keeps a colon in a file's name from being read as an address.
        return av.open(
            f"file:{path}",
            container_options={
                "protocol_whitelist": "file",
                "format_whitelist": ",".join(_DEMUXERS),
            },
            metadata_errors="replace",
        )
    except FFmpegError as error:
        detail = f"no audio, video or picture of an accepted format ({error.strerror})"
        raise MediaError(path, "unreadable", detail) from None
    except OSError as error:
        raise MediaError(path, "unreadable", f"cannot be opened ({error.strerror})") from None


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
    return _preferred(_audio_tracks(container))


def _audio_tracks(container: InputContainer) -> list[AudioStream]:
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


def decoded(
    container: InputContainer, stream: VideoStream | AudioStream, *, skip_damage: bool = True
) -> Iterator[Any]:
    """Decode a stream's frames in presentation order from the container's position on.

    Args:
        container: Where to read.
        stream: One of its streams.
        skip_damage: True leaves out packets that cannot be decoded; False raises for them.

    Yields:
        Video or audio frames, to the end of the file or to where it breaks off.

    Raises:
        FFmpegError: If a packet is damaged and `skip_damage` is False.
    """
    # Frame threads hang when a decoder is left early: https://github.com/PyAV-Org/PyAV/issues/1962
    if not stream.codec_context.is_open:
        stream.codec_context.thread_count = 1
    for packet in packets(container, [stream]):
        try:
            yield from packet.decode()
        except FFmpegError:
            if not skip_damage:
                raise


def packets(
    container: InputContainer, streams: list[VideoStream | AudioStream]
) -> Iterator[Packet]:
    """Packets of the streams up to the end of the file or to where it breaks off, then flushes."""
    try:
        yield from container.demux(streams)
    except FFmpegError:
        for stream in streams:
            flush = Packet()
            flush.stream = stream
            yield flush


def duration_s(container: InputContainer) -> float:
    """Length of the presentation that is really in the file; 0 for a still image.

    A header is believed only where a complete index proves that all data is there. Otherwise the
    last packets are looked for, and where there are none near the claimed end, all of them.

    Args:
        container: An open file; its position does not change.

    Returns:
        Seconds from the first presented frame or sample to the end of the last.

    Raises:
        MediaError: If the file holds no packet at all.
    """
    if is_still_image(container):
        return 0.0
    claimed_s = _claimed_duration_s(container)
    if claimed_s and all(_is_proven(stream) for stream in playable_streams(container)):
        return claimed_s
    path = file_path(container)
    if claimed_s:
        tail_end_s = _last_end_s(path, claimed_s - _TAIL_S)
        if tail_end_s is not None and tail_end_s > claimed_s - _ROUNDING_S:
            return max(claimed_s, tail_end_s)
    measured_s = _last_end_s(path, 0.0)
    if measured_s is None:
        raise MediaError(path, "empty", "the file has a header but no audio or video data")
    return measured_s


def _claimed_duration_s(container: InputContainer) -> float | None:
    ends = [
        float(((stream.start_time or 0) + stream.duration) * stream.time_base)
        for stream in playable_streams(container)
        if stream.duration is not None and stream.time_base is not None
    ]
    if len(ends) == len(playable_streams(container)):
        return max(ends) - origin_s(container)
    return None if container.duration is None else container.duration / av.time_base


def _is_proven(stream: VideoStream | AudioStream) -> bool:
    """True if the index lists every packet and the file is long enough to hold the last one."""
    index = stream.index_entries
    if stream.duration is None or not 0 < stream.frames <= len(index):
        return False
    last = index[len(index) - 1]
    return last.pos + last.size <= stream.container.size  # pyright: ignore


def _last_end_s(path: str, from_s: float) -> float | None:
    """When the last packet ends, looking from about `from_s` on; None if none is found there."""
    with open_container(path) as container:
        origin = origin_s(container)
        try:
            if from_s > 0:
                container.seek(int((origin + from_s) * av.time_base))
        except FFmpegError:
            return None
        ends = (_end_s(packet) for packet in packets(container, playable_streams(container)))
        last = max((end for end in ends if end is not None), default=None)
    return None if last is None else max(last - origin, 0.0)


def _end_s(packet: Packet) -> float | None:
    if packet.pts is None or packet.is_discard:
        return None
    length_s = float((packet.duration or 0) * packet.time_base)
    begin_s = float(packet.pts * packet.time_base)
    return begin_s + length_s if length_s < _LONGEST_PACKET_S else begin_s


def stored_size(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """Width and height of a frame in square pixels, before it is turned upright."""
    aspect = stream.sample_aspect_ratio
    if not aspect or not _PIXEL_ASPECTS[0] <= aspect <= _PIXEL_ASPECTS[1]:
        return frame.width, frame.height
    return max(1, round(frame.width * aspect)), frame.height


def quarter_turns(frame: VideoFrame) -> int:
    """How many times the frame is turned counterclockwise by 90 degrees for display, 0 to 3."""
    return round(frame.rotation / 90) % 4


def probe(path: str | Path) -> MediaInfo:
    """Say what a file holds; decodes its first picture.

    Args:
        path: A local file.

    Returns:
        Facts about the tracks that `decode_frames` and `decode_waveform` would read.

    Raises:
        MediaError: If the file is missing, empty or unreadable, or its only track undecodable.
    """
    with open_container(path) as container:
        video, audio = video_stream(container), audio_stream(container)
        is_image = is_still_image(container)
        length_s = duration_s(container)
        frame = None if video is None else next(decoded(container, video), None)
        if frame is None and audio is None:
            raise MediaError(str(path), "undecodable", "not one picture of it can be decoded")
        width = height = fps = None
        turns = 0
        if frame is not None and video is not None:
            turns = quarter_turns(frame)
            width, height = stored_size(frame, video)[:: -1 if turns % 2 else 1]
            fps = None if is_image or not video.average_rate else float(video.average_rate)
        return MediaInfo(
            path=str(path),
            format=container.format.name,
            duration_s=length_s,
            has_video=frame is not None,
            has_audio=audio is not None,
            is_image=is_image,
            width=width,
            height=height,
            fps=fps,
            rotation_deg=90 * turns,
            sample_rate_hz=audio and audio.codec_context.sample_rate,
            channels=audio and audio.codec_context.channels,
            num_audio_tracks=len(_audio_tracks(container)),
        )
