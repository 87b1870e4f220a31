"""Laws of evaluation, with models whose figures are known beforehand."""

import json

import numpy as np
import pytest
import torch

from valor.data.manifest import Record, read_manifest
from valor.data.world.language import AUDIO_SLOTS, VISION_SLOTS, caption_fits, parse_caption
from valor.errors import ManifestError, MediaError
from valor.evaluation import world as evaluation_world
from valor.evaluation.retrieval import caption_pool
from valor.evaluation.run import collect, evaluate
from valor.evaluation.world import add_truth, caption_truth, read_truth
from valor.types import AUDIOVISUAL, MEDIA_GROUPS, Answer, Caption, Embeddings, Modality, Segment

GROUP_SLOTS = {Modality.VISION: (*VISION_SLOTS, "source"), Modality.AUDIO: AUDIO_SLOTS}


class Oracle:
    """Knows the truth of every file: one token per fact, the same for texts."""

    fingerprint = "oracle"
    groups = MEDIA_GROUPS
    segment_s = 4.0

    def __init__(self, world):
        self.truth = read_truth(world)
        self.records = {r.media: r for r in read_manifest(world)}
        self.words = {}

    def read(self, path, *, start_s=0.0, end_s=None):
        if path not in self.records:
            raise MediaError(path, "missing", "no such file")
        pixels = torch.zeros(1, 2, 2, 3, dtype=torch.uint8).numpy()
        return Segment(
            path=path, start_s=0, end_s=4, frames=pixels, frame_times_s=None,
            waveform=torch.ones(4).numpy(), sample_rate_hz=1,
        )  # fmt: skip

    def facts(self, path):
        return self.truth[self.records[path].id].facts

    def embed(self, rows):
        vectors, valid = torch.zeros(len(rows), 10, 400), torch.zeros(len(rows), 10, dtype=bool)
        for row, slots in enumerate(rows):
            for place, fact in enumerate(slots.items()):
                vectors[row, place, self.words.setdefault(fact, len(self.words))] = 1
                valid[row, place] = True
        return Embeddings(vectors=vectors, weight_logits=torch.zeros(valid.shape), valid=valid)

    def embed_media(self, segments):
        facts = [self.facts(s.path) for s in segments]
        return {
            m: self.embed([{k: f[k] for k in names if k in f} for f in facts])
            for m, names in GROUP_SLOTS.items()
        }

    def embed_text(self, texts):
        return self.embed([parse_caption(text) for text in texts])

    def describe(self, segments, *, using=AUDIOVISUAL):
        captions = [
            next(c.text for c in self.records[s.path].captions if c.about == using)
            for s in segments
        ]
        return [Caption(text=c, modalities_used=using, segments=()) for c in captions]

    def answer(self, segments, questions, *, using=AUDIOVISUAL):
        answers = []
        for segment, question in zip(segments, questions, strict=True):
            known = {q.text: q.answers[0] for q in self.records[segment.path].questions}
            answers.append(Answer(text=known[question], modalities_used=using, confidence=1.0))
        return answers


@pytest.fixture(scope="module")
def oracle(world):
    return Oracle(world)


@pytest.fixture(scope="module")
def report(world, oracle):
    records = read_manifest(world, split="test")
    outputs = collect(oracle, records)
    figures = evaluate(oracle, records, outputs)
    add_truth(figures, oracle, outputs, read_truth(world))
    return figures


def test_an_oracle_reaches_every_ceiling(report):
    for group in ("vision", "audio", "audiovisual"):
        figures = report["retrieval"][group]
        for k in (1, 5):
            assert figures["text_to_media"][f"r{k}"] == pytest.approx(figures[f"oracle_r{k}"])
        assert report["captioning"][group]["bleu4"] > 0.99
        assert set(report["captioning"][group]["slot_accuracy"].values()) == {1.0}
        assert report["captioning"][group]["hallucination_rate"]["all"] == 0.0
        assert report["answering"][group]["accuracy"] == 1.0
        assert report["answering"][group]["prior"].keys() == {"vision", "audio", "both"}
    assert report["answering"]["audiovisual"]["prior"]["both"] == 1.0
    assert report["answering"]["vision"]["prior"]["both"] < 1.0


def test_the_truth_of_a_few_captions_at_a_time_is_that_of_all(world, oracle, monkeypatch):
    records = read_manifest(world, split="test")
    outputs, truth = collect(oracle, records), read_truth(world)
    found = []
    for at_once in (512, 3):
        monkeypatch.setattr(evaluation_world, "_QUERIES_AT_ONCE", at_once)
        figures, items = evaluate(oracle, records, outputs), {}
        add_truth(figures, oracle, outputs, truth, items=items)
        found.append([figures["retrieval"], figures["by_caption"], items])
    assert found[0] == found[1]


