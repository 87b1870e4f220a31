"""Laws of annotating: who may do what, and that nothing is lost."""

import itertools
import json
import sqlite3
import threading

import pytest

from valor.data.building.agreement import export_manifest, export_valor, report
from valor.data.building.annotations import (
    LEASE_S,
    RETURNED_LEASE_S,
    Action,
    AnnotationStore,
    State,
    replay,
)
from valor.data.manifest import read_manifest
from valor.data.sources.formats import import_records
from valor.data.stats import audio_concept_density
from valor.errors import AnnotationError, ManifestError


class Clock:
    """A time that stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def manifest(tmp_path):
    """Three items with a draft each; the second is a stretch of a longer file, in split val."""
    rows = [
        {
            "id": name,
            "media": f"media/{name}.mp4",
            "captions": [f"draft of {name}", {"text": "hum", "about": "audio"}],
            "extra": {"hints": ["Bell", "Speech"]},
        }
        for name in "abc"
    ]
    rows[1] |= {"start_s": 2.0, "end_s": 12.0, "split": "val"}
    return write_rows(tmp_path / "manifest.jsonl", rows)


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def store(tmp_path, manifest, clock):
    store = AnnotationStore(tmp_path / "store.sqlite", clock=clock)
    store.add(manifest)
    yield store
    store.close()


def write_next(store, annotator, text):
    task = store.take(annotator, "write")
    store.act(annotator, Action.WRITE, task.slot.number, text)
    return task.slot.number


def check_next(store, annotator, reason=""):
    number = store.take(annotator, "check").slot.number
    if reason:
        store.act(annotator, Action.RETURN, number, reason)
    else:
        store.act(annotator, Action.ACCEPT, number)
    return number


def test_a_task_shows_the_draft_and_the_hints(store, tmp_path):
    task = store.take("ann", "write")
    assert task.record.id == "a"
    assert task.record.media == str(tmp_path / "media/a.mp4")
    assert [c.text for c in task.record.captions] == ["draft of a", "hum"]
    assert task.hints == ("Bell", "Speech")


def test_two_annotators_never_hold_the_same_caption(store):
    held = [store.take(name, "write") for name in ("ann", "ben", "cleo", "dora")]
    assert [task and task.record.id for task in held] == ["a", "b", "c", None]
    again = store.take("Ann ", "write")
    assert again.slot.number == held[0].slot.number


def test_threads_and_processes_that_take_at_once_get_different_captions(tmp_path, clock):
    names = [f"person {number}" for number in range(8)]
    rows = [{"id": str(number), "media": "x.mp4"} for number in range(8)]
    manifest = write_rows(tmp_path / "many.jsonl", rows)
    stores = [AnnotationStore(tmp_path / "many.sqlite", clock=clock) for _ in range(2)]
    stores[0].add(manifest)
    taken = []

    def work(name, store):
        taken.append(store.take(name, "write").slot.number)

    threads = [
        threading.Thread(target=work, args=pair)
        for pair in zip(names, itertools.cycle(stores), strict=False)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(taken)) == 8
    for store in stores:
        store.close()


def test_a_caption_that_is_left_lying_goes_to_someone_else(store, clock):
    number = store.take("ann", "write").slot.number
    clock.now += LEASE_S - 1
    assert store.act("ann", Action.TAKE, number).expires_s == clock.now + LEASE_S
    clock.now += LEASE_S - 1
    assert store.take("ben", "write").slot.number != number
    clock.now += 1
    assert store.take("cleo", "write").slot.number == number
    with pytest.raises(AnnotationError, match="is not with ann any more"):
        store.act("ann", Action.WRITE, number, "too late")
    store.act("cleo", Action.WRITE, number, "in time")


def test_nobody_loses_work_only_because_the_time_is_over(store, clock):
    number = store.take("ann", "write").slot.number
    clock.now += 10 * LEASE_S
    store.act("ann", Action.WRITE, number, "late, but nobody else had it")
    assert store.counts()["written"] == 1


def test_a_writer_never_checks_the_own_caption(store):
    write_next(store, "Ann", "a bell rings")
    assert store.take("ann", "check") is None
    assert store.take(" ANN", "check") is None
    assert store.take("ben", "check").slot.writer == "ann"


def test_a_returned_caption_waits_for_its_writer_and_then_goes_to_a_third(store, clock):
    number = write_next(store, "ann", "a bell")
    assert check_next(store, "ben", "what does one see?") == number
    assert store.num_returned_to("ann") == 1
    assert store.take("cleo", "write").slot.number != number
    task = store.take("ann", "write")
    assert (task.slot.number, task.slot.reason) == (number, "what does one see?")
    store.act("ann", Action.WRITE, number, "a man rings a bell")
    check_next(store, "ben", "a woman")
    clock.now += RETURNED_LEASE_S
    assert store.take("ben", "write").slot.number != number
    assert store.take("cleo", "write").slot.number == number
    store.act("cleo", Action.WRITE, number, "a woman rings a bell")
    for writer in ("ann", "cleo"):
        assert store.take(writer, "check") is None
    assert check_next(store, "ben") == number
    assert store.counts() == {"open": 2, "written": 0, "returned": 0, "accepted": 1, "taken": 1}


def test_a_skipped_caption_goes_to_others_but_not_back(store):
    number = store.take("ann", "write").slot.number
    store.act("ann", Action.SKIP, number, "does not play")
    assert store.take("ann", "write").slot.number != number
    assert store.take("ben", "write").slot.number == number


@pytest.mark.parametrize("action", Action)
def test_only_the_holder_acts(store, action):
    number = store.take("ann", "write").slot.number
    before = store.history()
    with pytest.raises(AnnotationError, match="not with ben"):
        store.act("ben", action, number, "text")
    with pytest.raises(AnnotationError, match="not with ann"):
        store.act("ann", action, 77, "text")
    assert store.history() == before


def test_what_makes_no_sense_is_refused_and_changes_nothing(store):
    number = store.take("ann", "write").slot.number
    before = store.history()
    with pytest.raises(AnnotationError, match="is open, this cannot be done"):
        store.act("ann", Action.ACCEPT, number)
    with pytest.raises(AnnotationError, match="empty"):
        store.act("ann", Action.WRITE, number, " \n")
    with pytest.raises(AnnotationError, match="name"):
        store.take(" ", "write")
    assert store.history() == before


def test_captions_of_one_item_are_by_different_people_who_did_not_see_the_others(tmp_path, clock):
    manifest = write_rows(tmp_path / "one.jsonl", [{"id": "a", "media": "a.mp4"}])
    store = AnnotationStore(tmp_path / "double.sqlite", clock=clock)
    store.add(manifest, captions_per_item=2)
    first = store.take("ann", "write").slot.number
    assert store.take("ben", "write").slot.number != first
    assert store.take("cleo", "write") is None
    store.act("ann", Action.WRITE, first, "a bell rings")
    assert store.take("ann", "write") is None
    assert store.take("cleo", "check") is None
    write_next(store, "ben", "a bell is ringing")
    assert store.take("ann", "check").slot.writer == "ben"
    assert store.take("ben", "check").slot.writer == "ann"
    store.close()


def play(store):
    """A little of everything, on a store of three items."""
    write_next(store, "ann", "a dog barks")
    check_next(store, "ben", "say where")
    write_next(store, "ann", "a dog barks on a street")
    check_next(store, "ben")
    write_next(store, "ben", "a red car")
    check_next(store, "ann")
    store.act("cleo", Action.SKIP, store.take("cleo", "write").slot.number, "no picture")
    store.take("ann", "write")


def test_the_history_replays_to_the_same_state(store):
    play(store)
    slots = store.slots()
    assert {slot.state for slot in slots} == {State.OPEN, State.ACCEPTED}
    assert replay(slots, store.history()) == slots
    assert [event.action for event in store.history()].count(Action.TAKE) == 8


def test_each_action_is_in_the_file_at_once(store, tmp_path):
    """Another connection sees all that was done, though the first is never closed."""
    for number in range(3):
        name = f"person {number}"
        write_next(store, name, f"caption {number}")
        other = AnnotationStore(tmp_path / "store.sqlite")
        assert other.history() == store.history()
        assert other.slots()[number].text == f"caption {number}"
        other.close()


def test_an_action_that_fails_midway_leaves_no_trace(store, tmp_path):
    """As for a process that dies between the two tables."""
    database = sqlite3.connect(tmp_path / "store.sqlite")
    database.execute(
        "CREATE TRIGGER broken BEFORE INSERT ON slots BEGIN SELECT RAISE(ABORT, 'disk'); END"
    )
    database.commit()
    before = store.slots(), store.history()
    with pytest.raises(sqlite3.IntegrityError, match="disk"):
        store.take("ann", "write")
    assert (store.slots(), store.history()) == before
    database.execute("DROP TRIGGER broken")
    database.commit()
    database.close()
    assert store.take("ann", "write")


@pytest.mark.parametrize("statement", ["DELETE FROM history", "UPDATE history SET text = ''"])
def test_the_history_is_only_added_to(store, tmp_path, statement):
    store.take("ann", "write")
    database = sqlite3.connect(tmp_path / "store.sqlite")
    with pytest.raises(sqlite3.IntegrityError, match="only added to"):
        database.execute(statement)
    database.close()


def test_adding_a_manifest_again_keeps_what_was_done(store, manifest, tmp_path):
    play(store)
    before = store.slots()
    assert store.add(manifest) == 0
    assert store.slots() == before
    more = write_rows(tmp_path / "more.jsonl", [{"id": "d", "media": "d.mp4"}])
    assert store.add(more) == 1
    assert [slot.item for slot in store.slots()] == [1, 2, 3, 4]
    store.add(more, captions_per_item=2)
    assert sorted(slot.item for slot in store.slots()) == [1, 1, 2, 2, 3, 3, 4, 4]
    with pytest.raises(AnnotationError, match="holds 2 captions per item, asked for 1"):
        store.add(more)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "a", "start_s": 1.0}, "manifest.jsonl:1: 'a' has another stretch"),
        ({"media": "s3://bucket/new.mp4"}, "manifest.jsonl:1: media: s3://"),
        ({"extra": {"hints": [1]}}, "manifest.jsonl:1: extra.hints: expected a text or a list"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_as_a_whole(store, tmp_path, change, message):
    rows = [{"id": "new", "media": "new.mp4", **change}, {"id": "newer", "media": "x.mp4"}]
    (tmp_path / "other").mkdir()
    with pytest.raises(ManifestError, match=message):
        store.add(write_rows(tmp_path / "other/manifest.jsonl", rows))
    assert len(store.records()) == 3


def test_another_file_is_no_store(tmp_path):
    (tmp_path / "text").write_text("no database, but long enough to be one" * 30)
    with pytest.raises(AnnotationError, match="no annotation store"):
        AnnotationStore(tmp_path / "text")
    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE items (number)")
    other.close()
    with pytest.raises(AnnotationError, match="another program's"):
        AnnotationStore(tmp_path / "other")


def test_a_manifest_round_trip_gives_the_accepted_captions(store, tmp_path):
    play(store)
    (out,) = export_manifest(store, tmp_path / "out/accepted.jsonl")
    a, b = read_manifest(out)
    assert (a.id, a.split, a.media) == ("a", "train", str(tmp_path / "media/a.mp4"))
    assert [caption.text for caption in a.captions] == ["a dog barks on a street"]
    assert (b.id, b.split, b.start_s, b.end_s) == ("b", "val", 2.0, 12.0)


def test_valor_json_round_trip_gives_ids_captions_and_splits(store, tmp_path):
    play(store)
    (tmp_path / "media").mkdir()
    for name in "ab":
        (tmp_path / f"media/{name}.mp4").touch()
    files = export_valor(store, tmp_path / "desc.json")
    assert [file.name for file in files] == ["desc_train.json", "desc_val.json"]
    read = import_records("valor", files, tmp_path / "media").records
    accepted = read_manifest(export_manifest(store, tmp_path / "accepted.jsonl")[0])
    assert [(r.id, r.media, r.split, r.captions) for r in read] == [
        (r.id, r.media, r.split, r.captions) for r in accepted
    ]
    with pytest.raises(AnnotationError, match="would not be read as split 'train'"):
        export_valor(store, tmp_path / "test.json")


def test_without_an_accepted_caption_nothing_is_written(store, tmp_path):
    write_next(store, "ann", "a dog barks")
    with pytest.raises(AnnotationError, match="no caption is accepted yet"):
        export_manifest(store, tmp_path / "out.jsonl")
    with pytest.raises(AnnotationError, match="no caption is accepted yet"):
        export_valor(store, tmp_path / "out.json")
    assert not (tmp_path / "out.jsonl").exists()


def test_the_report_counts_agreement_and_audio_concepts(store):
    assert report(store).first_check_accepted_fraction is None
    play(store)
    numbers = report(store, ["dog barks", "dog", "street music"])
    assert (numbers.num_items, numbers.num_checked) == (3, 2)
    # Ben returned the first of two captions at its first check; Ann accepted the other at once.
    assert numbers.first_check_accepted_fraction == 1 / 2
    # "a dog barks on a street" names one concept in 6 words; "a red car" none in 3.
    assert numbers.words_per_caption == 9 / 2
    assert numbers.audio_concepts_per_caption == 1 / 2
    assert numbers.with_audio_concept_fraction == 1 / 2
    assert numbers.audio_concepts_per_word == pytest.approx(1 / 9)
    assert numbers.annotators["ben"] == {"accept": 1, "return": 1, "write": 1}
    accepted = [caption for record in store.records().values() for caption in record.captions]
    assert audio_concept_density(accepted, ["draft"]) == 3 / 12


def test_agreement_of_writers_is_about_what_they_wrote_first(tmp_path, clock):
    manifest = write_rows(tmp_path / "one.jsonl", [{"id": "a", "media": "a.mp4"}])
    store = AnnotationStore(tmp_path / "double.sqlite", clock=clock)
    store.add(manifest, captions_per_item=2)
    write_next(store, "ann", "a dog barks")
    write_next(store, "ben", "a dog barks loudly today")
    check_next(store, "ben", "copy mine")
    write_next(store, "ann", "a dog barks loudly today")
    numbers = report(store)
    # The common part has 3 words: precision 1 and recall 3/5 one way, 3/5 and 1 the other.
    beta = 1.2**2
    one, other = ((1 + beta) * p * r / (r + beta * p) for p, r in ((1, 0.6), (0.6, 1)))
    assert numbers.num_double == 1
    assert numbers.double_rouge_l == pytest.approx((one + other) / 2)
    store.close()


def test_closing_waits_for_readers(tmp_path, manifest, clock):
    """A connection closed under a reader would end the process, not raise."""
    for turn in range(20):
        store = AnnotationStore(tmp_path / f"{turn}.sqlite", clock=clock)
        store.add(manifest)
        began = threading.Barrier(3)
        ends = []

        def read(store=store, began=began, ends=ends):
            began.wait()
            try:
                while True:
                    store.records()
            except sqlite3.ProgrammingError as error:
                ends.append(str(error))

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        began.wait()
        store.close()
        for reader in readers:
            reader.join()
        assert all("closed" in end for end in ends)
        assert len(ends) == 2
