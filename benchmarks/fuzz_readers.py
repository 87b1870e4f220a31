"""Coverage-guided damage to what readers read: whatever it is, it is read or refused in one line.

The readers of manifests, of configurations and of the indexes of shards are instrumented by
Atheris (extra `fuzz`), and libFuzzer keeps every input that reaches something new. Half of its
changes are to the JSON values within an input, the others to its bytes. Besides their errors, what
is read must be the same after it was written and read again. Each reader has a process of its own,
so that a crash, a hang and too much memory are findings too; these end its run.
"""

import argparse
import base64
import importlib
import json
import math
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from valor.evaluation.provenance import finish

FOLDER = Path("/", "data")
PARTS = b"\0"
"""Between the files of one input, which JSON does not contain."""
HANG_S = 600
"""Of no result; on a busy machine a process may not run for a minute."""
MAX_MIB = 2048
STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**64), 10**400, 0.5, -0.0, 1e308, 5e-324),
    *(math.nan, math.inf, "", " ", "\0", "\n", "\ud800", "..", "../x", "s3://x", "audio+text"),
    *("NaN", "1", "json:loads", "\x1b[2J", [], {}, [[]], {"": {}}, [None], "x" * 5000),
)


def read_manifest(content: bytes) -> None:
    """The lines of a manifest."""
    from valor.data.manifest import make_record, parse_record, record_values
    from valor.data.rows import Row

    for line in filter(bytes.strip, content.splitlines()):
        record = parse_record(line, folder=FOLDER, where="m:1")
        again = make_record(Row(record_values(record, FOLDER), "m:1"), folder=FOLDER)
        assert again == record, "another record after writing"


def read_config(content: bytes) -> None:
    """A training configuration, or one of what travels with a model or with shards."""
    from valor.config import from_dict, parse_json, to_dict

    name, _, text = content.partition(PARTS)
    configs = _sound_configs()
    cls = type(configs.get(name.decode("latin1"), configs["TrainConfig"])[0])
    config = from_dict(cls, parse_json(text, "c"), where="c")
    assert from_dict(cls, to_dict(config)) == config, "another configuration after writing"


@cache
def _sound_configs() -> dict[str, list[Any]]:
    """Configurations by the names of their classes."""
    from valor.data.sharding import ShardConfig
    from valor.processing.processor import ProcessorConfig
    from valor.recipes import RECIPES, find_recipe

    found: dict[str, list[Any]] = {}
    whole = [find_recipe(name) for name in RECIPES if name != "finetune"]  # It needs a model.
    for config in (*whole, ProcessorConfig(), ShardConfig()):
        found.setdefault(type(config).__name__, []).append(config)
    return found


def read_shards(content: bytes) -> None:
    """`_stats.json`, the index of one shard and its tar file."""
    from valor.data.shards import STATS_FILE, Shards, damaged, shard_name

    stats, index, archive = (*content.split(PARTS, 2), b"", b"")[:3]
    folder = Path(_place().name)
    contents = {STATS_FILE: stats, f"{shard_name(0)}.jsonl": index, f"{shard_name(0)}.tar": archive}
    for name, part in contents.items():
        (folder / name).unlink(missing_ok=True)  # Writing over a file may wait for the disk.
        (folder / name).write_bytes(part)
    shards = Shards(folder)
    for number in range(min(len(shards), 3)):
        record, _ = shards.record(number)
        assert record.id
        for suffix, size in shards.entry(number)[1].members:
            assert len(shards.members(number, [suffix])[suffix]) == size
    list(damaged(folder))


@cache
def _place() -> "tempfile.TemporaryDirectory[str]":
    """Where the files of this process are written."""
    return tempfile.TemporaryDirectory(prefix="fuzz-readers-")


READERS: dict[str, Callable[[bytes], None]] = {
    "manifest": read_manifest,
    "config": read_config,
    "shards": read_shards,
}


