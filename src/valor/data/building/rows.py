"""Do a step of building a set, row by row: resumable, through any executor, with nothing lost.

Beside a manifest `NAME.jsonl` stand `NAME.rows.jsonl`, what became of every input row, and
`NAME.config.json`, what made them. The rows grow with every finished task, and are put in the order
of the input at the end (`write_rows`); so a run that was killed goes on to the same bytes, and one
whose input has grown does only what is new. Entry point: `do_rows`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from valor.config import from_dict, to_json
from valor.data.executors import Executor
from valor.data.manifest import Record, record_values
from valor.data.storage import locked, write_whole
from valor.errors import ConfigError

Row = dict[str, Any]
"""What became of a record: `status` is `ok`, or why nothing did; JSON values only."""

KEPT = "kept"
_DEATHS = 2
"""A record with which this many workers died by itself is `crashed`."""


@dataclass(frozen=True, slots=True)
class Task:
    """Records that are done in one go."""

    records: tuple[Record, ...]


Stage = Callable[[Task], list[Row]]
"""A row for each record of a task; can be pickled, and has no effect but its result."""


def rows_file(out: Path) -> Path:
    """Where the rows of a manifest are."""
    return out.with_suffix(".rows.jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Where and how a step is done."""

    out: Path
    """The manifest that is made; its folder is made if needed."""
    executor: Executor
    retry: bool = False
    """Do records again whose status is not `ok`."""
    progress: Callable[[int, int], None] = lambda done, total: None
    """Told how many of how many records are done."""


def do_rows(
    stage: Stage, records: Sequence[Record], config: Any, work: Work, *, rows_per_task: int = 1
) -> list[Row]:
    """Do what is not done yet.

    Args:
        stage: Does it.
        records: The input.
        config: What the rows depend on beside the records.
        work: Where and how.
        rows_per_task: Records that are done in one go.

    Returns:
        A row per record, in their order, with a `key` and the record's `id` and `media`.

    Raises:
        ConfigError: If the rows that are there were made by another configuration.
        ValorError: If another process writes them.
    """
    out = work.out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    path = rows_file(out)
    _claim(out.with_suffix(".config.json"), config, is_begun=path.is_file())
    keys = [_key(record, out.parent) for record in records]
    with locked(path) as file:
        text = file.read()
        whole = text[: text.rfind(b"\n") + 1]  # A kill may have cut the last line short.
        file.truncate(len(whole))
        file.seek(len(whole))
        done = {row["key"]: row for row in map(json.loads, whole.splitlines())}
        if work.retry:
            done = {key: row for key, row in done.items() if row["status"] == "ok"}
        # A task always holds the same records: models round differently in other company.
        starts = range(0, len(records), rows_per_task)
        tasks = [Task(tuple(records[start : start + rows_per_task])) for start in starts]
        names = dict(zip(records, keys, strict=True))
        tasks = [task for task in tasks if any(names[r] not in done for r in task.records)]
        num_done = len(records) - sum(len(task.records) for task in tasks)
        for task, rows in _results(stage, tasks, work.executor):
            for record, row in zip(task.records, rows, strict=True):
                media = record_values(record, out.parent)["media"]
                whole_row = {"key": names[record], "id": record.id, "media": media, **row}
                done[names[record]] = whole_row
                file.write(_line(whole_row))
            file.flush()
            num_done += len(rows)
            work.progress(num_done, len(records))
    return [done[key] for key in keys]


def _claim(path: Path, config: Any, *, is_begun: bool) -> None:
    """Write what makes the rows, or check that it is the same."""
    if not (is_begun and path.is_file()):
        write_whole(path, to_json(config))
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    if from_dict(type(config), found, where=str(path)) != config:
        raise ConfigError(f"{path}: made by another configuration; choose another --out")


def _key(record: Record, folder: Path) -> str:
    """Names a record with all that it says."""
    values = json.dumps(record_values(record, folder), sort_keys=True)
    return hashlib.sha256(values.encode()).hexdigest()[:16]


def _line(row: Row) -> bytes:
    return (json.dumps(row, ensure_ascii=False) + "\n").encode()


def write_rows(out: Path, rows: Sequence[Row]) -> None:
    """Write what became of every input row of a manifest, in the order of the input."""
    write_whole(rows_file(out), b"".join(map(_line, rows)).decode())


def _results(
    stage: Stage, tasks: Sequence[Task], executor: Executor
) -> Iterator[tuple[Task, list[Row]]]:
    """The rows of every record; with those of a worker that died, others go on one by one."""
    deaths: Counter[str] = Counter()
    while tasks:
        dead: list[Record] = []
        for task, rows in executor.run(stage, tasks):
            if rows is not None:
                yield task, rows
                continue
            if len(task.records) == 1:
                deaths[task.records[0].id] += 1
            if deaths[task.records[0].id] < _DEATHS:
                dead += task.records
            else:
                yield task, [failed("crashed", "the process that works on it dies")]
        tasks = [Task((record,)) for record in dead]


def failed(reason: str, detail: str) -> Row:
    """The row of a record of which nothing became."""
    return {"status": reason, "detail": detail}
