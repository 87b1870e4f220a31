from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.long_recording import repeat
from valor.data.world.render import write_mp4
from valor.data.world.scene import DURATION_S, FPS, SIZE_PX
from valor.media.probe import probe
from valor.media.segments import DecodePlan, decode_segment
from valor.search import ingest
from valor.search.library import Library
from valor.types import Embeddings, Modality, Segment

RATE_HZ = 16_000
HOURS = 3
EVENT_S = 6404.0
"""Where the event begins; no multiple of the segments' length."""


class ColourModel:
    """Sees the mean colour of each frame, and hears the share of four bands in each second."""

    fingerprint = "colours"
    groups = (Modality.VISION, Modality.AUDIO)
    segment_s = 10.0
    plan = DecodePlan(num_frames=10, short_side_px=16, sample_rate_hz=RATE_HZ)

    def read(self, path, *, start_s=0.0, end_s=None, keyframes_only=False) -> Segment:
        return decode_segment(path, self.plan, start_s=start_s, end_s=end_s)

    def embed_media(self, segments: Sequence[Segment]) -> dict[Modality, Embeddings]:
        seen, heard = [], []
        for segment in segments:
            seen.append(segment.frames.reshape(len(segment.frames), -1, 3).mean(axis=1) - 128)
            whole = len(segment.waveform) // RATE_HZ * RATE_HZ
            power = np.abs(np.fft.rfft(segment.waveform[:whole].reshape(-1, RATE_HZ)))
            bands = np.stack([part.sum(axis=1) for part in np.array_split(power, 4, axis=1)], 1)
            heard.append(bands - bands.mean(axis=1, keepdims=True))
        return {Modality.VISION: unit(seen, 0), Modality.AUDIO: unit(heard, 3)}

    def embed_text(self, texts: Sequence[str]) -> Embeddings:
        known = {"red": [1, -1, -1], "hiss": [-1, -1, -1, 3]}
        return unit([[known.get(text, [0, 0, 1])] for text in texts], 3 * (texts == ["hiss"]))


def unit(rows: Sequence, first: int) -> Embeddings:
    """Rows of vectors, which begin at a place of the shared space."""
    longest = max(map(len, rows))
    vectors, valid = torch.zeros(len(rows), longest, 8), torch.zeros(len(rows), longest).bool()
    for index, row in enumerate(rows):
        values = torch.as_tensor(np.array(row), dtype=torch.float32)
        vectors[index, : len(row), first : first + values.shape[1]] = values
        valid[index, : len(row)] = True
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    return Embeddings(vectors=vectors, weight_logits=0 * vectors[..., 0], valid=valid)


def write(path: Path, colour: tuple[int, int, int], sound: np.ndarray) -> Path:
    num_frames = int(DURATION_S * FPS)
    grain = np.random.default_rng(0).integers(0, 40, (num_frames, SIZE_PX, SIZE_PX, 1))
    write_mp4(path, (grain + np.array(colour)).astype(np.uint8), sound.astype(np.float32))
    return path


@pytest.mark.slow
@pytest.mark.media
def test_event_of_four_seconds_in_three_hours_is_found_at_its_second(tmp_path, monkeypatch):
    monkeypatch.setattr(ingest, "probe", probe)
    times_s = np.arange(int(DURATION_S * RATE_HZ)) / RATE_HZ
    hum, noise = 0.2 * np.sin(900 * times_s), np.random.default_rng(0).normal(size=len(times_s))
    clips = [
        write(tmp_path / "usual.mp4", (40, 120, 160), hum),
        write(tmp_path / "event.mp4", (210, 20, 20), np.diff(0.1 * noise, prepend=0, append=0)[1:]),
    ]
    order = [0] * int(HOURS * 3600 / DURATION_S)
    order[int(EVENT_S / DURATION_S)] = 1
    repeat(clips, order, tmp_path / "long.mkv")
    library = Library(tmp_path / "library", model=ColourModel())
    report = library.add(tmp_path / "long.mkv")
    assert (report.num_segments, report.bad) == (HOURS * 360, [])
    for text, using in (("red", "vision"), ("hiss", "audio"), ("red", "auto"), ("hiss", "auto")):
        first, second = library.search(text, using=using, limit=2)
        assert EVENT_S <= first.moment_s <= EVENT_S + DURATION_S
        assert second.score < first.score
