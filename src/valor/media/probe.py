"""Say what is in a media file, and how long it really is.

Entry points: `probe`, and `duration_s` for a file that is open.
"""

import itertools
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from valor.errors import MediaError
from valor.media.container import (
    TIME_LIMIT_S,
    audio_stream,
    audio_tracks,
    decoded,
    file_path,
    go_to,
    is_still_image,
    open_container,
    origin_s,
    packets,
    playable_streams,
    time_limit,
    video_stream,
)
from valor.media.isolation import isolated
from valor.media.pictures import orientation, stored_size

_TAIL_S = 5.0
"""How much of a recording's end is read to find out whether it is there."""

_ROUNDING_S = 1.0
"""By how much a last packet may end before the claimed end; some packets know no length."""

MAX_DURATION_S = 1e6
"""Eleven days; a header that claims more is damaged, and would be cut into endless segments."""

_MAX_TAGS, _MAX_LETTERS = 64, 1000
"""Of a container; a header may hold megabytes of them."""
_FORMAT_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder"}
"""Say nothing about the recording."""
_LONGEST_PACKET_S = 1e4
"""A packet whose samples are trimmed below zero claims an unsigned length of days."""


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
    tags: dict[str, str]
    """What the container says of itself by lower-case name, such as `title` and `creation_time`."""


def duration_s(container: InputContainer) -> float:
    """Length of the presentation that is really in the file; 0 for a still image.

    A header is believed only where a complete index proves that all data is there. Otherwise the
    last packets are looked for, and where there are none near the claimed end, all of them.

    Args:
        container: An open file; its position does not change.

    Returns:
        Seconds from the first presented frame or sample to the end of the last.

    Raises:
        MediaError: If the file holds no packet at all (`empty`), or claims more than
            `MAX_DURATION_S` (`too_long`).
    """
    if is_still_image(container):
        return 0.0
    path, length_s = file_path(container), _claimed_duration_s(container)
    if not length_s or not all(_is_proven(stream) for stream in playable_streams(container)):
        length_s = _measured_duration_s(path, length_s, Path(path).stat().st_mtime_ns)
    if length_s > MAX_DURATION_S:
        detail = f"claims to last {length_s:.0f} s, more than {MAX_DURATION_S:.0f} s"
        raise MediaError(path, "too_long", detail)
    return length_s


@lru_cache(maxsize=64)
def _measured_duration_s(path: str, claimed_s: float | None, modified_ns: int) -> float:
    """Where the last packet ends; remembered, for all segments of a recording ask for it."""
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
        return max(0.0, max(ends) - origin_s(container))
    return None if container.duration is None else max(0.0, container.duration / av.time_base)


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
                go_to(container, origin + from_s)
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


@isolated
def probe(path: str | Path, *, time_limit_s: float = TIME_LIMIT_S) -> MediaInfo:
    """Say what a file holds; decodes its first picture.

    Args:
        path: A local file.
        time_limit_s: A file that takes longer is given up as `too_slow`.

    Returns:
        Facts about the tracks that `decode_frames` and `decode_waveform` would read.

    Raises:
        MediaError: If the file is missing, empty or unreadable, its only track undecodable, it
            claims an impossible length, or takes too much time.
    """
    with time_limit(time_limit_s), open_container(path) as container:
        video, audio = video_stream(container), audio_stream(container)
        is_image = is_still_image(container)
        length_s = duration_s(container)
        frame = None if video is None else next(decoded(packets(container, [video])), None)
        if frame is None and audio is None:
            raise MediaError(str(path), "undecodable", "not one picture of it can be decoded")
        width = height = fps = None
        turns = 0
        if frame is not None and video is not None:
            _, turns = orientation(frame)
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
            num_audio_tracks=len(audio_tracks(container)),
            tags=_tags(container),
        )


def _tags(container: InputContainer) -> dict[str, str]:
    named = ((_unicode(name), _unicode(text)) for name, text in container.metadata.items())
    tags = {name.lower()[:_MAX_LETTERS]: text for name, text in named}
    found = itertools.islice(((n, t) for n, t in tags.items() if n not in _FORMAT_TAGS), _MAX_TAGS)
    return {name: text[:_MAX_LETTERS] for name, text in found}


def _unicode(text: str) -> str:
    """Text with a sign in the place of what is not UTF-8, which PyAV 19 lets through as it is."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
