"""What annotators have made: how far they agree, how much their captions speak of sound, exports.

Entry points: `report`, `export_manifest` and `export_valor`. All speak of accepted captions.
"""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from valor.data.building.annotations import Action, AnnotationStore, Event, Slot, State
from valor.data.manifest import Record, TaggedText, write_manifest
from valor.data.sources.shared import split_of
from valor.data.stats import concept_words, num_concepts, words
from valor.errors import AnnotationError
from valor.metrics.captioning import rouge_l
from valor.metrics.ptb import tokenize


@dataclass(slots=True, kw_only=True)
class Report:
    """Numbers about a store; a mean over nothing is None."""

    num_items: int
    captions: dict[str, int]
    """Captions by state; `taken` are those that someone works on now."""
    words_per_caption: float | None
    num_checked: int
    """Captions that were accepted or returned at least once."""
    first_check_accepted_fraction: float | None
    """Agreement of checker and writer: of the checked captions, the share whose first check
    accepted what the writer had first written."""
    num_double: int
    """Pairs of captions of the same item by different people."""
    double_rouge_l: float | None
    """Agreement of writers: ROUGE-L between what two people first wrote about the same item,
    before either saw the other's caption; the mean of both directions. It compares words and their
    order, not meaning."""
    audio_concepts_per_word: float | None = None
    """Audio concept density (VALOR 3.2); None without a list of concepts."""
    audio_concepts_per_caption: float | None = None
    with_audio_concept_fraction: float | None = None
    """Share of the captions that name at least one audio concept."""
    annotators: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    """Actions of each, by kind."""


def report(store: AnnotationStore, concepts: Iterable[str] | None = None) -> Report:
    """Count and compare what was done.

    Args:
        store: With any number of accepted captions.
        concepts: Words or phrases for what can be heard; only these forms of them are found.

    Returns:
        The numbers.
    """
    slots, history = store.slots(), store.history()
    said = [words(slot.text) for slot in slots if slot.state == State.ACCEPTED]
    num_words = sum(map(len, said))
    checks = _first(history, Action.ACCEPT, Action.RETURN)
    pairs = _pairs(slots, _first(history, Action.WRITE))
    numbers = Report(
        num_items=len({slot.item for slot in slots}),
        captions=store.counts(),
        words_per_caption=_mean(num_words, len(said)),
        num_checked=len(checks),
        first_check_accepted_fraction=_mean(
            sum(event.action == Action.ACCEPT for event in checks.values()), len(checks)
        ),
        num_double=len(pairs),
        double_rouge_l=_mean(sum(_overlap(a, b) for a, b in pairs), len(pairs)),
        annotators=_actions(history),
    )
    if concepts is not None:
        known = concept_words(concepts)
        counts = [num_concepts(text, known) for text in said]
        numbers.audio_concepts_per_word = _mean(sum(counts), num_words)
        numbers.audio_concepts_per_caption = _mean(sum(counts), len(said))
        numbers.with_audio_concept_fraction = _mean(sum(n > 0 for n in counts), len(said))
    return numbers


def _mean(total: float, num: int) -> float | None:
    return total / num if num else None


def _first(history: Sequence[Event], *actions: Action) -> dict[int, Event]:
    """The first of these actions on each caption."""
    found: dict[int, Event] = {}
    for event in history:
        if event.action in actions:
            found.setdefault(event.slot, event)
    return found


def _pairs(slots: Sequence[Slot], written: dict[int, Event]) -> list[tuple[str, str]]:
    texts: defaultdict[int, list[str]] = defaultdict(list)
    for slot in slots:
        if slot.number in written:
            texts[slot.item].append(written[slot.number].text)
    return [pair for of_item in texts.values() for pair in itertools.combinations(of_item, 2)]


def _overlap(one: str, other: str) -> float:
    a, b = tokenize(one), tokenize(other)
    return float(rouge_l([a, b], [[b], [a]]).mean())


def _actions(history: Sequence[Event]) -> dict[str, dict[str, int]]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for event in history:
        if event.action != Action.TAKE:
            counts[event.annotator][event.action.value] += 1
    return {name: dict(sorted(counts[name].items())) for name in sorted(counts)}


def accepted_records(store: AnnotationStore) -> list[Record]:
    """The items that have accepted captions, with these in place of the drafts."""
    texts: defaultdict[int, list[str]] = defaultdict(list)
    for slot in store.slots():
        if slot.state == State.ACCEPTED:
            texts[slot.item].append(slot.text)
    return [
        replace(record, captions=tuple(TaggedText(text=text) for text in texts[item]))
        for item, record in store.records().items()
        if item in texts
    ]


def export_manifest(store: AnnotationStore, out: Path) -> list[Path]:
    """Write the accepted captions as a manifest.

    Args:
        store: What annotators have made.
        out: A JSONL file.

    Returns:
        The file, which `read_manifest` reads.

    Raises:
        AnnotationError: If nothing is accepted.
    """
    write_manifest(out, _some(store))
    return [out]


def export_valor(store: AnnotationStore, out: Path) -> list[Path]:
    """Write the accepted captions as VALOR-32K's json: lists of `{"video_id", "desc"}`.

    This layout knows no paths and no times: its readers find the media by name, so ids are to be
    the names of files. The split is in the file's name; `desc` is a list where there are several.

    Args:
        store: What annotators have made.
        out: A JSON file. If its name does not say the only split that there is, the split is put
            at its end: `desc.json` becomes `desc_train.json`.

    Returns:
        A file per split; each is written as a whole or not at all.

    Raises:
        AnnotationError: If nothing is accepted, or a file's name would say another split.
    """
    rows: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in _some(store):
        texts = [caption.text for caption in record.captions]
        desc = texts if len(texts) > 1 else texts[0]
        rows[record.split].append({"video_id": record.id, "desc": desc})
    files = {split: out.with_name(f"{out.stem}_{split}.json") for split in rows}
    if list(rows) == [split_of(out.stem, default="")]:
        files = dict.fromkeys(rows, out)
    for split, file in files.items():
        if split_of(file.stem, default="") != split:
            raise AnnotationError(
                f"{file.name} would not be read as split {split!r}; use another name, or .jsonl"
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    for split, file in files.items():
        partial = file.with_name(f"{file.name}.partial")
        partial.write_text(json.dumps(rows[split], indent=1), encoding="utf-8")
        partial.replace(file)
    return list(files.values())


def _some(store: AnnotationStore) -> list[Record]:
    if not (records := accepted_records(store)):
        raise AnnotationError(
            f"{store.path}: no caption is accepted yet; check some on the page first"
        )
    return records
