"""Sound keeps its time and its loudness, and its absence stays absence."""

import itertools
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from valor.errors import MediaError
from valor.media import audio
from valor.media.audio import decode_waveform, is_silent

pytestmark = pytest.mark.media

RATE_HZ = 16_000


def onsets_s(waveform: np.ndarray | None, rate_hz: int = RATE_HZ) -> list[float]:
    """When sound begins after at least 50 ms without."""
    assert waveform is not None
    loud_s = np.flatnonzero(np.abs(waveform) > 0.1) / rate_hz
    return loud_s[np.diff(loud_s, prepend=-1) > 0.05].tolist()


def num_threads() -> int:
    """Of this process, with those that Python does not know."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "wav"])
@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100])
def test_a_beep_is_heard_when_it_sounds(render, beep, suffix: str, rate_hz: int):
    path = render(f"a.{suffix}", sounds=[(0.0, beep(length_s=5, at_s=3.2))])
    whole = decode_waveform(path, sample_rate_hz=rate_hz)
    assert whole is not None
    assert whole.dtype == np.float32
    assert len(whole) / rate_hz == pytest.approx(5, abs=0.1)
    assert onsets_s(whole, rate_hz) == pytest.approx([3.2], abs=0.005)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "wav"])
@pytest.mark.parametrize("start_s", [0.5, 1.9, 2.6, 5.25, 7.9])
def test_a_stretch_is_cut_from_the_whole(render, suffix: str, start_s: float):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 10 * RATE_HZ))
    path = render(f"a.{suffix}", sounds=[(0.0, samples)])
    whole = decode_waveform(path, sample_rate_hz=RATE_HZ)
    stretch = decode_waveform(path, sample_rate_hz=RATE_HZ, start_s=start_s, end_s=start_s + 1.5)
    assert whole is not None
    assert stretch is not None
    assert len(stretch) == 1.5 * RATE_HZ
    begin = round(start_s * RATE_HZ)
    # Matroska rounds its times to milliseconds, so that the stretch may be shifted by half of one.
    shifts = range(-8, 9) if suffix == "mkv" else [0]
    differences = [
        np.abs(whole[begin + shift : begin + shift + len(stretch)] - stretch).mean()
        for shift in shifts
    ]
    assert min(differences) < 0.01


def test_late_sound_stays_late(render, grays, beep):
    path = render(
        "a.mp4",
        pictures=grays(np.arange(40) / 10),
        sounds=[(1.0, beep(length_s=2, at_s=0.5))],
    )
    waveform = decode_waveform(path, sample_rate_hz=RATE_HZ)
    assert onsets_s(waveform) == pytest.approx([1.5], abs=0.005)
    assert waveform is not None
    assert not waveform[: round(0.9 * RATE_HZ)].any()
    before = decode_waveform(path, sample_rate_hz=RATE_HZ, end_s=0.5)
    assert before is not None
    assert is_silent(before)


def test_a_gap_in_the_sound_stays_a_gap(render, beep):
    sounds = [(0.0, beep(length_s=1, at_s=0.5)), (3.0, beep(length_s=1, at_s=0.5))]
    waveform = decode_waveform(render("a.mp4", sounds=sounds), sample_rate_hz=RATE_HZ)
    assert onsets_s(waveform) == pytest.approx([0.5, 3.5], abs=0.01)


def test_sound_that_ends_early_is_shorter_not_padded(render, grays, beep):
    path = render(
        "a.mp4", pictures=grays(np.arange(40) / 10), sounds=[(0.0, beep(length_s=1, at_s=0))]
    )
    waveform = decode_waveform(path, sample_rate_hz=RATE_HZ, end_s=4.0)
    assert waveform is not None
    assert len(waveform) / RATE_HZ == pytest.approx(1, abs=0.1)
    after = decode_waveform(path, sample_rate_hz=RATE_HZ, start_s=2.5, end_s=4.0)
    assert after is not None
    assert len(after) == 0


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_mixing_equal_channels_keeps_their_loudness(render, beep, channels: int):
    tone = np.tile(beep(length_s=1, at_s=0, for_s=1, peak=0.9), (channels, 1))
    waveform = decode_waveform(render("a.wav", sounds=[(0.0, tone)]), sample_rate_hz=RATE_HZ)
    assert waveform is not None
    assert np.abs(waveform).max() == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("channel", [0, 1, 2, 4, 5])
def test_each_place_of_surround_sound_is_heard(render, beep, channel: int):
    sound = np.zeros((6, RATE_HZ))
    sound[channel] = beep(length_s=1, at_s=0.5, for_s=0.4, peak=0.9)[0]
    waveform = decode_waveform(render("a.mka", sounds=[(0.0, sound)]), sample_rate_hz=RATE_HZ)
    assert waveform is not None
    assert 0.1 < np.abs(waveform[RATE_HZ // 2 :]).max() < 0.5
    assert np.abs(waveform[: RATE_HZ // 2 - 1024]).max() < 0.01


def wav(samples: np.ndarray, rate_hz: int) -> bytes:
    """A file of 32 bit floats, `[channels, samples]`, at any number of channels and any rate."""
    content = samples.T.astype("<f4").tobytes()
    width = 4 * len(samples)
    form = struct.pack("<HHIIHH", 3, len(samples), rate_hz, 0, width, 32)
    parts = b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(content))
    return b"RIFF" + struct.pack("<I", 28 + len(content)) + b"WAVE" + parts + content


@pytest.mark.parametrize("channels", [9, 32, 64])
def test_channels_in_unknown_places_count_alike(tmp_path: Path, beep, channels: int):
    sound = np.zeros((channels, RATE_HZ))
    sound[[0, channels - 1]] = beep(length_s=1, at_s=0, for_s=1, peak=0.9)
    (tmp_path / "a.wav").write_bytes(wav(sound, RATE_HZ))
    waveform = decode_waveform(tmp_path / "a.wav", sample_rate_hz=RATE_HZ)
    assert waveform is not None
    assert np.abs(waveform).max() == pytest.approx(1.8 / channels, rel=0.02)


@pytest.mark.parametrize("rate_hz", [1, 99, 10_000_001, 2**31 - 1])
def test_an_impossible_rate_is_refused(tmp_path: Path, rate_hz: int):
    (tmp_path / "a.wav").write_bytes(wav(np.ones((1, 1000)), rate_hz))
    with pytest.raises(MediaError) as caught:
        decode_waveform(tmp_path / "a.wav", sample_rate_hz=RATE_HZ, end_s=1.0)
    assert caught.value.reason == "undecodable"


def test_no_more_than_an_hour_is_decoded_at_once(render, beep):
    path = render("a.wav", sounds=[(0.0, beep(length_s=1, at_s=0))])
    with pytest.raises(MediaError, match="4000 s at once exceed 3600 s") as caught:
        decode_waveform(path, sample_rate_hz=RATE_HZ, end_s=4000.0)
    assert caught.value.reason == "too_long"


def test_memory_follows_the_stretch_however_often_time_starts_anew(render, beep, monkeypatch):
    path = render("a.wav", sounds=[(0.0, beep(length_s=1, at_s=0))])
    original = audio._frames

    def again_and_again(container):
        return itertools.chain.from_iterable(itertools.repeat(list(original(container)), 500))

    monkeypatch.setattr(audio, "_frames", again_and_again)
    tracemalloc.start()
    decode_waveform(path, sample_rate_hz=RATE_HZ, end_s=1.0)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 16 * 4 * RATE_HZ


@pytest.mark.parametrize("rate_hz", [8_000, 16_000])
def test_what_is_no_number_counts_as_nothing(render, beep, rate_hz: int):
    tone = beep(length_s=1, at_s=0, for_s=1)
    tone[0, 4000:4100], tone[0, 4200], tone[0, 4300] = np.nan, np.inf, 9.0
    waveform = decode_waveform(render("a.wav", sounds=[(0.0, tone)]), sample_rate_hz=rate_hz)
    assert waveform is not None
    assert np.isfinite(waveform).all()
    assert np.abs(waveform).max() <= 1
    assert np.abs(waveform[rate_hz // 2 :]).max() == pytest.approx(0.5, abs=0.02)


def test_a_file_without_a_track_has_no_waveform(render, grays):
    path = render("a.mp4", pictures=grays([0.0, 0.1]))
    assert decode_waveform(path, sample_rate_hz=RATE_HZ) is None


def test_a_cut_off_file_is_heard_up_to_the_break(render, truncate):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 10 * RATE_HZ))
    path = truncate(render("a.mkv", sounds=[(0.0, samples)]), 0.5)
    waveform = decode_waveform(path, sample_rate_hz=RATE_HZ)
    assert waveform is not None
    assert len(waveform) / RATE_HZ == pytest.approx(5, abs=1)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
def test_decoding_starts_no_threads(render, beep, monkeypatch):
    path = render("a.mp4", sounds=[(0.0, beep(length_s=1, at_s=0))])
    before = num_threads()
    during = []
    original = audio.decoded

    def watched(*args, **kwargs):
        for frame in original(*args, **kwargs):
            during.append(num_threads())
            yield frame

    monkeypatch.setattr(audio, "decoded", watched)
    decode_waveform(path, sample_rate_hz=8_000)
    assert set(during) == {before}


def test_a_missing_file_is_a_media_error(tmp_path):
    with pytest.raises(MediaError, match="no such file"):
        decode_waveform(tmp_path / "gone.mp4", sample_rate_hz=RATE_HZ)


def test_silence_is_quieter_than_any_recording(beep):
    noise = np.random.default_rng(0).normal(size=RATE_HZ)
    assert is_silent(np.zeros(RATE_HZ, np.float32))
    assert is_silent(np.zeros(0, np.float32))
    assert is_silent(2.0**-15 * np.sign(noise))
    assert not is_silent(1e-3 * noise)
    assert not is_silent(beep(length_s=1, at_s=0.5, for_s=0.01)[0])