def seeds(reader: str) -> list[bytes]:
    """Inputs without fault."""
    from valor.config import to_json
    from valor.data.shards import Entry, ShardStats, Stats, shard_name, tar_end, tar_members

    question = {"question": "what rings", "answers": ["bell"], "needs": "audio", "type": "count"}
    caption = {"text": "a red circle", "about": "audio", "style": "short"}
    record = {"id": "one", "media": "one.mp4", "start_s": 1.5, "end_s": 2, "split": "test"}
    record |= {"captions": ["a bell", caption], "questions": [question], "source": "world"}
    line = json.dumps({**record, "extra": {"start_s": 0, "end_s": 1}}).encode()
    if reader == "manifest":
        return [line, b'{"id": "two", "media": "s3://bucket/two.mp4"}\n' + line]
    if reader == "config":
        return [
            name.encode() + PARTS + to_json(config).encode()
            for name, configs in _sound_configs().items()
            for config in configs
        ]
    members = {"json": line, "0000.jpg": b"picture", "flac": b"sound"}
    sizes = tuple((suffix, len(content)) for suffix, content in members.items())
    content = tar_members("000000000", members)
    entry = Entry(row=0, id="one", status="ok", size=len(content), members=sizes)
    left_out = Entry(row=1, id="two", status="missing", detail="no such file")
    counts: dict[str, Any] = {"num_records": 2, "num_samples": 1, "seconds": 1.0}
    counts["bytes"] = len(content) + len(tar_end(len(content)))
    shard = ShardStats(name=shard_name(0), sha256="0" * 64, **counts)
    stats = Stats(**counts, left_out={"missing": 1}, shards=(shard,))
    index = (entry.to_json() + left_out.to_json()).encode()
    return [PARTS.join((to_json(stats).encode(), index, content + tar_end(len(content))))]


def mutated(rng: random.Random, content: bytes) -> bytes | None:
    """Change a JSON value of one of the parts; None if there is no JSON in it."""
    parts = content.split(PARTS, 2)
    at = rng.randrange(len(parts))
    lines = [parts[at]]
    try:
        values = [json.loads(parts[at])]
    except (ValueError, RecursionError):
        lines = parts[at].splitlines()
        try:
            values = [json.loads(line) for line in lines]
        except (ValueError, RecursionError):
            return None
    if not values:
        return None
    for _ in range(rng.choice((1, 1, 2, 4))):
        _change(rng, values)
    text = "\n".join(map(json.dumps, values))
    if rng.random() < 0.02:
        deep = rng.choice(("[", '{"a":')) * rng.choice((50, 300, 3000))
        text = text.replace(rng.choice(('"one"', "1", "null", "[")), deep, 1)
    parts[at] = text.encode()
    return PARTS.join(parts)


def _change(rng: random.Random, values: list[Any]) -> None:
    """Put something else in one place of nested lists and objects."""
    places: list[tuple[Any, Any]] = []
    inside: list[Any] = [values]
    while inside:
        parent = inside.pop()
        keys = list(parent) if isinstance(parent, dict) else range(len(parent))
        places += [(parent, key) for key in keys]
        inside += [parent[key] for key in keys if isinstance(parent[key], dict | list)]
    if not places:
        return
    parent, key = rng.choice(places)
    other, place = rng.choice(places)
    match rng.randrange(5):
        case 0 | 1:
            parent[key] = deepcopy(rng.choice(STRANGE))
        case 2:
            parent[key] = deepcopy(other[place])
        case 3:
            del parent[key]
        case 4 if isinstance(parent, dict):
            parent[rng.choice((str(place), f"{key}x", "\n", "kind"))] = deepcopy(other[place])
        case _:
            parent[key] = [parent[key]] * rng.choice((1, 2, 50))


class Trial:
    """Tries inputs, and writes what came of them to a folder.

    Args:
        reader: One of `READERS`.
        folder: Where counts and findings are kept.
    """

    def __init__(self, reader: str, folder: Path) -> None:
        self._read = READERS[reader]
        self._folder = folder
        self._counts: Counter[str] = Counter()
        self._found: set[str] = set()

    def __call__(self, content: bytes) -> None:
        """Try one input."""
        outcome = tried(self._read, content)
        kind = outcome.split(":")[0]
        self._counts[kind] += 1
        if kind == "WRONG" and outcome not in self._found:
            self._found.add(outcome)
            row = {"problem": outcome, "input": base64.b64encode(content).decode()}
            with (self._folder / "findings.jsonl").open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")
        if sum(self._counts.values()) % 500 == 0:
            (self._folder / "counts.json").write_text(json.dumps(self._counts), encoding="utf-8")


def tried(read: Callable[[bytes], None], content: bytes) -> str:
    """`read`, `refused`, or what is wrong in capitals with the place in the code."""
    from valor.errors import ValorError

    try:
        read(content)
    except ValorError as error:
        lines = str(error).splitlines()
        return "refused" if len(lines) == 1 and lines[0].isprintable() else "WRONG: several lines"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"WRONG: {type(error).__name__} in {Path(place.filename).name}:{place.lineno}"
    return "read"


