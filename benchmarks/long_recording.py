"""Long recordings that cost little to make: a rendered clip whose packets are repeated."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

FPS, GOP = 25, 250
SIZE = (640, 360)
SAMPLE_RATE_HZ = 48_000
CLIP_S = 20


def textured_clip(path: Path, *, seconds: int = CLIP_S) -> None:
    """Render a landscape that moves under grain, with a chirp: some 2 Mbit/s of H.264 and AAC."""
    rng = np.random.default_rng(0)
    width, height = SIZE
    blocks = [np.kron(rng.integers(0, 80, (9 * k, 22 * k, 3)), np.ones((80 // k,) * 2 + (1,)))
              for k in (1, 4, 16)]  # fmt: skip
    far = np.sum(blocks, axis=0).astype(np.uint8)
    grain = rng.integers(0, 16, (16, height, width, 1), dtype=np.uint8)
    frames = (
        far[y : y + height, x : x + width] + grain[index % len(grain)]
        for index in range(seconds * FPS)
        for x, y in [(int(500 + 450 * np.sin(index / 70)), int(180 + 150 * np.cos(index / 50)))]
    )
    times_s = np.arange(seconds * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    write_clip(path, frames, 0.3 * np.sin(2 * np.pi * (200 + 40 * times_s) * times_s))


def write_clip(path: Path, frames: Any, sound: np.ndarray) -> None:
    """Encode RGB frames of `SIZE` at `FPS` and mono sound, one keyframe in `GOP` frames."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        video.options = {"g": str(GOP), "keyint_min": str(GOP), "sc_threshold": "0"}
        video.options |= {"preset": "veryfast", "b": "2M", "maxrate": "2M", "bufsize": "2M"}
        audio: Any = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for start in range(0, len(sound), 1024):
            chunk = sound[None, start : start + 1024].astype(np.float32)
            heard = av.AudioFrame.from_ndarray(chunk, format="fltp", layout="mono")
            heard.sample_rate, heard.pts = SAMPLE_RATE_HZ, start
            container.mux(audio.encode(heard))
        container.mux(audio.encode(None))


def repeat(clips: Sequence[Path], order: Sequence[int], out: Path) -> None:
    """Put clips of one length one after the other without encoding anything.

    Args:
        clips: With pictures and sound, of one kind.
        order: The number of the clip at each place.
        out: The recording.
    """
    read = [_packets(clip) for clip in clips]
    length_s = min(clip_s for _, clip_s in read)
    with av.open(str(clips[0])) as source, av.open(str(out), "w") as container:
        streams = [container.add_stream_from_template(stream) for stream in source.streams]
        for place, number in enumerate(order):
            for stream, pts, dts, unit_s, is_keyframe, content in read[number][0]:
                if not 0 <= pts * unit_s < length_s:
                    continue
                packet = av.Packet(content)
                shift = round(place * length_s / unit_s)
                packet.pts, packet.dts, packet.time_base = pts + shift, dts + shift, unit_s
                packet.is_keyframe, packet.stream = is_keyframe, streams[stream]
                container.mux(packet)


def _packets(clip: Path) -> tuple[list[tuple[int, int, int, Fraction, bool, bytes]], Fraction]:
    with av.open(str(clip)) as container:
        video = container.streams.video[0]
        assert video.average_rate is not None
        length_s = video.frames / video.average_rate
        found = [
            (p.stream.index, p.pts, p.dts, p.time_base, p.is_keyframe, bytes(p))
            for p in container.demux()
            if p.pts is not None and p.dts is not None
        ]
    return found, length_s
