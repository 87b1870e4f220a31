"""Files are opened safely, and described by what is in them rather than by what they claim."""

from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream
from av.stream import Disposition
from PIL import Image

from valor.errors import MediaError
from valor.media import probe as module
from valor.media.probe import probe

pytestmark = pytest.mark.media


@pytest.mark.parametrize(
    "script",
    [
        "ffconcat version 1.0\nfile real.mp4\n",
        "ffconcat version 1.0\nfile 'https://example.org/a.mp4'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nreal.mp4\n#EXT-X-ENDLIST\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "1\n00:00:00,000 --> 00:00:01,000\na subtitle\n\n",
        "just text\n" * 100,
    ],
    ids=["ffconcat", "ffconcat-address", "hls", "dash", "sdp", "subtitles", "text"],
)
@pytest.mark.parametrize("suffix", ["mp4", "jpg", "m3u8"])
def test_a_text_is_never_media(tmp_path: Path, render, grays, script: str, suffix: str):
    render("real.mp4", pictures=grays([0.0, 0.1]))
    path = tmp_path / f"script.{suffix}"
    path.write_text(script)
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert caught.value.reason == "unreadable"
    assert "\n" not in str(caught.value)


def test_each_kind_of_unusable_path_has_its_reason(tmp_path: Path):
    (tmp_path / "zero.mp4").touch()
    reasons = {"gone.mp4": "missing", "zero.mp4": "empty", ".": "unreadable"}
    for name, reason in reasons.items():
        with pytest.raises(MediaError) as caught:
            probe(tmp_path / name)
        assert (name, caught.value.reason) == (name, reason)


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9/a.mp4", "concat:a.mp4|b.mp4", "data:video/mp4;base64,AAAA", "-"]
)
def test_an_address_is_no_file(address: str):
    with pytest.raises(MediaError, match="no such file"):
        probe(address)


def test_any_name_of_a_file_is_taken_literally(render, grays):
    for name in ("a:b, 'c' 100%.mp4", "犬 — Ω.mp4", "-x.mp4"):
        assert probe(render(name, pictures=grays([0.0, 0.1]))).has_video


def test_a_number_pattern_does_not_become_other_files(tmp_path: Path):
    Image.new("RGB", (8, 8)).save(tmp_path / "picture1.png")
    (tmp_path / "picture%d.png").write_text("no picture")
    with pytest.raises(MediaError):
        probe(tmp_path / "picture%d.png")


def test_a_broken_file_is_quiet(tmp_path: Path, render, grays, truncate, capfd):
    with pytest.raises(MediaError):
        probe(truncate(render("a.mp4", pictures=grays(np.arange(20) / 10)), 0.7))
    assert capfd.readouterr() == ("", "")


def test_tracks_are_told_apart(render, grays, beep):
    pictures, sounds = grays(np.arange(20) / 10), [(0.0, beep(length_s=1.5, at_s=0.5))]
    both = probe(render("both.mp4", pictures=pictures, sounds=sounds))
    assert (both.has_video, both.has_audio, both.num_audio_tracks) == (True, True, 1)
    assert (both.sample_rate_hz, both.channels) == (16_000, 1)
    assert both.duration_s == pytest.approx(2.0, abs=0.11)
    assert both.fps == pytest.approx(10, rel=0.1)
    seen = probe(render("seen.mp4", pictures=pictures))
    assert (seen.has_video, seen.has_audio, seen.sample_rate_hz) == (True, False, None)
    heard = probe(render("heard.m4a", sounds=sounds))
    assert (heard.has_video, heard.has_audio, heard.width, heard.fps) == (False, True, None, None)


def test_size_is_that_of_the_upright_picture_with_square_pixels(render, grays):
    pictures = grays([0.0, 0.1], height=32, width=48)
    wide = probe(render("wide.mp4", pictures=pictures, pixel_aspect=Fraction(2)))
    assert (wide.width, wide.height) == (96, 32)
    turned = probe(render("turned.mp4", pictures=pictures, rotation_deg=90))
    assert (turned.width, turned.height, turned.rotation_deg) == (32, 48, 90)


@pytest.mark.parametrize("suffix", ["mkv", "ts", "flv"])
def test_a_cut_off_file_is_as_long_as_what_is_left(render, truncate, suffix: str):
    noise = np.random.default_rng(0).integers(0, 255, (100, 32, 48, 3), dtype=np.uint8)
    path = render(
        f"a.{suffix}", pictures=[(index / 10, frame) for index, frame in enumerate(noise)]
    )
    whole_s = probe(path).duration_s
    assert whole_s == pytest.approx(10, abs=0.3)
    assert probe(truncate(path, 0.5)).duration_s == pytest.approx(5, abs=1)


