import os
import signal
import subprocess
import sys
import wave
from dataclasses import replace
from pathlib import Path

import lancedb
import pytest
from PIL import Image

from valor.errors import MediaError
from valor.media.probe import probe
from valor.media.reading import plan_of
from valor.media.segments import DecodePlan
from valor.search import ingest
from valor.search.library import Library
from valor.search.tables import Tables
from valor.types import AUDIOVISUAL, Caption

STREET = {"see": "red car street", "hear": "horn engine"}
BEACH = {"see": "blue sea sand", "hear": "waves wind"}
CHURCH = {"see": "old church tower", "hear": "bell"}


def stretches(library: Library, query: str = "bell") -> list[tuple[str, float]]:
    hits = library.search(query, limit=1000, merged=False)
    return sorted((Path(hit.path).name, hit.start_s) for hit in hits)


def rows_on_disk(library: Library) -> int:
    return lancedb.connect(library.path).open_table("segments").count_rows()


def test_adding_twice_doubles_nothing(library, write_file):
    folder = write_file("a.mp4", STREET, BEACH).parent
    write_file("deep/b.mp4", CHURCH)
    first, second = library.add(folder), library.add(folder)
    assert (first.num_files, first.added, first.skipped, first.num_segments) == (2, 2, 0, 3)
    assert (second.num_files, second.added, second.skipped, second.num_segments) == (2, 0, 2, 0)
    assert (first.seconds_of_media, second.seconds_of_media) == (15.0, 0.0)
    assert stretches(library) == [("a.mp4", 0.0), ("a.mp4", 5.0), ("b.mp4", 0.0)]
    assert len(library) == rows_on_disk(library) == 3


@pytest.mark.parametrize("keyframes_only", [False, True])
def test_keyframes_are_asked_of_the_model(tmp_path, word_model, write_file, keyframes_only: bool):
    model = word_model()
    library = Library(tmp_path / "library", model=model)
    library.add(write_file("a.mp4", STREET, BEACH), keyframes_only=keyframes_only)
    assert model.keyframes_only == {keyframes_only}


def test_changed_file_is_replaced(library, write_file):
    path = write_file("a.mp4", STREET, BEACH)
    library.add(path)
    write_file("a.mp4", CHURCH)
    assert library.add(path).added == 1
    assert stretches(library) == [("a.mp4", 0.0)]
    assert library.search("old church tower")[0].score > library.search("red car street")[0].score
    assert len(library) == rows_on_disk(library) == 1


def test_bad_files_are_listed_and_the_others_survive(library, write_file):
    folder = write_file("good.mp4", STREET).parent
    (folder / "text.mp4").write_text("hello")
    write_file("half.mp4", BEACH, {"broken": "yes"}, CHURCH)
    write_file("nothing.mp4", {})
    report = library.add([folder, folder / "absent.mp4"])
    reasons = {Path(path).name: reason for path, reason, _ in report.bad}
    assert reasons == {
        "text.mp4": "unreadable",
        "half.mp4": "undecodable",
        "nothing.mp4": "empty",
        "absent.mp4": "missing",
    }
    assert (report.num_files, report.added, report.num_segments) == (5, 1, 1)
    assert stretches(library) == [("good.mp4", 0.0)]
    assert rows_on_disk(library) == 1


def test_every_segment_keeps_what_a_describer_says_of_it(library, write_file, word_model):
    class Teller(word_model):
        """Sees only half of what the embedder sees, to show that it reads for itself."""

        def read(self, path, **stretch):
            segment = super().read(path, **stretch)
            return replace(segment, frames=segment.frames[:1])

        def describe(self, segments, *, using=AUDIOVISUAL):
            texts = [f"{s.path[-5:]} {s.start_s:g} {len(s.frames)}" for s in segments]
            return [Caption(text=t, modalities_used=using, segments=()) for t in texts]

        def answer(self, segments, questions, *, using=AUDIOVISUAL):
            raise NotImplementedError

    folder = write_file("a.mp4", STREET, BEACH).parent
    write_file("b.mp4", {"broken": "yes"}, CHURCH)
    library.add(folder, describer=Teller())
    write_file("c.mp4", CHURCH)
    library.add(folder)
    hits = library.search("car", merged=False)
    captions = {(Path(hit.path).name, hit.start_s): hit.caption for hit in hits}
    assert captions == {
        ("a.mp4", 0.0): "a.mp4 0 1",
        ("a.mp4", 5.0): "a.mp4 5 1",
        ("c.mp4", 0.0): None,
    }


