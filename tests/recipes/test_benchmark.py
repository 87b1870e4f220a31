"""Laws of protocols applied to models: what is asked for, what is compared."""

import json
import shutil
from dataclasses import replace
from typing import Any

import pytest

from tests.tiny import small_run
from valor.cli.main import main
from valor.config import evolve
from valor.data.manifest import read_manifest, write_manifest
from valor.encoders.clip_text import ClipTextConfig
from valor.encoders.text import BertConfig
from valor.errors import ConfigError, UsageError
from valor.inference import load
from valor.models.valor import ValorConfig
from valor.processing.processor import ProcessorConfig
from valor.protocols import Published, find_protocol
from valor.recipes.benchmark import evaluate_protocol, follow, following, reproduce
from valor.types import AUDIOVISUAL, Modality

RETRIEVAL = find_protocol("retrieval")


def test_the_model_sees_hears_and_reads_as_much_as_the_protocol_says():
    protocol = find_protocol("activitynet")
    for sampling, frames, windows in ((protocol.training, 8, 4), (protocol.testing, 32, 8)):
        config = follow(ProcessorConfig(), ValorConfig(), protocol, sampling)
        assert (config.frames.num_bursts, config.spectrogram.num_windows) == (frames, windows)
        assert config.max_text_length == 76
    large = ValorConfig(text=ClipTextConfig(), decoder=BertConfig())
    for name in ("didemo", "activitynet"):
        follow(ProcessorConfig(), large, find_protocol(name), find_protocol(name).training)
    own = follow(ProcessorConfig(), ValorConfig(), RETRIEVAL, RETRIEVAL.testing)
    assert own == ProcessorConfig()


def test_what_a_model_cannot_take_is_refused():
    start, protocol = small_run(), find_protocol("activitynet")
    model = evolve(start.model, {"text.max_length": 76})
    with pytest.raises(ConfigError, match=r"protocol activitynet.*max_text_length=76"):
        follow(start.processor, model, protocol, protocol.testing)


def test_captions_have_as_many_beams_as_the_protocol_says(model_folder, world, monkeypatch):
    model: Any = load(model_folder)
    seen = []
    write = model.system.write

    def noted(*args, config, **named):
        seen.append((config.num_beams, config.max_tokens))
        return write(*args, config=config, **named)

    monkeypatch.setattr(model.system, "write", noted)
    protocol = replace(
        find_protocol("captioning"), groups=(Modality.AUDIO,), num_beams=2, text_tokens=5
    )
    used: Any = following(model, protocol)
    segments = [model.read(read_manifest(world)[0].media)]
    captions = {g: used.describe(segments, using=g)[0] for g in (AUDIOVISUAL, Modality.AUDIO)}
    assert seen == [(2, 7)]
    assert not captions[AUDIOVISUAL].modalities_used
    assert captions[Modality.AUDIO].modalities_used == Modality.AUDIO


def test_only_the_task_and_the_groups_are_measured_and_coverage_counts_the_whole(
    model_folder, world, tmp_path
):
    records = read_manifest(world, split="test")
    gone = replace(records[0], id="gone", media="/nowhere.mp4")
    write_manifest(tmp_path / "data.jsonl", [*records, gone])
    (tmp_path / "data.missing.txt").write_text("never found\n")
    protocol = replace(RETRIEVAL, groups=(Modality.AUDIO,), num_test=16)
    report = evaluate_protocol(load(model_folder), protocol, tmp_path / "data.jsonl", tmp_path)
    assert report["retrieval"].keys() == {"audio"}
    assert not report["captioning"] and not report["answering"] and not report["pairs"]
    data = report["data"]
    assert (data["n"], data["num_asked"], data["coverage"]) == (8, 16, 0.5)
    assert data["missing"] == {"gone": "missing"}
    assert data["not_found"] == ["never found"]
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert "VALOR on retrieval" in (tmp_path / "report.html").read_text()


def test_a_protocol_has_its_captions_and_its_way_to_score_answers(model_folder, world, tmp_path):
    for name, wanted in (("vatex-retrieval", 16), ("lsmdc", 8)):
        protocol = replace(find_protocol(name), groups=(Modality.VISION,), text_tokens=None)
        report = evaluate_protocol(load(model_folder), protocol, world, tmp_path / name)
        assert report["retrieval"]["vision"]["text_to_media"]["num"] == wanted
        assert report["intervals"]["retrieval/vision/text_to_media/r1"]
        found = (tmp_path / name / "predictions/retrieval.vision.trec").read_text()
        assert len({line.split()[0] for line in found.splitlines()}) == wanted
    protocol = replace(find_protocol("msvd-qa"), text_tokens=None)
    report = evaluate_protocol(load(model_folder), protocol, world, tmp_path / "qa")
    assert report["answering"].keys() == {"vision"}
    assert "what" in report["answering"]["vision"]["by_type"]
    page = (tmp_path / "qa/report.html").read_text()
    said = json.loads((tmp_path / "qa/predictions/answers.vision.json").read_text())
    assert any(f"✓ {row['answer']}" in page or f"✗ {row['answer']}" in page for row in said)
    is_wrong = report["answering"]["vision"]["accuracy"] < 1
    assert is_wrong == ("A question is answered wrongly" in page)