def test_a_cut_off_index_is_not_believed(render, truncate):
    noise = np.random.default_rng(0).integers(0, 255, (100, 32, 48, 3), dtype=np.uint8)
    pictures = [(index / 10, frame) for index, frame in enumerate(noise)]
    path = render("a.mp4", pictures=pictures)
    with (
        av.open(str(path)) as source,
        av.open(str(path.with_stem("fast")), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    assert probe(truncate(path.with_stem("fast"), 0.5)).duration_s == pytest.approx(5, abs=1)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("name", ["picture", "picture.jpg", "picture.mp4"])
def test_a_still_image_has_no_length(tmp_path: Path, form: str, name: str):
    Image.new("RGB", (60, 40), "red").save(tmp_path / name, format=form)
    info = probe(tmp_path / name)
    assert (info.is_image, info.duration_s, info.fps) == (True, 0.0, None)
    assert (info.width, info.height, info.has_audio) == (60, 40, False)


@pytest.mark.parametrize("name", ["photo.jpg", "PHOTO.JPEG", "photo", "photo.png"])
def test_a_photo_is_read_whatever_it_shows(tmp_path: Path, name: str):
    """Ours that were taken for a part of a numbered series had much detail."""
    noise = np.random.default_rng(0).integers(0, 255, (150, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / name, format="JPEG")
    info = probe(tmp_path / name)
    assert (info.width, info.height, info.is_image) == (200, 150, True)


def test_an_animation_is_a_video(tmp_path: Path):
    frames = [Image.new("RGB", (60, 40), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=500)
    info = probe(tmp_path / "a.gif")
    assert not info.is_image
    assert info.duration_s == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("name", "form", "codec"),
    [("a.m4a", "mp4", "aac"), ("a.mp3", "mp3", "libmp3lame"), ("a.flac", "flac", "flac")],
)
def test_cover_art_is_no_video(tmp_path: Path, beep, name: str, form: str, codec: str):
    cover = BytesIO()
    Image.new("RGB", (64, 64), "red").save(cover, format="JPEG")
    with av.open(str(tmp_path / name), "w", format=form) as container:
        sound = cast(AudioStream, container.add_stream(codec, rate=16_000, layout="mono"))
        picture = container.add_stream("mjpeg", rate=1)
        picture.width = picture.height = 64
        picture.pix_fmt = "yuvj420p"
        picture.disposition = Disposition.attached_pic
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts = picture, 0, 0
        container.mux(packet)
        tone = beep(length_s=1.024, at_s=0).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(tone, format="flt", layout="mono")
        frame.sample_rate = 16_000
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    with av.open(str(tmp_path / name)) as container:
        assert len(container.streams.video) == 1
    info = probe(tmp_path / name)
    assert (info.has_video, info.has_audio, info.is_image) == (False, True, False)


def test_an_impossible_length_is_refused(render, grays):
    path = render("a.mkv", pictures=grays([0.0, 0.1, 2e6]))
    with pytest.raises(MediaError, match="claims to last 2000000 s") as caught:
        probe(path)
    assert caught.value.reason == "too_long"


def test_an_unproven_length_is_measured_once(render, grays, truncate, monkeypatch):
    path = truncate(render("a.mkv", pictures=grays(np.arange(50) / 10)), 0.8)
    num_opened = []
    original = module.open_container
    monkeypatch.setattr(
        module, "open_container", lambda *args: num_opened.append(args) or original(*args)
    )
    lengths_s = {probe(path).duration_s for _ in range(3)}
    assert len(num_opened) <= 5
    path.write_bytes(path.read_bytes()[:-500])
    assert probe(path).duration_s not in lengths_s


def test_tags_of_the_recording_are_told_and_those_of_the_format_are_not(tmp_path: Path):
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        container.metadata.update({"title": "Harbour", "artist": "x" * 5000})
        stream = cast(AudioStream, container.add_stream("pcm_s16le", rate=8000, layout="mono"))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    tags = probe(path).tags
    assert tags["title"] == "Harbour"
    assert set(tags) == {"title", "artist"}
    assert len(tags["artist"]) == 1000