SPARSE, DENSE = (
    DecodePlan(num_frames=num, short_side_px=32, sample_rate_hz=16000) for num in (1, 4)
)


@pytest.mark.parametrize("is_same_plan", [False, True])
def test_a_describer_that_reads_alike_gets_what_the_embedder_read(
    library, write_file, word_model, monkeypatch, is_same_plan: bool
):
    class Teller(word_model):
        plan = SPARSE

        def describe(self, segments, *, using=AUDIOVISUAL):
            return [Caption(text=s.path, modalities_used=using, segments=()) for s in segments]

        def answer(self, segments, questions, *, using=AUDIOVISUAL):
            raise NotImplementedError

    def decode(model, path, stretches, *, keyframes_only):
        plans.append(plan_of(model))
        for start_s, end_s in stretches:
            yield model.read(path, start_s=start_s, end_s=end_s)

    plans = []
    monkeypatch.setattr(ingest, "read_in_order", decode)
    library.embedder.plan = SPARSE if is_same_plan else DENSE
    library.add(write_file("a.mp4", STREET, BEACH), describer=Teller())
    assert set(plans) == ({SPARSE} if is_same_plan else {DENSE, SPARSE})
    hits = library.search("car", merged=False)
    assert [Path(hit.caption).name for hit in hits] == ["a.mp4"] * 2
    assert library.embedder.num_read == 2


def test_runs_of_a_file_come_in_its_order(library, write_file, monkeypatch):
    monkeypatch.setattr(ingest, "BATCH_SEGMENTS", 3)
    order = []
    collect = ingest.Ingest._collect

    def collected(self, stretches, *rest):
        order.extend(stretch.place for stretch in stretches)
        collect(self, stretches, *rest)

    monkeypatch.setattr(ingest.Ingest, "_collect", collected)
    paths = [str(write_file(name, *[STREET] * 25)) for name in ("a.mp4", "b.mp4")]
    library.add(paths)
    assert order == [(path, 5.0 * n, 5.0 * n + 5) for path in paths for n in range(25)]


def test_metadata_of_container_and_user_can_be_filtered(library, write_file):
    library.add(write_file("a.mp4", STREET), metadata={"camera": "2", "note": "a;b  c"})
    library.add(write_file("b.mp4", BEACH), metadata={"camera": "21"})
    found = library.search("car", where="metadata LIKE '%camera=2;%'", merged=False)
    assert [hit.metadata for hit in found] == ["camera=2; note=a,b c; title=a;"]
    both = library.search("car", where="metadata LIKE '%camera=2%'", merged=False)
    assert len(both) == 2


def test_bad_file_is_remembered_until_it_changes(library, write_file):
    path = write_file("a.mp4", {"broken": "yes"})
    library.add(path)
    before = library.embedder.num_read
    assert [bad.reason for bad in library.add(path).bad] == ["undecodable"]
    assert library.embedder.num_read == before
    write_file("a.mp4", CHURCH)
    report = library.add(path)
    assert (report.added, report.bad) == (1, [])


def test_file_that_turns_bad_loses_its_segments(library, write_file):
    path = write_file("a.mp4", STREET)
    library.add(path)
    path.write_text("overwritten")
    library.add(path)
    assert stretches(library) == []
    assert [(row.status, row.reason) for row in library.files()] == [("bad", "unreadable")]


def test_crash_between_segments_and_commit_loses_and_doubles_nothing(
    library, write_file, monkeypatch
):
    folder = write_file("a.mp4", STREET, BEACH).parent
    library.add(folder)
    write_file("a.mp4", CHURCH, CHURCH, CHURCH)
    write_file("b.mp4", STREET)

    def crash(tables, segments, files):
        tables._segments.add(segments[0])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Tables, "commit", crash)
        library.add(folder)
    assert rows_on_disk(library) > 2
    assert stretches(library) == [("a.mp4", 0.0), ("a.mp4", 5.0)]
    library.add(folder)
    assert stretches(library) == [*(("a.mp4", at) for at in (0.0, 5.0, 10.0)), ("b.mp4", 0.0)]
    assert len(library) == rows_on_disk(library) == 4


