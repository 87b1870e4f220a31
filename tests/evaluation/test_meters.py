"""Figures do not depend on how records were shared out."""

import json
import multiprocessing
import os
import random
import socket
from pathlib import Path

import torch

from tests.evaluation.test_run import Oracle
from valor.data.manifest import read_manifest
from valor.evaluation.meters import process_group
from valor.evaluation.outputs import collect, merge
from valor.evaluation.run import evaluate


def measured(world: Path, out: Path | None = None) -> str:
    torch.set_num_threads(1)
    with process_group() as is_first:
        model = Oracle(world)
        model.embed([row.facts for row in model.truth.values()])  # the same words in every process
        items = {}
        records = read_manifest(world, split="test")
        figures = json.dumps([evaluate(model, records, items=items), items], sort_keys=True)
        if out and is_first:
            out.write_text(figures)
    return figures


def as_rank(rank: int, port: int, world: Path, out: Path) -> None:
    os.environ |= {
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        **{"RANK": str(rank), "WORLD_SIZE": "2"},
    }
    measured(world, out)


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


def test_two_processes_find_what_one_finds(world, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    ranks = [
        context.Process(target=as_rank, args=(rank, port, world, tmp_path / "two.json"))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    assert (tmp_path / "two.json").read_text() == measured(world)
