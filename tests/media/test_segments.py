"""Segments cover a recording; what is seen and heard in one belongs together, or is absent."""

import re
import struct
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from valor.config import from_dict, to_dict
from valor.errors import ConfigError, MediaError
from valor.media import segments as reading
from valor.media.isolation import isolate
from valor.media.probe import probe
from valor.media.segments import DecodePlan, cut, decode_segment, decode_segments, frame_times
from valor.types import AUDIOVISUAL, Modality, Segment

RATE_HZ = 16_000
PLAN = DecodePlan(num_frames=4, short_side_px=16, sample_rate_hz=RATE_HZ)
STEPS_S = np.arange(40) / 10


@pytest.mark.parametrize("duration_s", [0.0, 0.3, 4.0, 4.2, 7.9999999, 8.0, 9.5, 12.3, 3600.1])
@pytest.mark.parametrize("segment_s", [0.1, 2.0, 4.0, 10.0])
@pytest.mark.parametrize("min_last_s", [0.0, 1.0])
def test_segments_cover_the_recording_once(duration_s: float, segment_s: float, min_last_s: float):
    segments = cut(duration_s, segment_s=segment_s, min_last_s=min_last_s)
    starts, ends = zip(*segments, strict=True)
    assert (starts[0], ends[-1]) == (0.0, duration_s)
    assert starts[1:] == ends[:-1]
    lengths = np.subtract(ends, starts)
    np.testing.assert_allclose(lengths[:-1], segment_s)
    if len(segments) > 1:
        assert min(min_last_s, segment_s) - 1e-5 < lengths[-1]
    assert lengths[-1] < segment_s + min_last_s + 1e-5


def test_segments_need_a_length():
    with pytest.raises(ValueError, match="segment_s=0 must be positive"):
        cut(10.0, segment_s=0)


@pytest.mark.parametrize("num_frames", [1, 2, 7, 64])
@pytest.mark.parametrize("frames_per_burst", [1, 2, 5])
@pytest.mark.parametrize(("start_s", "end_s"), [(0.0, 4.0), (7.3, 7.4), (100.0, 160.0)])
def test_every_time_is_inside_the_segment(
    num_frames: int, frames_per_burst: int, start_s: float, end_s: float
):
    plan = DecodePlan(
        num_frames=num_frames,
        frames_per_burst=frames_per_burst,
        short_side_px=16,
        sample_rate_hz=RATE_HZ,
    )
    times_s = frame_times(start_s, end_s, plan).reshape(num_frames, frames_per_burst)
    assert (times_s >= start_s).all()
    assert (times_s < end_s).all()
    steps_s = np.diff(times_s, axis=1)
    np.testing.assert_allclose(steps_s, min(0.125, (end_s - start_s) / frames_per_burst))
    mirrored = start_s + end_s - times_s[::-1, ::-1]
    np.testing.assert_allclose(times_s, mirrored)


def test_positions_are_the_centres_of_equal_parts():
    assert frame_times(2.0, 4.0, PLAN).tolist() == [2.25, 2.75, 3.25, 3.75]


@pytest.mark.parametrize("field", ["num_frames", "frames_per_burst", "sample_rate_hz"])
def test_a_plan_that_reads_nothing_is_refused(field: str):
    with pytest.raises(ConfigError, match=field):
        from_dict(DecodePlan, {**to_dict(PLAN), field: 0})


