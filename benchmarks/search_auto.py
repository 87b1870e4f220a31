"""Does `--using auto` look where the query is about?

Queries of four kinds over rendered recordings: about what is seen, heard, both, and spoken (words
of a subtitle file beside each). Printed is the mean reciprocal rank of the best recording that
fits, by kind and over all of them, for every fixed choice, for plain averaging of all, and for
auto. Limits: auto within 2 points of the best fixed choice of each kind, and above every one of
them over all.
"""

import argparse
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from valor.data.manifest import Record, read_manifest
from valor.data.world.language import caption_fits
from valor.evaluation.provenance import finish
from valor.evaluation.world import Truth, read_truth
from valor.inference import load
from valor.models.verbs import need_embedder
from valor.search.library import Library

WORDS = [
    "harbour",
    "lantern",
    "meadow",
    "thunder",
    "copper",
    "violin",
    "window",
    "garden",
    "river",
    "marble",
    "falcon",
    "winter",
    "cinnamon",
    "pilot",
    "ladder",
    "compass",
    "velvet",
    "island",
    "orchard",
    "rocket",
    "signal",
    "timber",
    "anchor",
    "candle",
]
CHOICES = {
    "vision": "vision",
    "audio": "audio",
    "audiovisual": "audiovisual",
    "text": "text",
    "average": {"vision": 1.0, "audio": 1.0, "text": 1.0},
    "auto": "auto",
}
FIXED = ("vision", "audio", "audiovisual", "text")
TOLERANCE = 0.02


def speak(record: Record, folder: Path, random: np.random.Generator) -> str:
    """Link a recording into the folder, write words beside it, and return them."""
    said = " ".join(random.choice(WORDS, size=4, replace=False))
    path = folder / Path(record.media).name
    path.symlink_to(Path(record.media).resolve())
    cue = f"WEBVTT\n\n00:00.500 --> 00:03.500\nplease remember {said}\n"
    path.with_suffix(".vtt").write_text(cue, encoding="utf-8")
    return said


def asked(
    records: list[Record], spoken: list[str], truth: dict[str, Truth]
) -> list[tuple[str, str, set[str]]]:
    """Return kind, text and the names of all recordings that fit, of every query."""
    queries = []
    for record, said in zip(records, spoken, strict=True):
        queries.append(("spoken", said, {Path(record.media).name}))
        for about in ("vision", "audio", "audiovisual"):
            text = next(c.text for c in record.captions if c.about.label == about)
            stated = truth[record.id].slots_of[text]
            fitting = (r for r in records if caption_fits(stated, truth[r.id].facts))
            queries.append((about, text, {Path(r.media).name for r in fitting}))
    return queries


def reciprocal_rank(library: Library, text: str, names: set[str], using: object) -> float:
    hits = library.search(text, using=using, limit=50, merged=False)  # type: ignore[arg-type]
    places = [place for place, hit in enumerate(hits, 1) if Path(hit.path).name in names]
    return 1 / places[0] if places else 0.0


def measure(model: str, world: Path, num: int) -> dict[str, float]:
    records = read_manifest(world, split="test")[:num]
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        media = Path(temporary) / "media"
        media.mkdir()
        spoken = [speak(record, media, random) for record in records]
        library = Library(Path(temporary) / "library", model=need_embedder(load(model)))
        library.add(media)
        truth = read_truth(world)
        if truth is None:
            sys.exit(f"{world}: no truth.jsonl; name a rendered world")
        queries = asked(records, spoken, truth)
        ranks: dict[tuple[str, str], list[float]] = defaultdict(list)
        for kind, text, names in queries:
            for choice, using in CHOICES.items():
                ranks[choice, kind].append(reciprocal_rank(library, text, names, using))
    kinds = ("vision", "audio", "audiovisual", "spoken")
    figures = {f"{c}_on_{k}": round(float(np.mean(ranks[c, k])), 4) for c in CHOICES for k in kinds}
    for choice in CHOICES:
        every = [figures[f"{choice}_on_{kind}"] for kind in kinds]
        figures[f"{choice}_on_all"] = round(float(np.mean(every)), 4)
    worst = min(figures[f"auto_on_{k}"] - max(figures[f"{c}_on_{k}"] for c in FIXED) for k in kinds)
    lead = figures["auto_on_all"] - max(figures[f"{c}_on_all"] for c in FIXED)
    return {
        "auto_behind_best_fixed": round(-worst, 4),
        "auto_ahead_on_all": round(lead, 4),
        **figures,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="48 recordings")
    parser.add_argument("--model", default="runs/demo/model")
    parser.add_argument("--world", type=Path, default=Path("runs/demo/world"))
    arguments = parser.parse_args()
    figures = measure(arguments.model, arguments.world, 48 if arguments.quick else 256)
    finish(figures, arguments.json)
    sys.exit(figures["auto_behind_best_fixed"] > TOLERANCE or figures["auto_ahead_on_all"] <= 0)


if __name__ == "__main__":
    main()
