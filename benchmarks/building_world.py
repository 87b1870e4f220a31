"""Build a set from rendered recordings: are they cut where they change, are wrong drafts found?

Scenes of the world are joined to longer recordings, with a stretch that is silent and one that
stands still among them. `segment` cuts them by scene. Then every kept segment is drafted from the
truth, half of them with one fact changed on purpose, and `caption` keeps the captions that the
model finds most similar to their media, as many as are true. A kept caption that is true counts for
precision and recall; a filter that guesses has `chance_precision` for both. Without `--model`, an
oracle that embeds the truth takes its place. There is no limit: the figures say what a filter by
this model is worth on media and language of the kind that it was trained on, where the share of
true drafts is known.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from valor.data.building.captioning import CaptionConfig, CaptionStage, Keep, caption
from valor.data.building.rows import KEPT, Work, rows_file
from valor.data.building.segment import SegmentConfig, recordings, segment
from valor.data.executors import LocalExecutor
from valor.data.manifest import read_manifest
from valor.data.world.drawing import draw
from valor.data.world.language import AUDIO_SLOTS, VISION_SLOTS, captions, facts, parse_caption
from valor.data.world.render import write_mp4
from valor.data.world.scene import (
    COLOURS,
    DURATION_S,
    MOTIONS,
    PITCHES,
    RHYTHMS,
    SHAPES,
    TIMBRES,
    Scene,
    draw_scene,
)
from valor.data.world.sound import mixture
from valor.evaluation.provenance import finish
from valor.inference import load
from valor.media.segments import DecodePlan, decode_segment
from valor.models.verbs import fit, need_embedder
from valor.types import AUDIOVISUAL, Answer, Caption, Embeddings, Modality, Segment

SEED = 71
SCENES = 6
SILENT, STILL = 2, 4
"""Places of the stretches that `segment` must leave out."""
SEEN = {"colour": tuple(COLOURS), "shape": SHAPES, "motion": MOTIONS}
HEARD = {"timbre": TIMBRES, "rhythm": RHYTHMS, "pitch": PITCHES}


def scene_at(path: str, time_s: float) -> Scene:
    """The scene that a recording shows at a time."""
    number = int(Path(path).stem)
    return draw_scene(SEED, "val", number * SCENES + int(time_s / DURATION_S), "duet")


def lie_about(scene: Scene) -> str | None:
    """The fact that is changed in a scene's draft, if any."""
    rng = np.random.default_rng((SEED, int(scene.id.rpartition("-")[2])))
    return str(rng.choice([*SEEN, *HEARD])) if rng.random() < 0.5 else None


def changed(scene: Scene, slot: str) -> Scene:
    """The scene with another value of a fact."""
    rng = np.random.default_rng((SEED, 1, int(scene.id.rpartition("-")[2])))
    actors = list(scene.actors)
    values = {**SEEN, **HEARD}[slot]
    place = 0 if slot in SEEN else actors.index(scene.sounding[0])
    owner: Any = actors[place] if slot in SEEN else actors[place].voice
    others = [value for value in values if value != getattr(owner, slot)]
    owner = replace(owner, **{slot: str(rng.choice(others))})
    actors[place] = owner if slot in SEEN else replace(actors[place], voice=owner)
    return replace(scene, actors=tuple(actors))


class Drafter:
    """A `Describer` that knows the truth, and lies where it is told to."""

    def read(
        self,
        path: str,
        *,
        start_s: float = 0.0,
        end_s: float | None = None,
        keyframes_only: bool = False,
    ) -> Segment:
        plan = DecodePlan(num_frames=1, short_side_px=16, sample_rate_hz=8000)
        return decode_segment(path, plan, start_s=start_s, end_s=end_s)

    def describe(
        self, segments: Sequence[Segment], *, using: Modality = AUDIOVISUAL
    ) -> list[Caption]:
        return [self._draft(segment, using) for segment in segments]

    def answer(
        self,
        segments: Sequence[Segment],
        questions: Sequence[str],
        *,
        using: Modality = AUDIOVISUAL,
    ) -> list[Answer]:
        raise NotImplementedError

    def _draft(self, segment: Segment, using: Modality) -> Caption:
        scene = scene_at(segment.path, (segment.start_s + segment.end_s) / 2)
        lie = lie_about(scene)
        told = scene if lie is None else changed(scene, lie)
        said = captions(told, np.random.default_rng(int(scene.id.rpartition("-")[2])), per_kind=1)
        text = next(caption.text for caption in said if caption.about == using.label)
        return Caption(text=text, modalities_used=using, segments=())