KILLED = """
import sys, time
import conftest
from valor.search import ingest
from valor.search.library import Library
ingest.probe, ingest.BATCH_SEGMENTS, ingest.COMMIT_S = conftest.probe_words, 2, 0
calls = []
def stop(progress):
    calls.append(progress)
    if len(calls) == 8:
        print("now", flush=True)
        time.sleep(600)
Library(sys.argv[1], model=conftest.WordModel()).add(sys.argv[2], progress=stop)
"""


def test_kill_loses_no_committed_file_and_doubles_none(tmp_path, write_file, word_model):
    names = [f"{index}.mp4" for index in range(9)]
    folder = write_file(names[0], STREET, BEACH, CHURCH).parent
    for name in names[1:]:
        write_file(name, STREET, BEACH, CHURCH)
    here = str(Path(__file__).parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([here, *sys.path])}
    command = [sys.executable, "-c", KILLED, str(tmp_path / "library"), str(folder)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        process.send_signal(signal.SIGKILL)
    library = Library(tmp_path / "library", model=word_model())
    committed = {Path(row.path).name for row in library.files()}
    # Seven batches of two were committed: four files of three, and two orphans of the fifth.
    assert committed == set(names[:4])
    assert rows_on_disk(library) == 14
    assert stretches(library) == [(n, at) for n in names[:4] for at in (0.0, 5.0, 10.0)]
    assert library.add(folder).skipped == 4
    assert stretches(library) == [(n, at) for n in names for at in (0.0, 5.0, 10.0)]
    assert len(library) == rows_on_disk(library) == 27


def test_batches_do_not_change_scores(tmp_path, write_file, word_model, monkeypatch):
    folder = write_file("first.mp4", STREET, BEACH).parent
    for index, scene in enumerate([BEACH, CHURCH, {"see": "bell"}, {"hear": "sea"}]):
        write_file(f"{index}.mp4", scene, BEACH)
    results = []
    for batch_segments in (1, 3, 16):
        monkeypatch.setattr(ingest, "BATCH_SEGMENTS", batch_segments)
        library = Library(tmp_path / f"library{batch_segments}", model=word_model())
        library.add(folder)
        results.append(library.search("sea bell", merged=False))
    assert len(results[0]) == 10
    assert results[0] == results[1] == results[2]


def test_decoded_segments_are_bounded_for_any_length(library, write_file):
    library.add(write_file("long.mp4", *[STREET] * 200))
    assert len(library) == 200
    assert library.embedder.max_waiting <= 3 * ingest.BATCH_SEGMENTS


def test_folder_gives_visible_media_and_named_files_are_always_tried(library, write_file):
    folder = write_file("a.MP4", STREET).parent
    write_file(".hidden.mp4", STREET)
    write_file(".cache/b.mp4", STREET)
    odd = write_file("notes.txt", BEACH)
    library.add(folder)
    assert [Path(row.path).name for row in library.files()] == ["a.MP4"]
    library.add(odd)
    assert [Path(row.path).name for row in library.files()] == ["a.MP4", "notes.txt"]


def test_progress_rises_to_one(library, write_file):
    folder = write_file("a.mp4", *[STREET] * 40).parent
    write_file("b.mp4", *[BEACH] * 10)
    seen = []
    library.add(folder, progress=seen.append)
    fractions = [progress.done_fraction for progress in seen]
    assert len(fractions) == 4
    assert fractions == sorted(fractions)
    assert (fractions[-1], seen[-1].seconds_of_media) == (1.0, 250.0)


@pytest.mark.media
def test_real_media_are_cut_from_start_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(ingest, "probe", probe)
    sound, picture, text = (tmp_path / name for name in ("a.wav", "a.png", "a.mp4"))
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 8000 * 12))
    Image.new("RGB", (8, 8)).save(picture)
    text.write_text("ffconcat version 1.0\nfile a.wav\n")
    stretches = ingest.plan(str(sound), segment_s=5.0)
    starts, ends = zip(*stretches, strict=True)
    assert (starts[0], ends[-1]) == (0.0, pytest.approx(12.0, abs=0.01))
    assert starts[1:] == ends[:-1]
    assert ingest.plan(str(picture), segment_s=5.0) == [(0.0, 0.0)]
    with pytest.raises(MediaError):
        ingest.plan(str(text), segment_s=5.0)
