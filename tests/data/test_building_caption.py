"""Laws of captions without people: what is untrue is rejected, every record is accounted for."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.test_building_segment import Here
from valor.data.building.captioning import (
    CaptionConfig,
    Captioned,
    CaptionStage,
    Keep,
    calibrated,
    caption,
)
from valor.data.building.merging import by_rules, merge_prompt, speech_of
from valor.data.building.rows import Work, rows_file
from valor.data.executors import LocalExecutor
from valor.data.manifest import Record, read_manifest
from valor.data.world.language import AUDIO_SLOTS, VISION_SLOTS, captions, facts, parse_caption
from valor.data.world.render import read_scenes, write_mp4
from valor.data.world.scene import COLOURS, TIMBRES, Scene
from valor.errors import ConfigError, ManifestError, ModelError
from valor.media.segments import DecodePlan, decode_segment
from valor.models.verbs import fit
from valor.types import AUDIOVISUAL, Answer, Caption, Embeddings, Modality, Segment

VISION, AUDIO = Modality.VISION, Modality.AUDIO
CONFIG = CaptionConfig(vision="world", audio="world")
NUM_DIMS = 4096


@cache
def scenes(folder: Path) -> dict[str, Scene]:
    return read_scenes(folder)


class Knowing:
    """Knows the truth about rendered recordings, and lies about some of them."""

    fingerprint = "knowing"
    groups = (VISION, AUDIO, AUDIOVISUAL)
    segment_s = 4.0

    def __init__(self, folder: Path, lies: str = "") -> None:
        self.folder = folder
        self.lies = lies
        self.failing: set[str] = set()

    def read(self, path: str, *, start_s=0.0, end_s=None, keyframes_only=False) -> Segment:
        plan = DecodePlan(num_frames=1, short_side_px=16, sample_rate_hz=8000)
        return decode_segment(path, plan, start_s=start_s, end_s=end_s)

    def scene(self, segment: Segment) -> Scene:
        return scenes(self.folder)[Path(segment.path).stem]

    def describe(self, segments: Sequence[Segment], *, using=AUDIOVISUAL) -> list[Caption]:
        found = []
        for segment in segments:
            scene = self.scene(segment)
            if scene.id in self.failing:
                raise ModelError("a reply without text")
            if is_lied_about(scene.id, self.lies) and using.label == self.lies:
                scene = changed(scene, self.lies)
            texts = captions(scene, np.random.default_rng(0), per_kind=1)
            text = next(c.text for c in texts if c.about == using.label)
            stretch = ((segment.start_s, segment.end_s),)
            found.append(Caption(text=text, modalities_used=using, segments=stretch))
        return found

    def answer(self, segments, questions, *, using=AUDIOVISUAL) -> list[Answer]:
        raise NotImplementedError

    def embed_media(self, segments: Sequence[Segment]) -> dict[Modality, Embeddings]:
        truths = [facts(self.scene(segment)) for segment in segments]
        names = {VISION: VISION_SLOTS, AUDIO: AUDIO_SLOTS}
        return {
            single: embed(
                [{k: v for k, v in truth.items() if k in names[single]} for truth in truths],
                [single in segment.available for segment in segments],
            )
            for single in names
        }

    def embed_text(self, texts: Sequence[str]) -> Embeddings:
        slots = [parse_caption(" ".join(text.split(". "))) for text in texts]
        known = (*VISION_SLOTS, *AUDIO_SLOTS)
        return embed([{k: v for k, v in row.items() if k in known} for row in slots])


def embed(rows: Sequence[dict[str, str]], present: Sequence[bool] | None = None) -> Embeddings:
    """A one-hot token per fact."""
    vectors = torch.zeros(len(rows), 8, NUM_DIMS)
    valid = torch.zeros(len(rows), 8, dtype=torch.bool)
    for row, slots in enumerate(rows):
        for place, (name, value) in enumerate(slots.items()):
            generator = torch.Generator().manual_seed(sum(f"{name}={value}".encode()) * 31)
            token = torch.randn(NUM_DIMS, generator=generator)
            vectors[row, place] = torch.nn.functional.normalize(token, dim=0)
            valid[row, place] = present is None or present[row]
    return Embeddings(vectors=vectors, weight_logits=torch.zeros(valid.shape), valid=valid)


def is_lied_about(id: str, about: str) -> bool:
    return bool(about) and int(id.rpartition("-")[2]) % 3 == 0


def changed(scene: Scene, about: str) -> Scene:
    """The scene with another colour, or another timbre."""
    actors = list(scene.actors)
    if about == "vision":
        actors[0] = replace(actors[0], colour=other(tuple(COLOURS), actors[0].colour))
    for place, actor in enumerate(actors):
        if about == "audio" and actor.voice is not None:
            timbre = other(TIMBRES, actor.voice.timbre)
            actors[place] = replace(actor, voice=replace(actor.voice, timbre=timbre))
    return replace(scene, actors=tuple(actors))


def other(values: Sequence[str], value: str) -> str:
    return values[(values.index(value) + 1) % len(values)]


@dataclass(frozen=True)
class Load:
    """Gives the same model to all that ask for it, in whatever process."""

    folder: Path
    lies: str = ""

    def __call__(self) -> Knowing:
        return knowing(self.folder, self.lies)


@cache
def knowing(folder: Path, lies: str) -> Knowing:
    return Knowing(folder, lies)


@pytest.fixture
def records(world: Path) -> list[Record]:
    return [replace(record, captions=()) for record in read_manifest(world)]


def stage(folder: Path, lies: str = "", **options) -> CaptionStage:
    load = Load(folder, lies)
    return CaptionStage(vision=load, audio=load, fit=fit, **options)


def judged(folder: Path, lies: str = "") -> CaptionStage:
    return stage(folder, lies, embedder=Load(folder))


def rows(out: Path) -> dict[str, dict]:
    return {row["id"]: row for row in map(json.loads, rows_file(out).read_text().splitlines())}


def run(
    records, out: Path, stage: CaptionStage, keep: Keep | None = None, executor=None
) -> Captioned:
    work = Work(out=out, executor=executor or Here())
    return caption(records, CONFIG, stage, keep or Keep(), work)


@pytest.mark.media
@pytest.mark.parametrize("lies", ["vision", "audio"])
@pytest.mark.parametrize("by_share", [True, False])
def test_true_captions_are_kept_and_untrue_ones_rejected(world, records, tmp_path, lies, by_share):
    truthful = [record.id for record in records if not is_lied_about(record.id, lies)]
    keep = Keep(min_similarity=0.9)
    if by_share:
        keep = Keep(keep_share=len(truthful) / len(records))
    done = run(records, tmp_path / "m.jsonl", judged(world, lies), keep)
    kept = read_manifest(tmp_path / "m.jsonl")
    assert [record.id for record in kept] == truthful
    assert done.rejected == {"unlike": len(records) - len(truthful)}
    assert set(done.thresholds) == {"vision", "audio", "audiovisual"}
    for record in kept:
        assert [(c.about, c.style) for c in record.captions] == [
            (AUDIOVISUAL, "merged"),
            (VISION, "draft"),
            (AUDIO, "draft"),
        ]
        truth = facts(scenes(world)[record.id])
        stated = parse_caption(record.captions[0].text)
        assert {"timbre", "shape"} <= stated.keys()
        assert all(truth[slot] == value for slot, value in stated.items() if slot != "source")


@pytest.mark.media
def test_what_to_keep_is_chosen_anew_without_the_models(world, records, tmp_path):
    out = tmp_path / "m.jsonl"
    model = judged(world)
    assert run(records, out, model, Keep(min_similarity=0.9)).num_kept == len(records)
    asleep = Here(dies_after=0)
    assert run(records, out, model, Keep(keep_share=0.5), asleep).num_kept >= len(records) // 2
    done = run(records, out, model, Keep(min_similarity=1.1), asleep)
    assert (done.num_kept, done.rejected) == (0, {"unlike": len(records)})
    assert {row["verdict"] for row in rows(out).values()} == {"unlike"}


@pytest.mark.media
def test_without_sound_there_is_no_draft_of_it(world, tmp_path):
    """It is absent, not empty, and so is every similarity with it; silence is no sound either."""
    scene = next(iter(scenes(world).values()))
    still = np.zeros((8, 32, 32, 3), np.uint8)
    write_mp4(tmp_path / f"{scene.id}.mp4", still, np.zeros(0, np.float32))
    (tmp_path / "silent").mkdir()
    write_mp4(tmp_path / f"silent/{scene.id}.mp4", still, np.zeros(16_000, np.float32))
    mute = [
        Record(id="mute", media=str(tmp_path / f"{scene.id}.mp4")),
        Record(id="silent", media=str(tmp_path / f"silent/{scene.id}.mp4")),
    ]
    run(mute, tmp_path / "m.jsonl", judged(world), Keep(min_similarity=0.9))
    for row in rows(tmp_path / "m.jsonl").values():
        assert row["drafts"].keys() == {"vision"}
        assert row["similarity"].keys() == {"vision"}
        assert row["about"] == "vision"
    for record in read_manifest(tmp_path / "m.jsonl"):
        assert [c.about for c in record.captions] == [VISION]
    hearing = CaptionStage(audio=Load(world))
    done = run(mute, tmp_path / "heard.jsonl", hearing)
    assert done.rejected == {"nothing-to-say": 2}


@pytest.mark.media
def test_bad_files_and_failing_models_are_listed_and_lose_nothing_else(world, records, tmp_path):
    (tmp_path / "broken.mp4").write_text("no video")
    bad = [
        Record(id="broken", media=str(tmp_path / "broken.mp4")),
        Record(id="gone", media=str(tmp_path / "gone.mp4")),
        Record(id="late", media=records[0].media, start_s=100.0, end_s=104.0),
    ]
    mixed = [records[0], *bad, *records[1:]]
    model = Knowing(world)
    model.failing = {records[2].id}
    failing = CaptionStage(vision=lambda: model, audio=lambda: model)
    done = run(mixed, tmp_path / "m.jsonl", failing)
    assert done.rejected == {"missing": 1, "outside": 1, "unanswered": 1, "unreadable": 1}
    kept = [record.id for record in read_manifest(tmp_path / "m.jsonl")]
    assert kept == [record.id for record in records if record is not records[2]]
    model.failing = set()
    work = Work(out=tmp_path / "m.jsonl", executor=Here(), retry=True)
    assert caption(mixed, CONFIG, failing, Keep(), work).num_kept == len(records)


@pytest.mark.media
def test_a_model_that_always_fails_stops_the_run(world, records, tmp_path):
    model = Knowing(world)
    model.failing = {record.id for record in records}
    with pytest.raises(ModelError, match="without text"):
        run(records, tmp_path / "m.jsonl", CaptionStage(vision=lambda: model))
    assert not (tmp_path / "m.jsonl").exists()


@pytest.mark.media
@pytest.mark.parametrize("tail", [b"", b'{"key": "cut of'])
def test_a_killed_run_goes_on_to_the_same_bytes(world, records, tmp_path, tail):
    whole, out = tmp_path / "whole/m.jsonl", tmp_path / "again/m.jsonl"
    keep = Keep(keep_share=0.7)
    model = judged(world, "vision")
    run(records, whole, model, keep)
    with pytest.raises(KeyboardInterrupt):
        run(records, out, model, keep, Here(dies_after=1))
    assert not out.exists()
    with rows_file(out).open("ab") as file:
        file.write(tail)
    run(records, out, model, keep)
    assert rows_file(out).read_bytes() == rows_file(whole).read_bytes()
    kept = [replace(record, media="") for record in read_manifest(out)]
    assert kept == [replace(record, media="") for record in read_manifest(whole)]


@pytest.mark.media
def test_processes_write_what_one_writes(world, records, tmp_path):
    keep = Keep(min_similarity=0.9)
    run(records, tmp_path / "here.jsonl", judged(world, "audio"), keep)
    run(records, tmp_path / "there.jsonl", judged(world, "audio"), keep, LocalExecutor(1))
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    assert here.read_bytes() == there.read_bytes()
    assert rows_file(here).read_bytes() == rows_file(there).read_bytes()


def test_it_must_be_clear_what_to_keep(world, records, tmp_path):
    with pytest.raises(ConfigError, match="an embedder needs"):
        run(records, tmp_path / "m.jsonl", judged(world))
    with pytest.raises(ConfigError, match="an embedder needs"):
        run(records, tmp_path / "m.jsonl", stage(world), Keep(keep_share=0.5))
    with pytest.raises(ValueError, match="exclude each other"):
        Keep(min_similarity=0.1, keep_share=0.5)
    assert list(tmp_path.iterdir()) == []


def test_calibration_keeps_the_share_that_was_asked_for():
    rng = np.random.default_rng(0)
    similarities = [{"vision": float(v), "audio": float(a)} for v, a in rng.random((200, 2))]
    for share in (0.05, 0.5, 0.8, 1.0):
        least = calibrated(similarities, share)
        kept = [s for s in similarities if all(s[group] >= least[group] for group in s)]
        assert len(kept) == pytest.approx(share * 200, abs=2)
        assert len(kept) >= share * 200
        scaled = [{"vision": s["vision"] / 9, "audio": s["audio"]} for s in similarities]
        assert calibrated(scaled, share)["vision"] == pytest.approx(least["vision"] / 9)
    assert calibrated([{}, {}], 0.5) == {}


@pytest.mark.parametrize(
    ("drafts", "merged"),
    [
        ({"vision": "a dog runs"}, "A dog runs."),
        ({"vision": "A dog runs.", "audio": "A bell rings."}, "A dog runs, while a bell rings."),
        (
            {"vision": "a dog runs", "audio": "the sound of rain"},
            "A dog runs, with the sound of rain.",
        ),
        ({"vision": "a dog runs", "audio": "birds singing"}, "A dog runs, with birds singing."),
        ({"vision": "a dog runs", "audio": "dogs bark"}, "A dog runs. Dogs bark."),
        ({"vision": "a dog runs", "audio": "BBC news is on"}, "A dog runs, while BBC news is on."),
        ({"vision": "a dog barks in a park", "audio": "A dog barks."}, "A dog barks in a park."),
        ({"vision": "a dog", "audio": "a dog barks loudly"}, "A dog barks loudly."),
        (
            {"vision": "a man. a man talks", "audio": "a bell; a drum"},
            "A man talks. A bell. A drum.",
        ),
        ({"audio": "a bell rings", "speech": "come in"}, 'A bell rings. Someone says: "come in"'),
        ({"speech": "come in"}, 'Someone says: "come in"'),
    ],
)
def test_rules_say_everything_once(drafts, merged):
    assert by_rules(drafts) == merged


def test_long_speech_is_cut():
    text = by_rules({"speech": " ".join(map(str, range(100)))})
    assert text.endswith('23 24 ..."')


def test_a_language_model_merges_what_there_is(world, records, tmp_path):
    asked: list[str] = []

    def reply(prompt: str) -> str:
        asked.append(prompt)
        return "one\n caption"

    run(records[:2], tmp_path / "m.jsonl", stage(world, writer=lambda: reply))
    texts = [record.captions[0].text for record in read_manifest(tmp_path / "m.jsonl")]
    assert texts == ["one caption"] * 2
    drafts = [row["drafts"] for row in rows(tmp_path / "m.jsonl").values()]
    assert asked == [merge_prompt(draft) for draft in drafts]
    assert all(
        text in prompt for d, prompt in zip(drafts, asked, strict=True) for text in d.values()
    )


VTT = """WEBVTT