@pytest.mark.media
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("flash_s", [0.4, 3.6, 8.8])
@pytest.mark.parametrize("clock_s", [0.0, 5.0])
def test_a_flash_and_a_beep_at_the_same_time_are_found_together(
    render, beep, suffix: str, flash_s: float, clock_s: float
):
    times_s = np.arange(250) / 25
    black, white = np.zeros((32, 48, 3), np.uint8), np.full((32, 48, 3), 255, np.uint8)
    pictures = [(clock_s + t, white if flash_s <= t < flash_s + 0.1 else black) for t in times_s]
    sounds = [(clock_s, beep(length_s=10, at_s=flash_s))]
    path = render(f"a.{suffix}", pictures=pictures, sounds=sounds)
    plan = DecodePlan(num_frames=200, short_side_px=16, sample_rate_hz=RATE_HZ)
    segment = decode_segment(path, plan, start_s=flash_s - 0.4, end_s=flash_s + 0.6)
    assert segment.frames is not None
    assert segment.frame_times_s is not None
    assert segment.waveform is not None
    seen_s = segment.frame_times_s[segment.frames.mean(axis=(1, 2, 3)) > 128].min()
    heard_s = segment.start_s + np.flatnonzero(np.abs(segment.waveform) > 0.2)[0] / RATE_HZ
    assert heard_s == pytest.approx(seen_s, abs=0.04)
    assert seen_s == pytest.approx(flash_s, abs=0.1)


def with_edited_start(path: Path, cut_s: float) -> None:
    """Makes the edit list of each track begin later in its samples."""
    with av.open(str(path)) as container:
        units = [float(stream.time_base) for stream in container.streams]
    content = bytearray(path.read_bytes())
    (units_per_s,) = struct.unpack_from(">I", content, content.index(b"mvhd") + 16)
    places = [found.end() for found in re.finditer(b"elst", content)]
    for place, unit_s in zip(places, units, strict=True):
        version, num_entries, length, begin = struct.unpack_from(">IIIi", content, place)
        assert (version, num_entries) == (0, 1)
        edit = (length - round(units_per_s * cut_s), begin + round(cut_s / unit_s))
        struct.pack_into(">Ii", content, place + 8, *edit)
    path.write_bytes(content)


@pytest.mark.media
@pytest.mark.parametrize("cut_s", [0.5, 1.3, 2.02])
@pytest.mark.parametrize("start_s", [0.0, 0.2, 4.7])
def test_what_an_edit_list_cuts_off_is_not_there(render, beep, cut_s: float, start_s: float):
    times_s = np.arange(250) / 25
    flash_s = 5.0
    black, white = np.zeros((32, 48, 3), np.uint8), np.full((32, 48, 3), 255, np.uint8)
    pictures = [(t, white if flash_s <= t < flash_s + 0.2 else black) for t in times_s]
    path = render("a.mp4", pictures=pictures, sounds=[(0.0, beep(length_s=10, at_s=flash_s))])
    with_edited_start(path, cut_s)
    assert probe(path).duration_s == pytest.approx(10 - cut_s, abs=0.1)
    start_s = min(start_s, flash_s - cut_s - 0.1)
    plan = DecodePlan(num_frames=200, short_side_px=16, sample_rate_hz=RATE_HZ)
    segment = decode_segment(path, plan, start_s=start_s)
    seen_s = segment.frame_times_s[segment.frames.mean(axis=(1, 2, 3)) > 128].min()
    heard_s = start_s + np.flatnonzero(np.abs(segment.waveform) > 0.2)[0] / RATE_HZ
    assert seen_s == pytest.approx(flash_s - cut_s, abs=0.04)
    assert heard_s == pytest.approx(flash_s - cut_s, abs=0.04)


@pytest.mark.media
def test_keyframes_show_the_same_events_within_a_gop(render):
    gop_s, colours = 0.5, np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]])
    events_s = np.array([1.3, 4.6, 6.1, 8.2])
    pictures = []
    for time_s in np.arange(250) / 25:
        picture = np.full((32, 48, 3), 90, np.uint8)
        for event_s, colour in zip(events_s, colours, strict=True):
            if event_s <= time_s < event_s + 0.7:
                picture[:] = colour
        pictures.append((time_s, picture))
    path = render("a.mp4", pictures=pictures, options={"g": "12"})

    def first_seen_s(plan: DecodePlan) -> list[float]:
        segments = [decode_segment(path, plan, start_s=s, end_s=s + 2.5) for s in (0, 2.5, 5, 7.5)]
        times_s = np.concatenate([segment.frame_times_s for segment in segments])
        seen = np.concatenate([segment.frames.mean(axis=(1, 2)) for segment in segments])
        return [times_s[np.abs(seen - colour).max(axis=1) < 30].min() for colour in colours]

    plan = DecodePlan(num_frames=20, short_side_px=16, sample_rate_hz=RATE_HZ)
    found_s = first_seen_s(replace(plan, keyframes_only=True))
    np.testing.assert_allclose(first_seen_s(plan), events_s, atol=0.13)
    np.testing.assert_allclose(found_s, events_s, atol=gop_s)


