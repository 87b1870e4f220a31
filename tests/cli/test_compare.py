import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.test_run import Oracle
from valor.cli import compare
from valor.errors import UsageError, ValorError
from valor.recipes.demo import evaluate_into
from valor.types import AUDIOVISUAL, Answer


class Sounding(Oracle):
    """An oracle whose segments sound long enough to be drawn."""

    def read(self, path, *, start_s=0.0, end_s=None):
        segment = super().read(path, start_s=start_s, end_s=end_s)
        noise = np.random.default_rng(0).random(16_000, dtype=np.float32)
        return replace(segment, waveform=noise, sample_rate_hz=16_000)


class Mute(Sounding):
    """Knows everything, and answers nothing right."""

    fingerprint = "mute"

    def answer(self, segments, questions, *, using=AUDIOVISUAL):
        return [Answer(text="none", modalities_used=using, confidence=0.0) for _ in questions]


@pytest.fixture(scope="module")
def folders(world, tmp_path_factory) -> list[Path]:
    out = tmp_path_factory.mktemp("compared")
    for name, model in (("oracle", Sounding(world)), ("mute", Mute(world))):
        evaluate_into(out / name, model, world, split="test")
    return [out / "oracle", out / "mute"]


def test_an_evaluation_writes_items_intervals_predictions_and_failures(folders):
    oracle, mute = folders
    report = json.loads((mute / "report.json").read_text())
    items = json.loads((mute / "items.json").read_text())
    for name, figure in (
        ("retrieval/vision/text_to_media/r1", report["retrieval"]["vision"]["text_to_media"]["r1"]),
        ("captioning/audio/cider", report["captioning"]["audio"]["cider"]),
        ("answering/vision/accuracy", 0.0),
    ):
        assert sum(items[name].values()) / len(items[name]) == pytest.approx(figure)
        low, high = report["intervals"][name]
        assert low <= figure + 1e-9
        assert figure <= high + 1e-9
    answers = json.loads((oracle / "predictions" / "answers.vision.json").read_text())
    captions = json.loads((oracle / "predictions" / "captions.audio.json").read_text())
    assert {row["question_id"] for row in answers} == items["answering/vision/accuracy"].keys()
    assert captions[0].keys() == {"image_id", "caption"}
    run = (oracle / "predictions" / "retrieval.audiovisual.trec").read_text().splitlines()
    assert len(run) == 64
    assert run[0].split()[0] == run[0].split()[2]
    assert "A question is answered wrongly." in (mute / "report.html").read_text()
    assert "answered wrongly" not in (oracle / "report.html").read_text()


def test_what_differs_is_significant_and_what_does_not_is_not(folders, tmp_path, capsys):
    assert compare.main([*map(str, folders), "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)[str(folders[1])]
    accuracy = found["answering/audiovisual/accuracy"]
    assert (accuracy["first"], accuracy["second"]) == (1, 0)
    assert accuracy["p"] < 0.01
    assert found["captioning/audiovisual/cider"]["p"] == 1
    assert json.loads((tmp_path / "compare.json").read_text())["first"] == str(folders[0])
    assert "sign-flip" in (tmp_path / "compare.html").read_text()


def test_folders_without_items_or_alone_are_refused(folders, tmp_path):
    with pytest.raises(ValorError, match=r"items\.json: no such file"):
        compare.main([str(folders[0]), str(tmp_path)])
    with pytest.raises(UsageError, match="two folders"):
        compare.main([str(folders[0])])