def fuzz(reader: str, folder: Path, seconds: int, seed: int) -> None:
    """Fuzz one reader in this process, which ends with it."""
    atheris: Any = importlib.import_module("atheris")  # which has no types
    with atheris.instrument_imports(include=["valor"]):
        inputs = seeds(reader)
    corpus = folder / "corpus"
    for number, content in enumerate(inputs):
        (corpus / str(number)).write_bytes(content)

    def change(content: bytes, size: int, number: int) -> bytes:
        rng = random.Random(number)
        changed = mutated(rng, content) if rng.random() < 0.5 else None
        return (atheris.Mutate(content, size) if changed is None else changed)[:size]

    options = [
        *(f"-max_total_time={seconds}", f"-timeout={HANG_S}", f"-rss_limit_mb={MAX_MIB}"),
        *(f"-seed={seed + 1}", f"-artifact_prefix={folder}/", "-max_len=100000"),
        *(f"-report_slow_units={HANG_S}", str(corpus)),
    ]
    atheris.Setup([sys.argv[0], *options], Trial(reader, folder), custom_mutator=change)
    atheris.Fuzz()


def run(reader: str, folder: Path, seconds: int, seed: int) -> tuple[dict[str, float], list[str]]:
    """Fuzz one reader in a process of its own; its figures, and what went wrong."""
    folder = folder / reader
    (folder / "corpus").mkdir(parents=True)
    log = folder / "log.txt"
    command = [sys.executable, __file__, "--seed", str(seed), "--seconds", str(seconds)]
    with log.open("wb") as output:
        done = subprocess.run(
            [*command, "--reader", reader, "--folder", str(folder)],
            stdout=output,
            stderr=output,
            check=False,
            timeout=seconds + 600,
        )
    text = log.read_text("utf-8", errors="replace")
    edges = [int(number) for number in re.findall(r" cov: (\d+) ", text)]
    counts, findings = folder / "counts.json", folder / "findings.jsonl"
    outcomes = json.loads(counts.read_text("utf-8")) if counts.is_file() else {}
    rows = findings.read_text("utf-8").splitlines() if findings.is_file() else []
    wrong = [f"{reader}: {row}" for row in rows]
    wrong += [
        f"{reader}: WRONG: {path.name}: {base64.b64encode(path.read_bytes()).decode()}"
        for path in sorted(folder.iterdir())
        if path.name.startswith(("crash-", "timeout-", "oom-"))
    ]
    if not edges or (done.returncode and not wrong):
        wrong.append(f"{reader}: WRONG: ended with {done.returncode}: {text[-2000:]}")
    executed = re.findall(r"Done (\d+) runs", text) or re.findall(r"^#(\d+)", text, re.MULTILINE)
    figures: dict[str, float] = {
        "executions": int(executed[-1]) if executed else 0,
        "edges_at_start": edges[0] if edges else 0,
        "edges": max(edges, default=0),
        "inputs_kept": len(list((folder / "corpus").iterdir())),
        "read": outcomes.get("read", 0),
        "refused": outcomes.get("refused", 0),
        "wrong": len(wrong),
    }
    return figures, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="for all readers together")
    parser.add_argument("--workers", type=int, default=1, help="readers at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="12 seconds for each reader")
    parser.add_argument("--reader", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.reader:
        fuzz(arguments.reader, arguments.folder, arguments.seconds, arguments.seed)
        return
    rounds = math.ceil(len(READERS) / arguments.workers)
    seconds = 12 if arguments.quick else math.ceil(60 * arguments.minutes / rounds)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(arguments.workers) as pool:
        parts = pool.map(lambda name: run(name, Path(place), seconds, arguments.seed), READERS)
        results = dict(zip(READERS, parts, strict=True))
    wrong = [line for _, lines in results.values() for line in lines]
    figures: dict[str, float] = {
        "wrong": len(wrong),
        "executions": sum(part["executions"] for part, _ in results.values()),
        "seconds_per_reader": seconds,
        "took_s": round(time.monotonic() - begin, 1),
        "seed": arguments.seed,
        **{f"{name}_{key}": n for name, (part, _) in results.items() for key, n in part.items()},
    }
    finish(figures, arguments.json)
    for line in wrong:
        print(line, file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