@pytest.mark.media
def test_each_track_is_there_or_none(render, grays, beep):
    pictures, sounds = grays(STEPS_S), [(0.0, beep(length_s=4, at_s=1))]
    both = decode_segment(render("both.mp4", pictures=pictures, sounds=sounds), PLAN)
    assert both.available == AUDIOVISUAL
    assert both.frames is not None
    assert both.frames.shape == (4, 16, 24, 3)
    seen = decode_segment(render("seen.mp4", pictures=pictures), PLAN)
    assert (seen.available, seen.waveform) == (Modality.VISION, None)
    heard = decode_segment(render("heard.m4a", sounds=sounds), PLAN)
    assert (heard.available, heard.frames) == (Modality.AUDIO, None)


@pytest.mark.media
def test_silence_is_told_from_absence(render, grays):
    path = render("a.mp4", pictures=grays(STEPS_S), sounds=[(0.0, np.zeros((1, 4 * RATE_HZ)))])
    segment = decode_segment(path, PLAN)
    assert segment.is_silent
    assert segment.waveform is not None
    assert segment.available == Modality.VISION


@pytest.mark.media
def test_sound_too_short_to_hear_anything_in_is_absent(render, grays, beep):
    sounds = [(0.0, beep(length_s=4, at_s=0, for_s=4))]
    path = render("a.mp4", pictures=grays(STEPS_S), sounds=sounds)
    stretches = [(0.0, 1.0), (1.0, 1.02), (1.02, 1.05)]
    for segments in (alone(path, stretches), list(decode_segments(path, PLAN, stretches))):
        groups = [segment.available for segment in segments]
        assert groups == [AUDIOVISUAL, Modality.VISION, AUDIOVISUAL]
    with pytest.raises(MediaError, match="neither picture nor sound"):
        decode_segment(render("a.m4a", sounds=sounds), PLAN, start_s=1.0, end_s=1.02)


@pytest.mark.media
def test_the_end_is_that_of_the_recording(render, grays):
    path = render("a.mp4", pictures=grays(STEPS_S))
    assert decode_segment(path, PLAN, start_s=3.0, end_s=9.0).end_s == probe(path).duration_s
    for start_s, end_s in [(60.0, 64.0), (2.0, 2.0), (-1.0, 2.0)]:
        with pytest.raises(MediaError) as caught:
            decode_segment(path, PLAN, start_s=start_s, end_s=end_s)
        assert caught.value.reason == "outside"


@pytest.mark.media
def test_a_still_image_is_one_burst_of_itself(tmp_path: Path):
    Image.new("RGB", (60, 40), (200, 100, 50)).save(tmp_path / "a.png")
    plan = DecodePlan(num_frames=4, frames_per_burst=3, short_side_px=16, sample_rate_hz=RATE_HZ)
    (stretch,) = cut(probe(tmp_path / "a.png").duration_s, segment_s=4.0)
    segment = decode_segment(tmp_path / "a.png", plan, start_s=stretch[0], end_s=stretch[1])
    assert segment.frames is not None
    assert segment.frames.shape == (3, 16, 24, 3)
    assert (segment.frames == segment.frames[0, 0, 0]).all()
    assert segment.available == Modality.VISION