00:00.000 --> 00:01.500
hello there

00:01.500 --> 00:03.000
hello there <c>my friend</c>

00:03.500 --> 00:09.000
late words
"""
SRT = """1
00:00:00,000 --> 00:00:02,000
from srt
"""


def test_speech_is_what_subtitles_say_in_the_stretch(tmp_path):
    media = str(tmp_path / "a.mp4")
    assert speech_of(media, 0.0, None) == ""
    (tmp_path / "a.srt").write_text(SRT)
    assert speech_of(media, 0.0, 2.0) == "from srt"
    assert speech_of(media, 1.5, 2.0) == ""
    (tmp_path / "a.vtt").write_text(VTT)
    assert speech_of(media, 0.0, 3.0) == "hello there my friend"
    parts = [speech_of(media, start_s, start_s + 2.0) for start_s in (0.0, 2.0, 4.0, 6.0)]
    assert parts == ["hello there", "hello there my friend", "", "late words"]
    assert speech_of(media, 3.0, None) == "late words"
    (tmp_path / "a.vtt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError):
        speech_of(media, 0.0, None)


@pytest.mark.media
def test_speech_is_part_of_the_caption_and_judged_by_nobody(world, records, tmp_path):
    media = tmp_path / Path(records[0].media).name
    media.write_bytes(Path(records[0].media).read_bytes())
    media.with_suffix(".vtt").write_text(VTT)
    spoken = [replace(records[0], media=str(media), end_s=3.0)]
    run(spoken, tmp_path / "m.jsonl", judged(world), Keep(min_similarity=0.9))
    (row,) = rows(tmp_path / "m.jsonl").values()
    assert row["caption"].endswith('Someone says: "hello there my friend"')
    assert row["similarity"].keys() == {"vision", "audio"}
    (record,) = read_manifest(tmp_path / "m.jsonl")
    assert (record.captions[-1].about, record.captions[-1].style) == (AUDIO, "subtitle")
    media.with_suffix(".vtt").write_bytes(b"\xff\xfe\x00")
    done = run(spoken, tmp_path / "broken.jsonl", judged(world), Keep(min_similarity=0.9))
    assert done.num_kept == 1
    (row,) = rows(tmp_path / "broken.jsonl").values()
    assert "not UTF-8" in row["detail"]
