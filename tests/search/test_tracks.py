import pytest

from valor.search.tracks import Cue, read_subtitles, sidecar_of, words_between

VTT = (
    "WEBVTT\n\nNOTE hello\n\n1\n00:01.500 --> 00:03.000 align:start\n"
    "<v Ann>one &amp; two</v>\nthree\n"
)
SRT = (
    "1\r\n00:00:01,500 --> 00:00:03,000\r\none & two\r\nthree\r\n\r\n"
    "2\r\n01:00:00,000 --> 01:00:01,000\r\nend\r\n"
)


@pytest.mark.parametrize(("name", "text"), [("a.vtt", VTT), ("a.srt", SRT)])
def test_cues_without_mark_up(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text.encode())
    cues = read_subtitles(path)
    assert cues[0] == Cue(1.5, 3.0, "one & two three")
    assert [cue.start_s for cue in cues[1:]] == ([] if name == "a.vtt" else [3600.0])


def test_words_belong_to_the_stretches_that_they_overlap():
    cues = [Cue(1.0, 2.0, "one"), Cue(3.5, 4.5, "two")]
    assert words_between(cues, 0.0, 4.0) == "one two"
    assert words_between(cues, 4.0, 8.0) == "two"
    assert words_between(cues, 2.0, 3.5) is None


def test_sidecar_has_the_name_of_the_recording(tmp_path):
    assert sidecar_of(tmp_path / "a.mp4") is None
    (tmp_path / "a.mp4.srt").touch()
    assert sidecar_of(tmp_path / "a.mp4") == tmp_path / "a.mp4.srt"
    (tmp_path / "a.vtt").touch()
    assert sidecar_of(tmp_path / "a.mp4") == tmp_path / "a.vtt"