def with_zeroed_packets(path: Path, *kinds: str) -> Path:
    """A copy of the file whose streams of these kinds hold nothing but zeros."""
    copy = path.with_stem("zeroed")
    with av.open(str(path)) as source, av.open(str(copy), "w") as target:
        streams = [target.add_stream_from_template(stream) for stream in source.streams]
        for packet in source.demux():
            if packet.dts is None:
                continue
            written = av.Packet(bytes(packet.size)) if packet.stream.type in kinds else packet
            written.pts, written.dts, written.time_base = packet.pts, packet.dts, packet.time_base
            written.stream = streams[packet.stream_index]
            target.mux(written)
    return copy


@pytest.mark.media
def test_a_track_that_cannot_be_decoded_leaves_the_other(render, grays, beep):
    path = render("a.mkv", pictures=grays(STEPS_S), sounds=[(0.0, beep(length_s=4, at_s=1))])
    assert decode_segment(with_zeroed_packets(path, "video"), PLAN).available == Modality.AUDIO
    assert decode_segment(with_zeroed_packets(path, "audio"), PLAN).available == Modality.VISION
    with pytest.raises(MediaError):
        decode_segment(with_zeroed_packets(path, "video", "audio"), PLAN)


@pytest.mark.media
def test_a_cut_off_file_gives_what_is_left(render, truncate):
    noise = np.random.default_rng(0)
    pictures = [(t, noise.integers(0, 255, (32, 48, 3), dtype=np.uint8)) for t in STEPS_S]
    sounds = [(0.0, noise.uniform(-0.5, 0.5, (1, 4 * RATE_HZ)))]
    path = truncate(render("a.mkv", pictures=pictures, sounds=sounds), 0.5)
    segment = decode_segment(path, PLAN)
    assert segment.available == AUDIOVISUAL
    assert 1 < segment.end_s < 3


def alone(path: Path, stretches: list[tuple[float, float]]) -> list[Segment]:
    return [decode_segment(path, PLAN, start_s=begin, end_s=end) for begin, end in stretches]


def check_equal(found: list[Segment], wanted: list[Segment]) -> None:
    assert [(s.start_s, s.end_s, s.available) for s in found] == [
        (s.start_s, s.end_s, s.available) for s in wanted
    ]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one.frames, other.frames)
        np.testing.assert_array_equal(one.frame_times_s, other.frame_times_s)
        if one.waveform is not None:
            # A decoder that goes on may round otherwise than one that began anew.
            np.testing.assert_allclose(one.waveform, other.waveform, atol=1e-4)


@pytest.fixture
def read_alone(monkeypatch) -> list[float]:
    """The starts of segments that were read by themselves."""
    starts_s = []
    original = decode_segment

    def counted(path, plan, *, start_s, end_s):
        starts_s.append(start_s)
        return original(path, plan, start_s=start_s, end_s=end_s)

    monkeypatch.setattr(reading, "decode_segment", counted)
    return starts_s


UNEVEN_S = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.2, 90))
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 8 * RATE_HZ))
ODD = {
    "even.mp4": (np.arange(200) / 25, 0.0, 0.0),
    "uneven.mp4": (UNEVEN_S, 0.0, 0.0),
    "uneven.mkv": (UNEVEN_S, 0.0, 0.0),
    "late sound.mp4": (np.arange(200) / 25, 1.7, 0.0),
    "late pictures.mkv": (np.arange(100) / 25 + 3, 0.0, 0.0),
    "clock.ts": (np.arange(200) / 25, 0.0, 5.0),
    "before zero.mp4": (np.arange(200) / 25, 0.0, -1.5),
    "no sound.avi": (np.arange(200) / 25, None, 0.0),
    "no pictures.wav": ((), 0.0, 0.0),
}


