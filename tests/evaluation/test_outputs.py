"""Figures do not depend on how records were shared out."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.evaluation.test_run import Oracle
from tests.ranks import run_two_ranks
from valor.data.manifest import read_manifest
from valor.evaluation.outputs import collect, merge
from valor.evaluation.run import evaluate
from valor.inference import load
from valor.processes import joined


def measured(world: Path, out: Path | None = None) -> str:
    torch.set_num_threads(1)
    with joined() as is_first:
        model = Oracle(world)
        model.embed([row.facts for row in model.truth.values()])  # the same words in every process
        items = {}
        records = read_manifest(world, split="test")
        figures = json.dumps([evaluate(model, records, items=items), items], sort_keys=True)
        if out and is_first:
            out.write_text(figures)
    return figures


def measured_from_pixels(folder: Path, world: Path, out: Path | None = None) -> dict[str, Any]:
    """What the command line writes, and the embeddings that it is computed from."""
    torch.set_num_threads(1)
    with joined() as is_first:
        model, records = load(folder), read_manifest(world, split="test")
        outputs = collect(model, records)
        found = {
            "media": {group.label: rows.vectors for group, rows in outputs.media.items()},
            "report": evaluate(model, records, outputs),
        }
        if out and is_first:
            torch.save(found, out)
    return found


def as_rank(folder: str, world: str, out: str) -> None:
    with joined():  # once: a second start could meet what is left of the first one's store
        measured(Path(world), Path(out, "two.json"))
        measured_from_pixels(Path(folder), Path(world), Path(out, "two.pt"))


def numbers(report: Any, name: str = "") -> dict[str, float]:
    """The numbers of a report by their path."""
    if isinstance(report, dict):
        parts = [numbers(part, f"{name}/{key}") for key, part in report.items()]
        return {path: value for part in parts for path, value in part.items()}
    return {name: report} if isinstance(report, int | float) else {}


def test_merging_in_any_order_counts_every_record_once(world):
    model, records = Oracle(world), read_manifest(world, split="test")
    whole = collect(model, records)
    parts = [collect(model, records[start::3]) for start in range(3)]
    expected = evaluate(model, records, whole)
    for seed in range(3):
        shuffled = [*parts, parts[seed]]  # one part twice, as padding would have it
        random.Random(seed).shuffle(shuffled)
        merged = merge(shuffled)
        assert [record.id for record in merged.records] == sorted(r.id for r in records)
        assert merged.answers == whole.answers
        assert merged.captions == whole.captions
        for group, rows in whole.media.items():
            assert torch.equal(merged.media[group].vectors, rows.vectors)
        assert evaluate(model, records, merged) == expected


@pytest.fixture(scope="module")
def two_ranks(model_folder, world, tmp_path_factory) -> Path:
    """What two processes have written."""
    out = tmp_path_factory.mktemp("ranks")
    run_two_ranks(as_rank, model_folder, world, out)
    return out


def test_two_processes_find_what_one_finds_bit_for_bit_from_equal_vectors(two_ranks, world):
    assert (two_ranks / "two.json").read_text() == measured(world)


def test_two_processes_find_what_one_finds_from_pixels(two_ranks, model_folder, world):
    one, two = measured_from_pixels(model_folder, world), torch.load(two_ranks / "two.pt")
    assert one["media"].keys() == two["media"].keys() == {"vision", "audio"}
    for group, vectors in one["media"].items():
        torch.testing.assert_close(two["media"][group], vectors, rtol=0, atol=1e-5)
    figures = numbers(one["report"])
    assert len(figures) > 100
    assert numbers(two["report"]) == pytest.approx(figures, abs=1e-5)