def test_a_model_that_only_embeds_cannot_caption(model_folder):
    class Embeds:
        def __init__(self, model):
            self.fingerprint, self.groups, self.segment_s = model.fingerprint, model.groups, 4.0
            self.read, self.embed_media, self.embed_text = model.read, None, None

    with pytest.raises(UsageError, match="cannot do captioning"):
        following(Embeds(load(model_folder)), find_protocol("captioning"))


def test_a_figure_beyond_the_tolerance_is_not_reproduced(model_folder, world, tmp_path):
    media = tmp_path / "media"
    shutil.copytree(world, media)
    found = evaluate_protocol(load(model_folder), RETRIEVAL, media, tmp_path / "first")
    right = {g: found["retrieval"][g]["text_to_media"]["r1"] for g in ("vision", "audio")}

    def compared(vision, out):
        rows = {"vision": vision, "audio": right["audio"]}
        published = tuple(
            Published(system="ours", group=Modality.parse(g), figures={"r1": r1})
            for g, r1 in rows.items()
        )
        protocol = replace(RETRIEVAL, released=published)
        return reproduce(protocol, model_folder, media, tmp_path / out, tolerance=0.01)

    good = compared(right["vision"] + 0.009, "good")
    assert good["reproduced"]
    assert [row["difference"] for row in good["differences"]] == [-0.009, 0.0]
    assert json.loads((tmp_path / "good/result.json").read_text()) == good
    assert not compared(right["vision"] + 0.011, "bad")["reproduced"]


def test_nothing_published_and_no_annotations_are_wrong_usage(model_folder, tmp_path):
    with pytest.raises(UsageError, match="nothing was published"):
        reproduce(RETRIEVAL, model_folder, tmp_path, tmp_path / "out")
    with pytest.raises(UsageError, match="--annotations"):
        reproduce(find_protocol("msrvtt-1ka"), model_folder, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_line_shows_ours_beside_published(model_folder, world, tmp_path, capsys):
    words = ["--data", str(world), "--out", str(tmp_path)]
    assert main(["evaluate", str(model_folder), "--protocol", "msrvtt-1ka", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("msrvtt-1ka: 8 of 1000 recordings; 992 are missing")
    ours = [line for line in lines if line.endswith("measured here") and "this model" in line]
    assert [line.split()[2] for line in ours] == ["audiovisual", "vision"]
    row = next(line for line in lines if line.startswith("VALOR-L"))
    assert row.split()[1:5] == ["audiovisual", "54.4", "79.8", "87.6"]
    assert row.endswith("published, not measured here")
    assert main(["evaluate", str(model_folder), "--protocol", "x", *words]) == 2
    capsys.readouterr()


def test_nothing_to_measure_is_no_success(model_folder, world, tmp_path, capsys):
    data, out = tmp_path / "data.jsonl", tmp_path / "out"
    row = {"id": "a", "media": str(min((world / "media").glob("*.mp4"))), "split": "test"}
    data.write_text(json.dumps(row) + "\n")
    words = ["evaluate", str(model_folder), "--data", str(data)]
    for protocol, wanted in (("answering", "questions"), ("retrieval", "captions")):
        assert main([*words, "--out", str(out), "--protocol", protocol]) == 1
        assert f"no record of split 'test' has {wanted}" in capsys.readouterr().err
    assert not out.exists()
    assert main([*words, "--out", str(data)]) == 2
    assert "name a folder" in capsys.readouterr().err


def test_reproduce_on_the_command_line_imports_and_tells(model_folder, world, tmp_path, capsys):
    record = read_manifest(world, split="test")[0]
    media = tmp_path / "media"
    media.mkdir()
    shutil.copy(record.media, media / "video7020.mp4")
    table = tmp_path / "MSRVTT_JSFUSION_test.csv"
    table.write_text(
        "key,vid_key,video_id,sentence\nret0,msr7020,video7020,a red circle\n"
        "ret1,msr7021,video7021,a bell\n"
    )
    words = ["reproduce", "msrvtt-1ka", "--checkpoint", str(model_folder), "--media", str(media)]
    words += ["--annotations", str(table), "--out", str(tmp_path / "out")]
    assert main(words) == 1
    assert "not reproduced within 0.5 percent points" in capsys.readouterr().out
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["data"]["num_asked"] == 1000
    assert result["data"]["not_found"] == ["video7021"]
    assert len(result["differences"]) == 6
