"""Laws of the rendered world."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from valor.data.manifest import read_manifest
from valor.data.world.drawing import draw, pulse
from valor.data.world.language import caption_fits, captions, facts, parse_caption
from valor.data.world.questions import questions
from valor.data.world.render import World, render_world
from valor.data.world.scene import (
    COLOURS,
    SAMPLE_RATE_HZ,
    SHAPES,
    TIMBRES,
    draw_scene,
    draw_test_pool,
    is_held_out,
)
from valor.data.world.sound import mixture, stems
from valor.errors import ValorError

SMALL = World(num=6, num_val=2, num_test=4, seed=3, level="duet")


def scenes(num, *, level="duet", seed=0):
    return [draw_scene(seed, "train", index, level) for index in range(num)]


def digests(folder: Path):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.mark.media
def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path):
    render_world(tmp_path / "one", SMALL, workers=1)
    render_world(tmp_path / "two", SMALL, workers=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert len(read_manifest(tmp_path / "one")) == 12
    with av.open(str(tmp_path / "one/media/test-000000.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.audio[0].codec_context.name == "aac"
        assert sum(1 for _ in container.decode(video=0)) == 32
    before = (tmp_path / "one/manifest.jsonl").stat().st_mtime_ns
    render_world(tmp_path / "one", SMALL)
    assert (tmp_path / "one/manifest.jsonl").stat().st_mtime_ns == before


def test_another_folder_is_never_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValorError, match="choose another --out"):
        render_world(tmp_path, SMALL)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_training_never_sees_a_held_out_combination_and_testing_nothing_else():
    for scene in scenes(400):
        slots = facts(scene)
        assert not is_held_out(slots["shape"], slots["colour"], slots["timbre"])
    for scene in draw_test_pool(0, 128, "duet"):
        slots = facts(scene)
        assert is_held_out(slots["shape"], slots["colour"], slots["timbre"])


def test_held_out_combinations_leave_every_pair_uniform():
    held = [(s, c, t) for s in SHAPES for c in COLOURS for t in TIMBRES if is_held_out(s, c, t)]
    assert len(held) * 3 == len(SHAPES) * len(COLOURS) * len(TIMBRES)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        counts = Counter((row[first], row[second]) for row in held)
        assert len(set(counts.values())) == 1


def test_what_is_seen_is_independent_of_what_is_heard():
    rows = [facts(scene) for scene in scenes(3000)]
    for seen in ("shape", "colour", "motion"):
        for heard in ("timbre", "rhythm", "pitch"):
            table = Counter((row[seen], row[heard]) for row in rows)
            rows_of, columns = Counter(r[seen] for r in rows), Counter(r[heard] for r in rows)
            expected = {
                (a, b): rows_of[a] * columns[b] / len(rows) for a in rows_of for b in columns
            }
            chi_square = sum((table[k] - e) ** 2 / e for k, e in expected.items())
            freedom = (len(rows_of) - 1) * (len(columns) - 1)
            assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pools_have_twins_and_oracles_between_the_stated_bounds(seed):
    pool = draw_test_pool(seed, 256, "duet")
    rng = np.random.default_rng(seed)
    truths = [facts(scene) for scene in pool]
    for about, low, high in (("vision", 0.3, 0.7), ("audio", 0.3, 0.7), ("audiovisual", 0.95, 1)):
        said = [
            next(c for c in captions(scene, rng, per_kind=1) if c.about == about) for scene in pool
        ]
        fits = [sum(caption_fits(c.slots, truth) for truth in truths) for c in said]
        assert low <= np.mean([1 / k for k in fits]) <= high
    frames = [draw(scene).frames.tobytes() for scene in pool[:32]]
    for first in range(0, 32, 4):
        family = frames[first : first + 4]
        assert family[0] == family[1] != family[2] == family[3]
        assert truths[first]["timbre"] == truths[first + 2]["timbre"]
        assert truths[first]["timbre"] != truths[first + 1]["timbre"]


@pytest.mark.parametrize("level", ["duet", "full", "relay"])
def test_reading_a_caption_gives_back_what_it_states(level):
    rng = np.random.default_rng(0)
    num = 0
    for scene in scenes(300, level=level):
        for caption in captions(scene, rng, per_kind=2):
            stated = parse_caption(caption.text)
            known = {k: v for k, v in caption.slots.items() if k in stated or k != "source"}
            assert {k: stated.get(k) for k in known} == known, caption.text
            assert caption_fits(caption.slots, facts(scene))
            num += 1
    assert num > 1500


def test_captions_stay_small():
    rng = np.random.default_rng(0)
    texts = [c.text for scene in scenes(400) for c in captions(scene, rng, per_kind=2)]
    assert max(len(text.split()) for text in texts) <= 24
    assert len({word for text in texts for word in text.split()}) < 160


def test_one_modality_cannot_answer_what_needs_both():
    rng = np.random.default_rng(0)
    asked = [q for scene in scenes(2000) for q in questions(scene, rng) if q.needs == "both"]
    sounds = [q for q in asked if q.type == "sound of"]
    assert abs(np.mean([q.answer == "no sound" for q in sounds]) - 0.5) < 0.05
    for modality in ("vision", "audio"):
        assert 0.2 < np.mean([q.prior[modality] for q in asked]) <= 0.65


def test_priors_are_what_an_oracle_reaches_by_guessing():
    """The audio oracle of who sounds, played out on many scenes."""
    rng = np.random.default_rng(1)
    guesses, answers = [], []
    for scene in scenes(4000, seed=5):
        for q in questions(scene, rng):
            if q.type == "who sounds":
                guesses.append(q.prior["audio"])
                answers.append(q.answer.split(" like ")[0])
    best = Counter(answers).most_common(1)[0][1] / len(answers)
    assert abs(best - np.mean(guesses)) < 0.04


def test_full_scenes_ask_for_counts_and_order():
    rng = np.random.default_rng(0)
    asked = [q for scene in scenes(100, level="full") for q in questions(scene, rng)]
    assert {"count", "order"} <= {q.type for q in asked}
    assert {q.answer for q in asked if q.type == "count"} == {"1", "2", "3"}


def test_stems_sum_to_the_mixture_and_only_sounding_actors_have_one():
    for scene in scenes(20, level="full"):
        parts = stems(scene)
        assert len(parts) == 1 + len(scene.sounding)
        np.testing.assert_allclose(
            np.sum(list(parts.values()), axis=0).clip(-1, 1), mixture(scene), atol=1e-6
        )
        assert max(abs(mixture(scene))) > 0.1


def test_masks_and_boxes_agree_with_the_frames():
    for scene in scenes(20):
        picture = draw(scene)
        for index in picture.boxes:
            actor = scene.actors[index]
            rows = picture.instances == index + 1
            assert rows.any(axis=(1, 2)).all()
            inside = np.median(picture.frames[rows], axis=0)
            colour = np.array(COLOURS[actor.colour])
            assert abs(inside - colour).max() < 80
            for frame, (left, top, right, bottom) in enumerate(picture.boxes[index]):
                y, x = np.nonzero(rows[frame])
                assert left - 2 <= x.min() and x.max() <= right + 2
                assert top - 2 <= y.min() and y.max() <= bottom + 2


def test_only_sounding_actors_pulse():
    for scene in scenes(50):
        for actor in scene.actors:
            assert (pulse(actor).max() > 0.5) == (actor.voice is not None)


@pytest.mark.media
def test_truth_tells_events_and_belongs_to_the_manifest(tmp_path):
    render_world(tmp_path / "world", SMALL, workers=1)
    truth = [json.loads(line) for line in (tmp_path / "world/truth.jsonl").read_text().splitlines()]
    records = read_manifest(tmp_path / "world")
    assert [row["id"] for row in truth] == [record.id for record in records]
    for row, record in zip(truth, records, strict=True):
        assert [c["text"] for c in row["captions"]] == [c.text for c in record.captions]
        assert row["events"][0]["beats_s"]


def test_in_a_relay_each_actor_is_seen_and_heard_in_its_own_half():
    rng = np.random.default_rng(0)
    for scene in scenes(10, level="relay"):
        first, second = draw(scene).instances.reshape(2, -1)
        assert set(np.unique(first)) == {0, 1}
        assert set(np.unique(second)) == {0, 2}
        half = SAMPLE_RATE_HZ * 2
        one, two = (stems(scene)[f"actor {index}"] for index in (0, 1))
        assert not one[half + SAMPLE_RATE_HZ // 4 :].any()
        assert not two[:half].any()
        answers = {q.text: q.answer for q in questions(scene, rng) if q.type == "order"}
        main = scene.actors[0]
        assert set(answers.values()) == {main.colour, main.voice.timbre}
        assert all(
            (" first the " in text) and answer in text.split() for text, answer in answers.items()
        )


def test_the_order_in_a_relay_cannot_be_told_from_what_an_actor_looks_like():
    pairs = [scene.actors[:2] for scene in scenes(300, level="relay")]
    for size in ("radius_px", "reach_px"):
        larger_first = [getattr(first, size) > getattr(second, size) for first, second in pairs]
        assert 0.4 < np.mean(larger_first) < 0.6


def test_the_order_in_a_relay_cannot_be_told_from_the_question():
    rng = np.random.default_rng(0)
    asked = [q for s in scenes(300, level="relay") for q in questions(s, rng) if q.type == "order"]
    named_first = [q.text.split(" first the ")[1].startswith(q.answer) for q in asked]
    assert 0.4 < np.mean(named_first) < 0.6
