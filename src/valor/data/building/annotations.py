"""What annotators do to captions, in an SQLite file that several people fill at a time.

A caption is written by one person and checked by another, who accepts it or returns it with a
reason; a returned caption waits for its writer. Whoever works on a caption holds it for a while,
and nobody else gets it meanwhile. Every action is a row of `history`, which is only added to; the
table `slots` is where it led, and both change in one transaction: a process that dies loses nothing
that was done. Entry point: `AnnotationStore`.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from valor.data.manifest import (
    Record,
    make_record,
    manifest_file,
    manifest_lines,
    read_manifest,
    record_values,
)
from valor.data.rows import Row, parse_json
from valor.data.storage import is_remote
from valor.errors import AnnotationError, ManifestError

LEASE_S = 1800.0
"""How long a caption stays with someone who does not finish it."""
RETURNED_LEASE_S = 86400.0
"""How long a returned caption waits for its writer before others may correct it."""

_APPLICATION = 0x76616C72
"""Marks our files among SQLite's."""

# The columns of `slots` and `history` are the fields of Slot and Event, in their order.
_SCHEMA = """
CREATE TABLE items (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, record TEXT NOT NULL, hints TEXT NOT NULL
);
CREATE TABLE slots (
    number INTEGER PRIMARY KEY, item INTEGER NOT NULL REFERENCES items, state TEXT NOT NULL,
    text TEXT NOT NULL, writer TEXT, checker TEXT, reason TEXT NOT NULL, holder TEXT,
    expires_s REAL NOT NULL
);
CREATE INDEX slots_by_item ON slots (item);
CREATE INDEX slots_by_state ON slots (state, number);
CREATE INDEX slots_by_holder ON slots (holder) WHERE holder IS NOT NULL;
CREATE TABLE history (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at_s REAL NOT NULL, annotator TEXT NOT NULL,
    action TEXT NOT NULL, slot INTEGER NOT NULL REFERENCES slots, text TEXT NOT NULL,
    expires_s REAL NOT NULL
);
CREATE INDEX history_by_slot ON history (slot, annotator);
CREATE TRIGGER history_stays BEFORE UPDATE ON history
    BEGIN SELECT RAISE(ABORT, 'history is only added to'); END;
CREATE TRIGGER history_remains BEFORE DELETE ON history
    BEGIN SELECT RAISE(ABORT, 'history is only added to'); END;
"""

# What someone has already comes first; what is about to be given to others first of all.
_MINE = {
    "write": """SELECT * FROM slots WHERE holder = :me AND state IN ('open', 'returned')
        ORDER BY expires_s LIMIT 1""",
    "check": """SELECT * FROM slots WHERE holder = :me AND state = 'written'
        ORDER BY expires_s LIMIT 1""",
}
# Whoever checked a caption does not write it: someone must be left to check it again. Nobody writes
# two captions of an item, or sees one before the others are written: they are to be independent.
_FREE = {
    "write": """SELECT * FROM slots AS s WHERE state IN ('open', 'returned')
        AND (holder IS NULL OR expires_s <= :now)
        AND NOT EXISTS (SELECT 1 FROM history AS h WHERE h.slot = s.number
            AND h.annotator = :me AND h.action IN ('skip', 'accept', 'return'))
        AND NOT EXISTS (SELECT 1 FROM slots AS o WHERE o.item = s.item AND o.number != s.number
            AND (o.holder = :me OR EXISTS (SELECT 1 FROM history AS h WHERE h.slot = o.number
                AND h.annotator = :me AND h.action = 'write')))
        ORDER BY number LIMIT 1""",
    "check": """SELECT * FROM slots AS s WHERE state = 'written'
        AND (holder IS NULL OR expires_s <= :now)
        AND NOT EXISTS (SELECT 1 FROM history AS h WHERE h.slot = s.number
            AND h.annotator = :me AND h.action IN ('skip', 'write'))
        AND NOT EXISTS (SELECT 1 FROM slots AS o WHERE o.item = s.item AND o.state = 'open')
        ORDER BY number LIMIT 1""",
}

Role = Literal["write", "check"]


