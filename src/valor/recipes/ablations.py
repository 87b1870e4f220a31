"""The patterns of the paper's ablations (tables 6 to 9), on the rendered world.

Every run of a study has the same network, data and steps, and differs in what its variant changes.
Each has a folder of its own, is left alone when it is done, and goes on where it was stopped. The
table says of each of the paper's patterns whether it is seen here; a difference that is not larger
than the spread over seeds decides nothing.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from valor.config import evolve, fingerprint
from valor.data.manifest import Record, read_manifest
from valor.data.samples import load_store
from valor.data.world.render import World, render_world
from valor.errors import UsageError
from valor.evaluation.outputs import collect
from valor.evaluation.predictions import write_json
from valor.inference import load
from valor.recipes.demo import measure
from valor.recipes.tiny import tiny
from valor.training.monitor import Report, silent
from valor.training.run import TrainConfig, run
from valor.training.start import begin
from valor.types import AUDIOVISUAL, MEDIA_GROUPS, Modality

_VISION, _AUDIO = Modality.VISION, Modality.AUDIO


def small() -> TrainConfig:
    """The demo's model with fewer layers and without questions: the network of all variants.

    Cost: 46 s of processor time a run with its evaluation, in bfloat16 on one core at 80 GFLOP/s
    that others used too; all studies are 45 runs. Measured on 128 near-duplicates, over 3 seeds:
    R@1 of both 0.89, where 1 is possible, of vision 0.15 and of audio 0.39 of 0.5.
    """
    changes = {
        "model.vision.num_layers": 2,
        "model.audio.num_layers": 1,
        "model.text.num_layers": 2,
        "objectives.answering": None,
        "optim.learning_rate": 1.5e-3,
        "num_steps": 120,
    }
    return evolve(tiny(), changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What the paper found: one variant does better than another."""

    text: str
    metric: str
    better: str
    worse: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Variants of one run, and what the paper says of them."""

    source: str
    variants: Mapping[str, Mapping[str, Any]]
    """Changes to the run by name of the variant; the same name is the same run in all studies."""
    claims: Sequence[Claim]
    metrics: Sequence[str]
    """Columns of the table."""


def _groups(align: Sequence[Modality], write: Sequence[Modality]) -> dict[str, Any]:
    return {
        "objectives.alignment.groups": tuple(align),
        "objectives.captioning.groups": tuple(write),
    }


_RETRIEVAL = tuple(f"r1/{group.label}" for group in MEDIA_GROUPS)
_CAPTIONS = tuple(f"cider/{group.label}" for group in MEDIA_GROUPS)

STUDIES = {
    "grouping": Study(
        source="tables 8 and 9: groups in MGA and in MGC",
        variants={
            "all": {},
            "align V": _groups([_VISION], MEDIA_GROUPS),
            "align A": _groups([_AUDIO], MEDIA_GROUPS),
            "align AV": _groups([AUDIOVISUAL], MEDIA_GROUPS),
            "align V, AV": _groups([_VISION, AUDIOVISUAL], MEDIA_GROUPS),
            "align A, AV": _groups([_AUDIO, AUDIOVISUAL], MEDIA_GROUPS),
            "write AV": _groups(MEDIA_GROUPS, [AUDIOVISUAL]),
            "write V": _groups(MEDIA_GROUPS, [_VISION]),
        },
        claims=(
            Claim(
                text="aligned with vision alone, sound is found by chance only",
                **{"metric": "r1/audio", "better": "all", "worse": "align V"},
            ),
            Claim(
                text="aligned with sound alone, pictures are found by chance only",
                **{"metric": "r1/vision", "better": "all", "worse": "align A"},
            ),
            Claim(
                text="aligning both together beats vision alone where texts speak of both",
                **{"metric": "r1/audiovisual", "better": "align AV", "worse": "align V"},
            ),
            Claim(
                text="all groups beat the audiovisual group alone on vision",
                **{"metric": "r1/vision", "better": "all", "worse": "align AV"},
            ),
            Claim(
                text="all groups beat the audiovisual group alone on sound",
                **{"metric": "r1/audio", "better": "all", "worse": "align AV"},
            ),
            Claim(
                text="writing from all groups beats the audiovisual group alone on sound",
                **{"metric": "cider/audio", "better": "all", "worse": "write AV"},
            ),
        ),
        metrics=_RETRIEVAL + _CAPTIONS,
    ),
    "fusion": Study(
        source="tables 6 and 7: coarse or fine similarity, and order of cross-attention",
        variants={
            "all": {},
            "coarse": {"model.contrast": "coarse"},
            "coarse, scores": {"model.contrast": "coarse", "model.late_fusion": True},
            "merged": {"model.text.cross_attention": "none"},
            "parallel": {"model.text.cross_attention": "parallel"},
            "vision first": {"model.text.cross_attention": "vision_audio"},
            "audio first": {"model.text.cross_attention": "audio_vision"},
        },
        claims=(
            Claim(
                text="fine-grained similarity beats coarse",
                **{"metric": "r1/audiovisual", "better": "all", "worse": "coarse"},
            ),
            Claim(
                text="fused features beat added scores",
                **{"metric": "r1/audiovisual", "better": "coarse", "worse": "coarse, scores"},
            ),
            *(
                Claim(
                    text=f"concatenated cross-attention beats {other}",
                    **{"metric": "cider/audiovisual", "better": "all", "worse": other},
                )
                for other in ("merged", "parallel", "vision first", "audio first")
            ),
        ),
        metrics=("r1/audiovisual", "cider/audiovisual"),
    ),
    "audio": Study(
        source="tables 2 and 5: with and without sound",
        variants={"all": {}, "no sound": _groups([_VISION], [_VISION])},
        claims=(
            Claim(
                text="sound helps to find what texts say of both",
                **{"metric": "best r1", "better": "all", "worse": "no sound"},
            ),
        ),
        metrics=("r1/vision", "cider/vision", "best r1"),
    ),
}


@dataclass(slots=True, kw_only=True)
class Ablation:
    """A study with its runs on disk."""

    out: Path
    study: str
    base: TrainConfig = field(default_factory=small)
    seeds: Sequence[int] = (0, 1, 2)
    world: World = field(
        default_factory=lambda: World(num=1200, num_val=0, num_test=128, seed=0, level="duet")
    )
    report: Report = silent

    def run(self) -> str:
        """Run what is not done yet.

        Returns:
            The table, which `out/STUDY.md` holds too; `out/STUDY.json` holds its figures.

        Raises:
            UsageError: If there is no such study.
        """
        if self.study not in STUDIES:
            raise UsageError(f"unknown study {self.study!r}; there is {', '.join(STUDIES)}")
        study = STUDIES[self.study]
        folder = self.out / "world"
        render_world(folder, self.world, progress=lambda *done: self.report("render", *done))
        train, test = (
            [replace(record, questions=()) for record in read_manifest(folder, split=split)]
            for split in ("train", "test")
        )
        results: dict[str, list[dict[str, float]]] = {name: [] for name in study.variants}
        # Seed by seed, so that what was stopped half-way compares all variants.
        for seed in self.seeds:
            for name in study.variants:
                results[name].append(self._result(name, seed, train, test))
        write_json(self.out / f"{self.study}.json", results)
        table = markdown(study, results)
        (self.out / f"{self.study}.md").write_text(table, encoding="utf-8")
        return table

    def _result(
        self, name: str, seed: int, train: Sequence[Record], test: Sequence[Record]
    ) -> dict[str, float]:
        """The figures of one run, which are computed only once for each configuration."""
        folder = self.out / "runs" / f"{name.replace(', ', '+').replace(' ', '-')}-{seed}"
        changes = {**STUDIES[self.study].variants[name], "seed": seed}
        config = evolve(self.base, changes)
        done, run_id = folder / "result.json", fingerprint(config)
        if done.is_file():
            found = json.loads(done.read_text(encoding="utf-8"))
            if found.pop("run", None) == run_id:
                return found
        # Media are decoded once for all runs: none changes the preprocessing.
        processor = begin(config.model, config.processor, train)[1]
        source = load_store(train, processor, self.out / "cache")
        start = time.process_time()
        model = load(run(config, train, folder, source=source, report=self.report))
        figures = measure(model, test, collect(model, test), self.out / "world")
        result = {**_flat(figures), "processor_s": time.process_time() - start}
        write_json(done, {"run": run_id, **result})
        return result


def _flat(figures: Mapping[str, Any]) -> dict[str, float]:
    """The figures that studies look at, by short names.

    `best r1` is R@1 of texts that speak of both, with the media that serve them best: a model that
    has never heard anything is not made to listen.
    """
    flat: dict[str, float] = {}
    for group, own in figures["retrieval"].items():
        flat[f"r1/{group}"] = own["text_to_media"]["r1"]
    for group, own in figures["captioning"].items():
        flat[f"cider/{group}"] = own["cider"]
    about_both: Mapping[str, float] = figures.get("by_caption", {}).get("audiovisual", {})
    if about_both:
        flat["best r1"] = max(about_both.values())
    return flat


def markdown(study: Study, results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Write the table of a study and what agrees with the paper.

    Args:
        study: With its claims.
        results: Of each variant, the figures of each seed.

    Returns:
        Markdown.
    """

    def cell(name: str, metric: str) -> str:
        if not all(metric in result for result in results[name]):
            return "-"
        mean, spread = _summary(results[name], metric)
        return f"{100 * mean:.1f} ± {100 * spread:.1f}"

    seconds = [result["processor_s"] for own in results.values() for result in own]
    lines = [
        f"Pattern of VALOR (arXiv 2304.08345), {study.source}. Rendered world; mean and standard "
        f"deviation over {len(next(iter(results.values())))} seeds, times 100; a run took "
        f"{fmean(seconds):.0f} s of processor time.",
        "",
        f"| Variant | {' | '.join(study.metrics)} |",
        f"|---|{'---|' * len(study.metrics)}",
        *(
            f"| {name} | {' | '.join(cell(name, metric) for metric in study.metrics)} |"
            for name in results
        ),
        "",
        "| The paper's pattern | Measured on | Better | Worse | Here |",
        "|---|---|---|---|---|",
        *(
            f"| {claim.text} | {claim.metric} | {claim.better}: {cell(claim.better, claim.metric)} "
            f"| {claim.worse}: {cell(claim.worse, claim.metric)} | {verdict(claim, results)} |"
            for claim in study.claims
        ),
    ]
    return "\n".join(lines) + "\n"


def verdict(claim: Claim, results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Whether a pattern is seen: a difference counts when it exceeds both spreads together."""
    better, better_spread = _summary(results[claim.better], claim.metric)
    worse, worse_spread = _summary(results[claim.worse], claim.metric)
    difference = better - worse
    if abs(difference) <= better_spread + worse_spread:
        return "not decided"
    return "agrees" if difference > 0 else "does not agree"


def _summary(results: Sequence[Mapping[str, float]], metric: str) -> tuple[float, float]:
    values = [result[metric] for result in results]
    return fmean(values), stdev(values) if len(values) > 1 else 0.0
