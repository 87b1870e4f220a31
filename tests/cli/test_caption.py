import csv
import io
import sys
from types import SimpleNamespace

import pytest

from valor.cli.main import main
from valor.types import Caption, Modality, Segment


class Teller:
    """Sees in every segment, hears in the first only."""

    segment_s = 4.0

    def read(self, path, *, start_s=0.0, end_s=None, keyframes_only=False):
        return Segment(
            path=path, start_s=start_s, end_s=end_s or start_s, frames=None, frame_times_s=None,
            waveform=None, sample_rate_hz=16_000,
        )  # fmt: skip

    def describe(self, segments, *, using):
        words = {Modality.VISION: "a dog --> runs", Modality.AUDIO: "barking"}
        said = [
            words[using] if using == Modality.VISION or s.start_s == 0 else "" for s in segments
        ]
        return [Caption(text=text, modalities_used=using, segments=()) for text in said]

    def answer(self, segments, questions, *, using):
        raise NotImplementedError


@pytest.fixture(autouse=True)
def teller(monkeypatch):
    monkeypatch.setitem(
        sys.modules, "valor.inference", SimpleNamespace(load=lambda *_, **__: Teller())
    )
    monkeypatch.setattr("valor.media.probe.probe", lambda _: SimpleNamespace(duration_s=8.0))


def test_chapters_tell_what_is_seen_and_what_is_heard(capsys):
    assert main(["caption", "model", "a.mp4", "--format", "vtt"]) == 0
    assert capsys.readouterr().out == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:04.000\na dog -> runs\n[barking]\n"
        "\n00:00:04.000 --> 00:00:08.000\na dog -> runs\n"
    )


def test_table_has_a_row_for_every_segment(capsys):
    assert main(["caption", "model", "a.mp4", "b.mp4", "--format", "csv", "--using", "audio"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["path"], row["start_s"], row["vision"], row["audio"]) for row in rows] == [
        (path, start, "", heard)
        for path in ("a.mp4", "b.mp4")
        for start, heard in (("0.000", "barking"), ("4.000", ""))
    ]


def test_subtitles_are_of_one_file(capsys):
    assert main(["caption", "model", "a.mp4", "b.mp4", "--format", "vtt"]) == 2
    assert "use csv" in capsys.readouterr().err
