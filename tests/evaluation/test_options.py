"""What is asked for stands beside the exact figures, and changes none of them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation.test_run import Oracle
from valor.cli.main import main
from valor.data.manifest import Question, read_manifest
from valor.errors import UsageError
from valor.evaluation.options import Options, parse_pair
from valor.evaluation.report import summary_table
from valor.evaluation.run import collect, evaluate
from valor.evaluation.world import add_truth, read_truth
from valor.metrics.answer_protocols import find_answer_protocol
from valor.metrics.retrieval import dual_softmax, dual_softmax_report, retrieval_report
from valor.types import AUDIOVISUAL, Answer, Modality


@pytest.fixture(scope="module")
def said(world):
    model, records = Oracle(world), read_manifest(world, split="test")
    return model, records, collect(model, records)


def test_all_captions_are_queries_and_the_best_own_one_counts_for_a_recording(said):
    model, records, outputs = said
    one, every = (
        evaluate(model, records, outputs, options=Options(captions_per_item=num))
        for num in (1, None)
    )
    num_captions = sum(c.about == AUDIOVISUAL for record in records for c in record.captions)
    assert num_captions == 2 * len(records)
    directions = every["retrieval"]["audiovisual"]
    assert directions["text_to_media"]["num"] == num_captions
    assert directions["media_to_text"]["num"] == len(records)
    assert one["retrieval"]["audiovisual"]["text_to_media"]["num"] == len(records)


def test_the_truth_leaves_the_recall_of_several_captions_as_it_is(world, said):
    model, records, outputs = said
    figures = evaluate(model, records, outputs, options=Options(captions_per_item=None))
    plain = json.dumps(figures["retrieval"])
    add_truth(figures, model, outputs, read_truth(world), captions_per_item=None)
    assert json.dumps(figures["retrieval"]) == plain
    assert figures["by_caption"]


def test_any_pair_of_groups_is_searched_in_both_directions(said):
    model, records, outputs = said
    pair = parse_pair("audio+text:vision")
    assert pair == (Modality.AUDIO | Modality.TEXT, Modality.VISION)
    pairs = evaluate(model, records, outputs, options=Options(pairs=(pair,)))["pairs"]
    assert pairs.keys() == {"audio+text_to_vision", "vision_to_audio+text"}
    # The text tells what is seen, which the sound alone does not.
    alone = evaluate(model, records, outputs)["pairs"]["audio_to_vision"]
    assert pairs["audio+text_to_vision"]["mrr"] > alone["mrr"]
    for wrong in ("audio", "audio:vision:text", "audio:colour"):
        with pytest.raises(UsageError):
            parse_pair(wrong)


def test_two_stages_and_a_dual_softmax_stand_beside_the_exact_figures(said):
    model, records, outputs = said
    options = Options(candidates=len(records), dual_softmax=100.0)
    asked = evaluate(model, records, outputs, options=options)
    plain = evaluate(model, records, outputs)
    for group, exact in plain["retrieval"].items():
        found = asked["retrieval"][group]
        assert {key: found[key] for key in exact} == exact
        assert found["two_stage"]["candidate_recall"] == 1
        assert found["two_stage"]["r1"] == exact["text_to_media"]["r1"]
        assert found["dual_softmax"]["uses_whole_query_set"] is True
    table = summary_table(asked)
    assert "Retrieval in other ways" in table
    assert "dual softmax, text to media" in table
    assert "Retrieval in other ways" not in summary_table(plain)
    with pytest.raises(UsageError, match="candidates=0"):
        Options(candidates=0)


def test_a_dual_softmax_weighs_each_direction_by_the_other_queries():
    scores = np.random.default_rng(0).random((12, 6))
    found = dual_softmax_report(scores, np.arange(12) // 2, 9.0)
    for direction, matrix in (
        ("text_to_media", dual_softmax(scores, 9.0)),
        ("media_to_text", dual_softmax(scores.T, 9.0).T),
    ):
        assert found[direction] == retrieval_report(matrix, captions_per_item=2)[direction]


def test_answers_are_scored_as_their_set_does_and_confusions_are_counted(world):
    records = read_manifest(world, split="test")
    asked = [("Counting", "two"), ("Counting", "two"), ("Location", "left")]
    records = [
        replace(
            record,
            questions=tuple(
                Question(text=f"{kind} {i}", answers=(right,), type=f"visual {kind.lower()}")
                for i, (kind, right) in enumerate(asked)
            ),
        )
        for record in records
    ]

    class Counts(Oracle):
        def answer(self, segments, questions, *, using=AUDIOVISUAL):
            given = {"Counting 0": "2", "Counting 1": "two", "Location 2": "Left "}
            return [Answer(text=given[q], modalities_used=using, confidence=1) for q in questions]

    model = Counts(world)
    music = Options(
        answers=find_answer_protocol("music-avqa"), vocabulary=["left"], groups=(AUDIOVISUAL,)
    )
    exact = evaluate(model, records)["answering"]["audiovisual"]
    report = evaluate(model, records, options=music)["answering"]
    assert exact["accuracy"] == 1.0  # digits are number words there
    assert exact["confusions"] == []
    assert report.keys() == {"audiovisual"}
    own, num = report["audiovisual"], len(records)
    assert own["accuracy"] == pytest.approx(2 / 3)
    assert own["by_group"]["visual"]["num"] == 3 * num
    assert own["closed_set"]["reachable"] == pytest.approx(1 / 3)
    assert own["confusions"] == [
        {"type": "visual counting", "right": "two", "given": "2", "num": num, "of": 2 * num}
    ]


def test_metrics_that_need_java_are_absent_unless_they_are_asked_for(said, monkeypatch):
    model, records, outputs = said
    row = evaluate(model, records, outputs)["captioning"]["audio"]
    assert row["absent"]["meteor"].startswith("not asked for")
    monkeypatch.setattr("shutil.which", lambda name: None)
    row = evaluate(model, records, outputs, options=Options(java=True))["captioning"]["audio"]
    assert row["absent"] == dict.fromkeys(("meteor", "spice"), "no Java on the path")
    assert "meteor" not in row


def test_the_command_line_asks_for_all_of_it(model_folder, world, tmp_path, capsys):
    words = ["evaluate", str(model_folder), "--data", str(world), "--out", str(tmp_path), "--json"]
    words += ["--captions-per-item", "0", "--candidates", "3", "--dual-softmax", "50"]
    words += ["--pairs", "text:audio", "audiovisual:text", "--answers", "msvd-qa"]
    assert main(words) == 0
    report = json.loads(capsys.readouterr().out)
    group = report["retrieval"]["vision"]
    assert group["text_to_media"]["num"] == 16
    assert group["two_stage"]["candidates"] == 3
    assert group["dual_softmax"]["scale"] == 50
    assert {"text_to_audio", "audiovisual_to_text"} <= report["pairs"].keys()
    assert "what" in report["answering"]["audiovisual"]["by_type"]
    run = (tmp_path / "predictions/retrieval.vision.trec").read_text().splitlines()
    assert len({line.split()[0] for line in run}) == 16
    assert "Retrieval in other ways" in (tmp_path / "report.html").read_text()
    assert main([*words, "--pairs", "text"]) == 2
    capsys.readouterr()