@pytest.mark.media
@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("gop", [250, 12])
def test_one_pass_gives_what_each_segment_alone_gives(
    render, grays, read_alone, name: str, gop: int
):
    times_s, sound_s, clock_s = ODD[name]
    pictures = [(time_s + clock_s, picture) for time_s, picture in grays(times_s)]
    sounds = [] if sound_s is None else [(sound_s + clock_s, NOISE)]
    path = render(name, pictures=pictures, sounds=sounds, options={"g": str(gop)})
    stretches = cut(probe(path).duration_s, segment_s=0.9)
    assert len(stretches) >= 7
    found = list(decode_segments(path, PLAN, stretches))
    assert not read_alone
    check_equal(found, alone(path, stretches))
    # As of a thread that reads every other run.
    some = [*stretches[1:3], *stretches[5:7]]
    check_equal(list(decode_segments(path, PLAN, some)), alone(path, some))


@pytest.mark.media
def test_a_damaged_middle_is_read_segment_by_segment(render, read_alone):
    noise = np.random.default_rng(0).integers(0, 255, (250, 32, 48, 3), dtype=np.uint8)
    path = render("a.mkv", pictures=list(zip(np.arange(250) / 25, noise, strict=True)))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20_000] = bytes(20_000)
    path.write_bytes(content)
    stretches = cut(probe(path).duration_s, segment_s=1.0)
    found = list(decode_segments(path, PLAN, stretches))
    assert 0 < len(read_alone) < len(stretches) - 2
    check_equal(found, alone(path, stretches))


@pytest.mark.media
@pytest.mark.parametrize("is_image", [False, True])
def test_what_ends_before_its_header_says_or_is_a_still_is_read(
    render, grays, truncate, tmp_path: Path, is_image: bool
):
    if is_image:
        path = tmp_path / "a.png"
        Image.new("RGB", (60, 40), (200, 100, 50)).save(path)
    else:
        path = render("a.mkv", pictures=grays(np.arange(250) / 25), sounds=[(0.0, NOISE)])
        path = truncate(path, 0.6)
    stretches = cut(probe(path).duration_s, segment_s=1.0)
    check_equal(list(decode_segments(path, PLAN, stretches)), alone(path, stretches))
    beyond = [*stretches, (60.0, 61.0)]
    segments = decode_segments(path, PLAN, beyond)
    if not is_image:
        check_equal([next(segments) for _ in stretches], alone(path, stretches))
        with pytest.raises(MediaError, match="is empty"):
            next(segments)


@pytest.mark.media
def test_keyframes_are_the_same_in_order(render, grays):
    path = render("a.mp4", pictures=grays(np.arange(250) / 25), options={"g": "12"})
    plan, stretches = replace(PLAN, keyframes_only=True), cut(10.0, segment_s=2.0)
    wanted = [decode_segment(path, plan, start_s=begin, end_s=end) for begin, end in stretches]
    check_equal(list(decode_segments(path, plan, stretches)), wanted)


@pytest.mark.media
def test_a_pass_that_takes_too_long_ends_there(render, grays):
    path = render("a.mp4", pictures=grays(np.arange(250) / 25))
    plan = replace(PLAN, time_limit_s=1e-9)
    with pytest.raises(MediaError) as caught:
        next(decode_segments(path, plan, [(0.0, 1.0), (1.0, 2.0)]))
    assert caught.value.reason == "too_slow"


@pytest.mark.parametrize("is_heavy", [False, True])
def test_elsewhere_many_segments_are_one_call_unless_that_is_too_much(is_heavy: bool):
    calls = []

    def run(name, path, plan, *stretches, **stretch):
        calls.append(name)
        if name == "decode_segment":
            return stretch["start_s"]
        if is_heavy:
            raise MediaError(path, "too_slow", "takes long")
        return [start_s for start_s, _ in stretches[0]]

    stretches = [(float(start), start + 1.0) for start in range(20)]
    with isolate(run):
        found = list(decode_segments("a.mp4", PLAN, stretches))
    assert found == [start_s for start_s, _ in stretches]
    heavy = ["decode_stretches", *["decode_segment"] * 20]
    assert calls == (heavy if is_heavy else ["decode_stretches"] * 2)