class Oracle(Drafter):
    """An `Embedder` of facts: one direction for each value of each slot."""

    fingerprint = "oracle"
    groups = (Modality.VISION, Modality.AUDIO, AUDIOVISUAL)
    segment_s = DURATION_S

    def embed_media(self, segments: Sequence[Segment]) -> dict[Modality, Embeddings]:
        truths = [facts(scene_at(s.path, (s.start_s + s.end_s) / 2)) for s in segments]
        return {
            Modality.VISION: self._embed(truths, VISION_SLOTS),
            Modality.AUDIO: self._embed(truths, AUDIO_SLOTS),
        }

    def embed_text(self, texts: Sequence[str]) -> Embeddings:
        stated = [parse_caption(text.replace(". ", " ")) for text in texts]
        return self._embed(stated, (*VISION_SLOTS, *AUDIO_SLOTS))

    def _embed(self, rows: Sequence[dict[str, str]], slots: Sequence[str]) -> Embeddings:
        known = [(slot, value) for slot, values in {**SEEN, **HEARD}.items() for value in values]
        vectors = torch.zeros(len(rows), len(slots), len(known))
        for row, stated in enumerate(rows):
            for place, slot in enumerate(slots):
                if (slot, stated.get(slot)) in known:
                    vectors[row, place, known.index((slot, stated[slot]))] = 1.0
        valid = vectors.any(dim=2)
        return Embeddings(vectors=vectors, weight_logits=torch.zeros(valid.shape), valid=valid)


@dataclass(frozen=True)
class LoadEmbedder:
    """Gives the model in the process that works."""

    source: str | None

    def __call__(self) -> Any:
        return _embedder(self.source)


@cache
def _embedder(source: str | None) -> Any:
    return Oracle() if source is None else need_embedder(load(source))


def render(folder: Path, num: int) -> None:
    """Write recordings of some scenes in a row."""
    folder.mkdir(parents=True)
    for number in range(num):
        path = folder / f"{number:04d}.mp4"
        scenes = [scene_at(str(path), DURATION_S * place) for place in range(SCENES)]
        frames, sounds = [draw(scene).frames for scene in scenes], [*map(mixture, scenes)]
        sounds[SILENT] = 0 * sounds[SILENT]
        frames[STILL] = np.repeat(frames[STILL][:1], len(frames[STILL]), axis=0)
        write_mp4(path, np.concatenate(frames), np.concatenate(sounds))


def cutting(out: Path, num: int) -> dict[str, float]:
    """How well the recordings were cut, and what of them was kept."""
    rows = list(map(json.loads, rows_file(out).read_text(encoding="utf-8").splitlines()))
    true = {DURATION_S * place for place in range(1, SCENES)}
    found = [{round(s["start_s"], 2) for s in row["stretches"][1:]} for row in rows]
    right = sum(len(true & cuts) for cuts in found)
    kept = [s for row in rows for s in row["stretches"] if s["status"] == KEPT]
    dull = {SILENT, STILL}
    wrong = sum(int((s["start_s"] + s["end_s"]) / 2 / DURATION_S) in dull for s in kept)
    return {
        "cut_precision": right / max(1, sum(map(len, found))),
        "cut_recall": right / (num * len(true)),
        "silent_or_still_kept_fraction": wrong / max(1, len(kept)),
        "num_segments": len(kept),
    }


def filtering(records: Path, out: Path) -> dict[str, float]:
    """Precision and recall of the filter, and how many lies of each kind it found."""
    kept = {record.id for record in read_manifest(out)}
    lies = {}
    for record in read_manifest(records):
        middle_s = (record.start_s + (record.end_s or 0.0)) / 2
        lies[record.id] = lie_about(scene_at(record.media, middle_s))
    true = {id for id, lie in lies.items() if lie is None}
    figures = {
        "precision": len(true & kept) / max(1, len(kept)),
        "recall": len(true & kept) / max(1, len(true)),
        "chance_precision": len(true) / len(lies),
    }
    for slot in (*SEEN, *HEARD):
        of_slot = {id for id, lie in lies.items() if lie == slot}
        figures[f"found_{slot}"] = len(of_slot - kept) / max(1, len(of_slot))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a model folder that embeds, such as a demo's")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    num = 10 if arguments.quick else 100
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        render(folder / "raw", num)
        cut, out = folder / "cut.jsonl", folder / "captions.jsonl"
        executor = LocalExecutor(1)
        config = SegmentConfig(by="scene")
        segment(recordings([folder / "raw"]), config, Work(out=cut, executor=executor))
        figures = cutting(cut, num)
        records = read_manifest(cut)
        lies = [lie_about(scene_at(r.media, (r.start_s + (r.end_s or 0.0)) / 2)) for r in records]
        stage = CaptionStage(
            vision=Drafter, audio=Drafter, embedder=LoadEmbedder(arguments.model), fit=fit
        )
        keep = Keep(keep_share=lies.count(None) / len(lies))
        caption(records, CaptionConfig(), stage, keep, Work(out=out, executor=executor))
        figures = {**filtering(cut, out), **figures}
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()
