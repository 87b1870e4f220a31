"""Laws of what training sees of a sample: random moments, each in its own part."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.test_loader import PROCESSOR
from valor.data.executors import LocalExecutor
from valor.data.manifest import Record, read_manifest
from valor.data.reading import (
    Draw,
    FileSource,
    ShardSource,
    read_shards,
    view_times,
    view_windows,
    window_s,
)
from valor.data.sharding import ShardConfig, encode_audio, shard
from valor.data.shards import Shards, encode_jpeg
from valor.errors import MediaError
from valor.media.segments import DecodePlan, frame_times
from valor.processing.extractors import WhisperConfig
from valor.processing.spectrogram import SpectrogramConfig, log_mel

PLAN = DecodePlan(num_frames=5, short_side_px=8, sample_rate_hz=8000)
BURSTS = DecodePlan(num_frames=3, frames_per_burst=4, short_side_px=8, sample_rate_hz=8000)


def test_without_a_generator_the_middles_are_seen_and_all_is_heard():
    for plan in (PLAN, BURSTS):
        assert (view_times(2.0, 12.0, plan, None) == frame_times(2.0, 12.0, plan)).all()
    assert view_windows(2.0, 12.0, SpectrogramConfig(), None) == [(2.0, 12.0)]


def test_a_random_frame_of_each_part_is_seen():
    rng = np.random.default_rng(0)
    times_s = np.stack([view_times(2.0, 12.0, PLAN, rng) for _ in range(500)])
    parts = (times_s - 2.0) / 2.0 - np.arange(5)
    assert parts.min() >= 0
    assert parts.max() < 1
    assert (abs(parts.mean(axis=0) - 0.5) < 0.05).all()
    assert (parts.min(axis=0) < 0.02).all()
    assert (parts.max(axis=0) > 0.98).all()


def test_a_burst_keeps_its_shape_and_stays_inside():
    rng = np.random.default_rng(0)
    for length_s in (0.3, 2.0, 10.0):
        times_s = np.stack([view_times(1.0, 1 + length_s, BURSTS, rng) for _ in range(100)])
        assert times_s.min() >= 1.0
        assert times_s.max() < 1.0 + length_s
        steps_s = np.diff(times_s.reshape(100, 3, 4))
        np.testing.assert_allclose(steps_s, min(0.125, length_s / 4))


@pytest.mark.parametrize(("length_s", "num"), [(0.5, 1), (5.0, 1), (7.0, 2), (10.24, 2), (60.0, 2)])
def test_windows_are_whole_and_inside_and_no_more_than_there_are(length_s, num):
    sound = SpectrogramConfig(num_windows=2)
    rng = np.random.default_rng(0)
    for _ in range(50):
        windows = view_windows(3.0, 3.0 + length_s, sound, rng)
        assert len(windows) == num
        for begin_s, end_s in windows:
            assert 3.0 <= begin_s < end_s <= 3.0 + length_s
            assert end_s - begin_s == pytest.approx(min(window_s(sound), length_s))
    assert view_windows(3.0, 3.0, sound, rng) == []


def test_a_windows_length_fills_it_exactly():
    import torch

    sound = SpectrogramConfig(hops_per_window=37)
    num_samples = round(window_s(sound) * sound.sample_rate_hz)
    assert len(log_mel(torch.zeros(num_samples), sound)) == 37
    assert len(log_mel(torch.zeros(num_samples - 1), sound)) == 36
    assert window_s(WhisperConfig()) == WhisperConfig().window_s


def test_images_and_sound_alone_are_read_from_files_and_shards_alike(world, tmp_path):
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(encode_jpeg(np.full((40, 60, 3), 99, np.uint8), 95))
    records = [Record(id="image", media=str(picture))]
    records.append(Record(id="late", media=read_manifest(world)[0].media, start_s=99.0))
    config = ShardConfig(short_side_px=40)
    shard(records, tmp_path / "shards", config, LocalExecutor(1))
    sources = (FileSource(records), ShardSource(Shards(tmp_path / "shards")))
    for draw in (None, Draw(seed=0, step=0)):
        for source in sources:
            sample = source.load(0, PROCESSOR, draw)[1]
            assert sample.spectrograms is None
            assert sample.pixels.shape[0] == PROCESSOR.plan.frames_per_burst
            assert np.abs(sample.pixels.astype(int) - 99).max() <= 2
        with pytest.raises(MediaError) as problem:
            sources[0].load(1, PROCESSOR, draw)
        assert problem.value.reason == "outside"


@pytest.mark.parametrize("draw", [None, Draw(seed=0, step=0)])
def test_sound_too_short_for_one_window_of_analysis_is_absent_however_it_is_read(
    world, tmp_path, draw
):
    first = read_manifest(world)[0]
    records = [
        Record(id=f"{end_s}", media=first.media, start_s=1.0, end_s=end_s)
        for end_s in (1.010, 1.030)
    ]
    shard(records, tmp_path / "shards", ShardConfig(content="original"), LocalExecutor(1))
    for source in (FileSource(records), ShardSource(Shards(tmp_path / "shards"))):
        samples = [source.load(row, PROCESSOR, draw)[1] for row in range(2)]
        assert all(sample.pixels is not None for sample in samples)
        assert [sample.spectrograms is None for sample in samples] == [True, False]
    path = tmp_path / "shards" / "short.flac"
    path.write_bytes(encode_audio(np.full(160, 0.5, np.float32), 16_000, "flac"))
    with pytest.raises(MediaError, match="neither picture nor sound"):
        FileSource([Record(id="sound", media=str(path))]).load(0, PROCESSOR, draw)


def test_originals_in_shards_are_the_files(world: Path, tmp_path):
    records = read_manifest(world)[:2]
    config = ShardConfig(content="original")
    shard(records, tmp_path, config, LocalExecutor(1))
    stored = ShardSource(Shards(tmp_path))
    for index in range(2):
        for draw in (None, Draw(seed=3, step=1)):
            left = stored.load(index, PROCESSOR, draw)[1]
            right = FileSource(records).load(index, PROCESSOR, draw)[1]
            assert (left.pixels == right.pixels).all()
            assert (left.spectrograms is None) == (right.spectrograms is None)
            if left.spectrograms is not None:
                assert (left.spectrograms == right.spectrograms).all()


def test_a_split_of_shards_is_its_records_row_for_row(world, tmp_path):
    records = read_manifest(world)
    config = ShardConfig(records_per_shard=5, short_side_px=16, fps=1.0)
    shard(records, tmp_path, config, LocalExecutor(2))
    chosen, source = read_shards(str(tmp_path), split="test")
    assert chosen == [record for record in records if record.split == "test"]
    assert [source.load(row, PROCESSOR, None)[0] for row in range(len(source))] == chosen