class State(StrEnum):
    """How far a caption is."""

    OPEN = "open"
    WRITTEN = "written"
    RETURNED = "returned"
    ACCEPTED = "accepted"


class Action(StrEnum):
    """What an annotator does; `TAKE` by the holder prolongs the hold."""

    TAKE = "take"
    SKIP = "skip"
    WRITE = "write"
    ACCEPT = "accept"
    RETURN = "return"


_ALLOWED = {
    Action.WRITE: (State.OPEN, State.RETURNED),
    Action.ACCEPT: (State.WRITTEN,),
    Action.RETURN: (State.WRITTEN,),
}
"""States of the captions that an action is for; all states for the other actions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One caption to be written about one item."""

    number: int
    item: int
    state: State = State.OPEN
    text: str = ""
    writer: str | None = None
    """Who wrote the text as it stands."""
    checker: str | None = None
    """Who accepted or returned it last."""
    reason: str = ""
    """Why it was returned last; stays until it is accepted."""
    holder: str | None = None
    """Who works on it, or was last to, if the time is over."""
    expires_s: float = 0.0
    """Until when the holder alone has it, in seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A row of the history."""

    number: int
    at_s: float
    """Seconds since 1970."""
    annotator: str
    action: Action
    slot: int
    text: str = ""
    """The caption of a WRITE, the reason of a RETURN or a SKIP."""
    expires_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A caption with all that its annotator needs to see."""

    slot: Slot
    record: Record
    hints: tuple[str, ...]


def advance(slot: Slot, event: Event) -> Slot:
    """Where an action leads; nothing else changes a slot."""
    free = replace(slot, holder=None, expires_s=0.0)
    match event.action:
        case Action.TAKE:
            return replace(slot, holder=event.annotator, expires_s=event.expires_s)
        case Action.SKIP:
            return free
        case Action.WRITE:
            return replace(free, state=State.WRITTEN, text=event.text, writer=event.annotator)
        case Action.ACCEPT:
            return replace(free, state=State.ACCEPTED, checker=event.annotator, reason="")
        case Action.RETURN:
            return replace(
                slot,
                state=State.RETURNED,
                checker=event.annotator,
                reason=event.text,
                holder=slot.writer,
                expires_s=event.expires_s,
            )


class AnnotationStore:
    """The SQLite file; may be used by several threads, and opened by several processes.

    Names of annotators are compared without regard to case and spaces.

    Args:
        path: The file; made if it is not there.
        lease_s: How long a caption stays with someone who does not finish it.
        clock: Seconds since 1970.

    Raises:
        AnnotationError: If the file is something else, or cannot be opened.
    """

    def __init__(
        self, path: Path, *, lease_s: float = LEASE_S, clock: Callable[[], float] = time.time
    ) -> None:
        self.path, self.lease_s, self._clock = path, lease_s, clock
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise AnnotationError(
                f"{path}: cannot be opened ({error}); give another --store"
            ) from None
        try:
            self._prepare()
        except sqlite3.Error as error:
            self.close()
            raise AnnotationError(
                f"{path}: no annotation store ({error}); give another --store"
            ) from None

    def _prepare(self) -> None:
        """Make the tables unless they are there."""
        self._database.execute("PRAGMA busy_timeout = 10000")
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        with self._transaction() as database:
            (application,) = database.execute("PRAGMA application_id").fetchone()
            (num_tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if not num_tables:
                for statement in _statements(_SCHEMA):
                    database.execute(statement)
                database.execute(f"PRAGMA application_id = {_APPLICATION}")
            elif application != _APPLICATION:
                raise sqlite3.DatabaseError("another program's database")

    def close(self) -> None:
        """Close the file, once no other thread is reading from it."""
        with self._lock:
            self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All that happens inside is done at its end, or not at all; nobody else writes meanwhile.

        Yields:
            The connection.
        """
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                self._database.execute("ROLLBACK")
                raise

    def _all(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._database.execute(query, values).fetchall()

    def add(self, manifest: str | Path, *, captions_per_item: int = 1) -> int:
        """Take in the records of a manifest; those that are there keep what was done.

        Args:
            manifest: A JSONL file, or the folder that holds `manifest.jsonl`. Captions are the
                drafts that annotators see, and texts in `extra.hints` the hints.
            captions_per_item: How many people write a caption of the same item.

        Returns:
            How many records are new.

        Raises:
            ManifestError: If a line is wrong, its media are not on this machine, or an item that is
                known has another stretch.
            AnnotationError: If there are items with more captions already.
        """
        file = manifest_file(manifest)
        new = 0
        with self._transaction() as database:
            for (number, line), record in zip(
                manifest_lines(file), read_manifest(file), strict=True
            ):
                where = f"{file}:{number}"
                if is_remote(record.media):
                    raise ManifestError(f"{where}: media: {record.media}, expected a local file")
                extra = Row(parse_json(line, where).get("extra") or {}, where, "extra.")
                new += _add_item(database, record, extra.texts("hints"), where)
            self._add_slots(database, captions_per_item)
        return new

    def _add_slots(self, database: sqlite3.Connection, captions_per_item: int) -> None:
        counts = database.execute(
            "SELECT i.number, count(s.number) FROM items AS i LEFT JOIN slots AS s"
            " ON s.item = i.number GROUP BY i.number ORDER BY i.number"
        ).fetchall()
        most = max((num for _, num in counts), default=0)
        if most > captions_per_item:
            raise AnnotationError(
                f"{self.path}: holds {most} captions per item, asked for {captions_per_item};"
                " give as many or more"
            )
        database.executemany(
            "INSERT INTO slots (item, state, text, reason, expires_s)"
            " VALUES (?, 'open', '', '', 0)",
            [(item,) for item, num in counts for _ in range(captions_per_item - num)],
        )

    def take(self, annotator: str, role: Role) -> Task | None:
        """Give an annotator something to do, which nobody else gets meanwhile.

        What they hold already comes first: a caption that was returned to them, or one that they
        had before their page was loaded again.

        Args:
            annotator: Their name.
            role: Write, or check what others wrote.

        Returns:
            The task, or None if there is nothing now.
        """
        me, now = person(annotator), self._clock()
        with self._transaction() as database:
            values = {"me": me, "now": now}
            found = (
                database.execute(_MINE[role], values).fetchone()
                or database.execute(_FREE[role], values).fetchone()
            )
            if found is None:
                return None
            slot = self._do(database, me, Action.TAKE, _read_slot(found))
            record, hints = database.execute(
                "SELECT record, hints FROM items WHERE number = ?", (slot.item,)
            ).fetchone()
        return Task(slot=slot, record=_read_record(record), hints=tuple(json.loads(hints)))

    def act(self, annotator: str, action: Action, slot: int, text: str = "") -> Slot:
        """Do something to a caption that one holds.

        Args:
            annotator: Who has it, from `take`.
            action: `TAKE` prolongs the hold, `SKIP` gives the caption to others for good.
            slot: Its number.
            text: The caption of a `WRITE`, the reason of a `RETURN` or a `SKIP`; else nothing.

        Returns:
            How the caption stands now.

        Raises:
            AnnotationError: If someone else has it by now, it is not in a state for this, or the
                text is blank.
        """
        me, text = person(annotator), " ".join(text.split())
        if action in (Action.WRITE, Action.RETURN, Action.SKIP) and not text:
            raise AnnotationError("the text is empty; say something")
        with self._transaction() as database:
            held = _slot(database, slot)
            if held is None or held.holder != me:
                raise AnnotationError(
                    f"caption {slot} is not with {me} any more: someone else may have it"
                )
            if held.state not in _ALLOWED.get(action, State):
                raise AnnotationError(f"caption {slot} is {held.state}, this cannot be done to it")
            return self._do(database, me, action, held, text)

    def _do(
        self, database: sqlite3.Connection, me: str, action: Action, before: Slot, text: str = ""
    ) -> Slot:
        """Append to the history, and change the slot as it says."""
        now = self._clock()
        lease_s = {Action.TAKE: self.lease_s, Action.RETURN: RETURNED_LEASE_S}.get(action)
        expires_s = 0.0 if lease_s is None else now + lease_s
        values = (now, me, action, before.number, text, expires_s)
        row = database.execute(
            "INSERT INTO history (at_s, annotator, action, slot, text, expires_s)"
            " VALUES (?, ?, ?, ?, ?, ?) RETURNING *",
            values,
        ).fetchone()
        after = advance(before, _read_event(row))
        database.execute("REPLACE INTO slots VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", astuple(after))
        return after

    def record(self, item: int) -> Record | None:
        """The record of an item, or None if there is no such item."""
        rows = self._all("SELECT record FROM items WHERE number = :item", item=item)
        return _read_record(rows[0][0]) if rows else None

    def records(self) -> dict[int, Record]:
        """The records of all items by number, in the order of the manifest."""
        rows = self._all("SELECT number, record FROM items ORDER BY number")
        return {number: _read_record(text) for number, text in rows}

    def slots(self) -> list[Slot]:
        """All captions as they stand."""
        return list(map(_read_slot, self._all("SELECT * FROM slots ORDER BY number")))

    def history(self) -> list[Event]:
        """All that was done, in order."""
        rows = self._all("SELECT * FROM history ORDER BY number")
        return list(map(_read_event, rows))

    def counts(self) -> dict[str, int]:
        """How many captions are in each state, and `taken`: those that someone works on now."""
        rows = self._all("SELECT state, count(*) FROM slots GROUP BY state")
        taken = self._all(
            "SELECT count(*) FROM slots WHERE holder IS NOT NULL AND expires_s > :now"
            " AND state != 'returned'",
            now=self._clock(),
        )
        found = dict(rows)
        return {**{state.value: found.get(state, 0) for state in State}, "taken": taken[0][0]}

    def num_returned_to(self, annotator: str) -> int:
        """How many captions wait for their writer to correct them."""
        query = "SELECT count(*) FROM slots WHERE state = 'returned' AND holder = :me"
        return self._all(query, me=person(annotator))[0][0]


def replay(slots: list[Slot], history: list[Event]) -> list[Slot]:
    """Let the history happen again.

    Args:
        slots: Of these only number and item are used.
        history: What was done to them.

    Returns:
        Where it leads; equal to the slots of the store.
    """
    states = {slot.number: Slot(number=slot.number, item=slot.item) for slot in slots}
    for event in history:
        states[event.slot] = advance(states[event.slot], event)
    return list(states.values())


def person(name: str) -> str:
    """A name as it is compared, so that nobody is two; a blank one is an `AnnotationError`."""
    if not (known := " ".join(name.split()).casefold()):
        raise AnnotationError("an annotator needs a name; give yours")
    return known


def _statements(script: str) -> Iterator[str]:
    """Split a script: `executescript` would end the transaction."""
    statement = ""
    for line in script.splitlines():
        statement += f"{line}\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _add_item(database: sqlite3.Connection, record: Record, hints: list[str], where: str) -> bool:
    """Add an item, or bring a known one up to date; True if it is new."""
    row = database.execute("SELECT record FROM items WHERE id = ?", (record.id,)).fetchone()
    known = _read_record(row[0]) if row else None
    if known and (known.start_s, known.end_s) != (record.start_s, record.end_s):
        raise ManifestError(f"{where}: {record.id!r} has another stretch than before; rename it")
    database.execute(
        "INSERT INTO items (id, record, hints) VALUES (?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET record = excluded.record, hints = excluded.hints",
        (record.id, json.dumps(record_values(record, Path("/"))), json.dumps(hints)),
    )
    return known is None


def _slot(database: sqlite3.Connection, number: int) -> Slot | None:
    query = "SELECT * FROM slots WHERE number = ?"
    row = database.execute(query, (number,)).fetchone()
    return _read_slot(row) if row else None


def _read_slot(row: tuple[Any, ...]) -> Slot:
    slot = Slot(**dict(zip(Slot.__slots__, row, strict=True)))
    return replace(slot, state=State(slot.state))


def _read_event(row: tuple[Any, ...]) -> Event:
    event = Event(**dict(zip(Event.__slots__, row, strict=True)))
    return replace(event, action=Action(event.action))


def _read_record(text: str) -> Record:
    return make_record(Row(json.loads(text), "store"), folder=Path("/"))
