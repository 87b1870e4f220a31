"""Laws of decoding elsewhere: the same result, and a death is one failed item."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from valor.errors import MediaError
from valor.media.isolation import isolate
from valor.media.probe import probe
from valor.media.segments import DecodePlan, decode_segment
from valor.server import wire
from valor.server.sandbox import Limits, Sandbox


@pytest.fixture(scope="module")
def sandbox():
    made = Sandbox(num_workers=1)
    yield made
    made.close()


@pytest.fixture
def video(world: Path) -> str:
    return str(world / "media/test-000000.mp4")


def kill(sandbox: Sandbox) -> None:
    os.kill(sandbox._idle.queue[-1]._process.pid, signal.SIGSEGV)


def test_the_result_is_the_same_as_here(sandbox, video):
    plan = DecodePlan(num_frames=3, short_side_px=32, sample_rate_hz=16_000)
    here = probe(video), decode_segment(video, plan, start_s=1, end_s=2)
    with isolate(sandbox):
        there = probe(video), decode_segment(video, plan, start_s=1, end_s=2)
    assert there[0] == here[0]
    np.testing.assert_array_equal(there[1].frames, here[1].frames)
    np.testing.assert_array_equal(there[1].waveform, here[1].waveform)
    np.testing.assert_array_equal(there[1].frame_times_s, here[1].frame_times_s)


def test_the_end_of_one_isolation_leaves_the_others(sandbox, video):
    called = []

    def runner(name, *args, **kwargs):
        called.append(name)

    with isolate(runner):
        with isolate(sandbox):
            assert probe(video).has_audio
        assert probe(video) is None
    assert probe(video).has_audio
    assert called == ["probe"]


def test_the_reason_of_a_failure_comes_back(sandbox, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    with pytest.raises(MediaError) as failure:
        sandbox("probe", str(bad))
    assert (failure.value.reason, failure.value.path) == ("unreadable", str(bad))


def test_a_death_is_one_failed_item(sandbox, video):
    whole = sandbox("probe", video)
    kill(sandbox)
    with pytest.raises(MediaError) as failure:
        sandbox("probe", video)
    assert failure.value.reason == "crashed"
    assert sandbox.num_deaths == 1
    assert sandbox("probe", video) == whole


def test_a_decoder_that_takes_too_much_time_is_ended(video):
    sandbox = Sandbox(Limits(wall_s=0.001), num_workers=1)
    try:
        with pytest.raises(MediaError) as failure:
            sandbox("probe", video)
    finally:
        sandbox.close()
    assert failure.value.reason == "too_slow"


def test_a_file_that_takes_too_much_memory_is_refused(video):
    sandbox = Sandbox(Limits(memory_bytes=600 << 20), num_workers=1)
    with pytest.raises(MediaError) as failure:
        sandbox("decode_waveform", video, sample_rate_hz=100_000_000, start_s=0, end_s=4)
    assert failure.value.reason == "too_large"
    assert sandbox("probe", video).has_audio
    sandbox.close()


@pytest.mark.parametrize("header", [b'{"record": ["Popen", {"args": "true"}]}', b"[" * 100_000])
def test_a_message_can_hold_nothing_that_is_not_data(header):
    message = wire._SIZES.pack(len(header), 0) + header
    parts = iter([message[: wire._SIZES.size], header, b""])
    with pytest.raises((KeyError, ValueError, RecursionError)):
        wire.read(lambda size: next(parts))