def test_the_same_captions_of_other_media_are_not_embedded_again(world, monkeypatch):
    model = Oracle(world)
    outputs = collect(model, read_manifest(world, split="test"))
    asked, embed = [], model.embed_text
    monkeypatch.setattr(model, "embed_text", lambda texts: asked.append(texts) or embed(texts))
    both = [caption_pool(model, outputs, about=AUDIOVISUAL, group=group) for group in MEDIA_GROUPS]
    assert len(asked) == 1
    heard = caption_pool(model, outputs, about=Modality.AUDIO, group=Modality.AUDIO)
    assert len(asked) == 2
    again = caption_pool(model, outputs, about=AUDIOVISUAL, group=AUDIOVISUAL)
    for pool in (*both, heard, again):
        assert torch.equal(pool.words.vectors, embed(pool.texts).vectors)


def test_a_caption_fits_where_all_that_its_group_can_tell_is_true(world, oracle):
    outputs = collect(oracle, read_manifest(world, split="test"))
    truth = [read_truth(world)[record.id] for record in outputs.records]
    pool = caption_pool(oracle, outputs, about=AUDIOVISUAL, group=Modality.AUDIO)
    fitting = evaluation_world._fitting(pool, truth, Modality.AUDIO)
    heard = [
        {slot: value for slot, value in truth[row].slots_of[text].items() if slot in AUDIO_SLOTS}
        for text, row in zip(pool.texts, pool.rows, strict=True)
    ]
    expected = np.array([[caption_fits(slots, row.facts) for row in truth] for slots in heard])
    assert 0 < expected.mean() < 1
    assert np.array_equal(fitting.texts(slice(None)), expected)
    assert np.array_equal(fitting.items(slice(None)), expected.T)


def test_more_modalities_do_not_hurt_an_oracle(report):
    table = report["by_caption"]
    assert table["vision"]["audiovisual"] >= table["vision"]["vision"]
    assert table["audio"]["audiovisual"] >= table["audio"]["audio"]
    assert table["audiovisual"]["audiovisual"] > table["audiovisual"]["vision"]


def test_a_model_that_cannot_tell_items_apart_scores_nothing(world, oracle):
    class Blind(Oracle):
        def facts(self, path):
            return dict.fromkeys((*VISION_SLOTS, *AUDIO_SLOTS, "source"), "same")

    blind = Blind(world)
    records = read_manifest(world, split="test")
    outputs = collect(blind, records)
    figures = evaluate(blind, records, outputs)
    add_truth(figures, blind, outputs, read_truth(world))
    for group in figures["retrieval"].values():
        assert group["text_to_media"]["r1"] <= group["chance_r1"]


def test_unreadable_files_are_missing_and_counted(world, oracle):
    records = read_manifest(world, split="test")
    bad = Record(id="gone", media="/nowhere.mp4", captions=records[0].captions)
    report = evaluate(oracle, [bad, *records])
    assert report["data"] == {"n": 8, "coverage": 8 / 9, "missing": {"gone": "missing"}}
    with pytest.raises(ManifestError, match="none of 1 records"):
        collect(oracle, [bad])


def test_a_slot_that_is_not_stated_is_wrong_but_no_hallucination(world):
    truth = next(row for row in read_truth(world).values() if row.layout == "solo")
    colour, shape = truth.facts["colour"], truth.facts["shape"]
    other = next(c for c in ("red", "blue") if c != colour)
    shy = caption_truth([f"a {colour} {shape}"], [truth], Modality.VISION)
    assert shy["slot_accuracy"] == {"colour": 1.0, "shape": 1.0, "motion": 0.0}
    assert shy["hallucination_rate"]["all"] == 0.0
    liar = caption_truth([f"a {other} {shape}"], [truth], Modality.VISION)
    assert liar["slot_accuracy"]["colour"] == 0.0
    assert liar["hallucination_rate"]["all"] == 0.5


def test_a_caption_without_words_is_wrong_and_a_missing_modality_is_left_out(world):
    truth = next(row for row in read_truth(world).values() if row.layout == "solo")
    mute = caption_truth(["", None], [truth, truth], Modality.VISION)
    assert mute["slot_accuracy"] == {"colour": 0.0, "shape": 0.0, "motion": 0.0}
    assert caption_truth([None], [truth], Modality.VISION)["slot_accuracy"] == {}


def test_records_that_the_truth_does_not_know_are_refused(world, oracle):
    records = read_manifest(world, split="test")
    outputs = collect(oracle, records)
    truth = read_truth(world)
    del truth[records[0].id]
    with pytest.raises(ManifestError, match=records[0].id):
        add_truth(evaluate(oracle, records, outputs), oracle, outputs, truth)


def test_data_without_truth_has_the_plain_figures(world, oracle, tmp_path):
    assert read_truth(tmp_path) is None
    report = evaluate(oracle, read_manifest(world, split="test"))
    assert "by_caption" not in report
    assert json.dumps(report)
