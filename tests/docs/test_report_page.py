"""The page about `report.json` names every key that a report has."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import ROOT
from valor.cli.main import main

ROWS = [
    key
    for line in (ROOT / "docs/report.md").read_text().splitlines()
    if line.startswith("| `")
    for key in re.findall(r"`([^`]+)`", line.split("|")[1])
]


def leaves(value: Any, path: str = "") -> list[str]:
    if not isinstance(value, dict):
        return [path]
    return [
        leaf for key, part in value.items() for leaf in leaves(part, f"{path}.{key}".strip("."))
    ]


def pattern(row: str) -> re.Pattern[str]:
    """Names in capitals are any key; the last one may have dots."""
    parts = [r"[^.]+" if part.isupper() else re.escape(part) for part in row.split(".")]
    last = ".+" if row.rpartition(".")[2] in ("ID", "KEY", "NAME") else parts[-1]
    return re.compile(r"\.".join([*parts[:-1], last]))


@pytest.fixture(scope="module")
def fresh(world: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> set:
    """The keys of two evaluations: of everything, and of a protocol with other ways to rank."""
    out = tmp_path_factory.mktemp("evaluated")
    words = ["evaluate", str(model_folder), "--data", str(world), "--out", str(out)]
    ranking = ["--protocol", "retrieval", "--candidates", "4", "--dual-softmax", "20"]
    keys: set[str] = set()
    for more in ([], ranking):
        assert main([*words, *more]) == 0
        keys |= {*leaves(json.loads((out / "report.json").read_text()))}
    return keys


def test_every_key_of_a_report_is_on_the_page(fresh):
    kept = json.loads((ROOT / "benchmarks/results/demo.json").read_text())
    keys = fresh | {*leaves(kept)}
    assert {key for key in keys if not any(pattern(row).fullmatch(key) for row in ROWS)} == set()


def test_a_report_has_what_the_page_names(fresh):
    only_elsewhere = (
        "data.missing.ID",
        "metrics.",
        "absent.",
        "by_type.",
        "protocol.seconds.",
        "hallucination",
        "reranked.",
    )
    rows = [row for row in ROWS if not any(part in row for part in only_elsewhere)]
    assert {row for row in rows if not any(pattern(row).fullmatch(key) for key in fresh)} == set()
