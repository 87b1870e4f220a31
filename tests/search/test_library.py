import csv
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from valor.cli.main import main
from valor.errors import DependencyError, LibraryError, UsageError
from valor.search.library import Library
from valor.search.listing import write_listing
from valor.types import AUDIOVISUAL, Modality

BELL = {"see": "tower", "hear": "bell"}
DOG = {"see": "dog"}


@pytest.fixture
def folder(library, write_file) -> Path:
    folder = write_file("a.mp4", BELL, DOG).parent
    write_file("deep/b.mp4", DOG)
    library.add(folder)
    return folder


def names(library: Library) -> list[str]:
    return [Path(row.path).name for row in library.files()]


def test_another_model_is_refused_with_the_way_out(library, folder, word_model):
    with pytest.raises(LibraryError, match=r"words-1.*words-2.*valor index --rebuild"):
        Library(library.path, model=word_model("words-2"))
    assert len(Library(library.path, model=word_model("words-1"))) == 3


def test_library_built_again_by_another_process_is_refused(library, folder, word_model):
    Library(library.path, model=word_model("words-2"), rebuild=True)
    with pytest.raises(LibraryError, match="words-2"):
        library.search("dog", merged=False)


def test_rebuild_starts_empty_with_the_new_model(library, folder, word_model):
    again = Library(library.path, model=word_model("words-2"), rebuild=True)
    assert (len(again), again.fingerprint, again.files()) == (0, "words-2", [])
    again.add(folder)
    assert len(again.search("dog", merged=False)) == 3
    again.rebuild()
    assert (len(again), again.search("dog", merged=False)) == (0, [])


def test_missing_library_is_only_made_on_request(tmp_path, word_model):
    with pytest.raises(LibraryError, match="valor index"):
        Library(tmp_path / "absent", model=word_model(), create=False)
    with pytest.raises(LibraryError, match="needs a model"):
        Library(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_folder_of_something_else_is_never_touched(folder, word_model):
    for rebuild in (False, True):
        with pytest.raises(LibraryError, match="empty folder"):
            Library(folder, model=word_model(), rebuild=rebuild)
    assert sorted(path.name for path in folder.iterdir()) == ["a.mp4", "deep"]


@pytest.mark.parametrize("text", ["{", "[]", '{"format_version": 99}', '{"format_version": 1}'])
def test_damaged_or_newer_library_names_the_way_out(library, text, word_model):
    (library.path / "library.json").write_text(text)
    with pytest.raises(LibraryError, match="--rebuild"):
        Library(library.path, model=word_model())
    assert len(Library(library.path, model=word_model(), rebuild=True)) == 0


def test_model_is_loaded_by_name_when_first_needed(tmp_path, folder, word_model, monkeypatch):
    loaded = []

    def load(name: str, *, trust_code: bool) -> object:
        loaded.append(name)
        return word_model("words-2" if name.endswith("other") else "words-1")

    monkeypatch.setitem(sys.modules, "valor.inference", SimpleNamespace(load=load))
    Library(tmp_path / "named", model="hub/model").add(folder)
    assert loaded == ["hub/model"]
    again = Library(tmp_path / "named")
    assert (len(again), loaded) == (3, ["hub/model"])
    assert len(again.search("dog", merged=False)) == 3
    assert loaded == ["hub/model"] * 2
    with pytest.raises(LibraryError, match=r"words-1 \(hub/model\).*words-2"):
        Library(tmp_path / "named", model="hub/other").search("dog", merged=False)


def test_library_without_a_model_still_lists(library, folder):
    bare = Library(library.path)
    assert names(bare) == ["a.mp4", "b.mp4"]
    with pytest.raises(LibraryError, match="needs a model"):
        bare.search("dog", merged=False)


def test_missing_package_names_the_extra(tmp_path, word_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(DependencyError, match=r"pip install .valor-omni\[search\]"):
        Library(tmp_path / "library", model=word_model())


def test_files_say_what_they_have(library, folder):
    first, second = library.files()
    assert (first.status, first.num_segments, first.modalities) == ("ok", 2, AUDIOVISUAL)
    assert (second.num_segments, second.modalities) == (1, Modality.VISION)


def test_removed_files_are_gone_and_the_others_stay(library, folder):
    assert library.remove(folder / "deep") == 1
    assert library.remove(folder / "never.mp4") == 0
    assert names(library) == ["a.mp4"]
    assert len(library.search("dog", merged=False)) == len(library) == 2
    assert (folder / "deep" / "b.mp4").exists()


def test_path_with_quotes_can_be_removed(library, write_file):
    path = write_file("it's 'here'.mp4", DOG)
    library.add(path)
    assert library.remove(path) == 1
    assert library.search("dog", merged=False) == []


def test_refresh_replaces_changed_and_forgets_vanished(library, folder, write_file):
    (folder / "deep" / "b.mp4").unlink()
    write_file("a.mp4", DOG)
    write_file("new.mp4", DOG)
    report = library.refresh()
    assert (report.added, report.removed, report.skipped) == (1, 1, 0)
    assert names(library) == ["a.mp4"]
    assert [hit.modalities_used for hit in library.search("dog", merged=False)] == [Modality.VISION]


def test_touched_file_is_read_again(library, folder):
    os.utime(folder / "a.mp4", ns=(1, 1))
    assert library.refresh().added == 1
    assert len(library) == 3


def test_compact_keeps_every_hit(library, folder):
    before = library.search("bell dog", merged=False)
    library.compact()
    assert library.search("bell dog", merged=False) == before


def test_export_lists_every_segment(library, folder, tmp_path):
    library.export(tmp_path / "list.json")
    library.export(tmp_path / "list.csv")
    rows = json.loads((tmp_path / "list.json").read_text())
    assert [(Path(r["path"]).name, r["start_s"], r["modalities"]) for r in rows] == [
        ("a.mp4", 0.0, "audiovisual"),
        ("a.mp4", 5.0, "vision"),
        ("b.mp4", 0.0, "vision"),
    ]
    with (tmp_path / "list.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(r["path"], float(r["end_s"])) for r in table] == [
        (r["path"], r["end_s"]) for r in rows
    ]
    with pytest.raises(UsageError, match=r"\.json, \.csv, \.edl"):
        library.export(tmp_path / "list.xml")


def test_second_writer_is_refused(library, folder, word_model):
    other = Library(library.path, model=word_model())
    with library._writing(), pytest.raises(LibraryError, match="another process"):
        other.add(folder)
    assert other.add(folder).skipped == 2


def test_export_keeps_what_a_filter_says(library, folder, tmp_path):
    assert library.export(tmp_path / "list.json", where="modalities = 'audiovisual'") == 1
    with pytest.raises(UsageError, match="cannot filter by"):
        library.export(tmp_path / "list.json", where="nothing = 1")
    assert len(json.loads((tmp_path / "list.json").read_text())) == 1


@pytest.mark.media
def test_edit_list_counts_from_the_timecode_of_the_source(library, tmp_path):
    path = tmp_path / "take.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 16
        stream.metadata["timecode"] = "10:00:00:05"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    rows = [{"path": str(path), "start_s": 1.0, "end_s": 3.0, "caption": "a bell"}]
    rows.append({"path": str(tmp_path / "gone.mov"), "start_s": 0.0, "end_s": 1.0})
    write_listing(tmp_path / "list.edl", rows)
    text = (tmp_path / "list.edl").read_text()
    assert "001  TAKE     AA/V  C        10:00:01:05 10:00:03:05 00:00:00:00 00:00:02:00" in text
    assert "002  GONE     AA/V  C        00:00:00:00 00:00:01:00 00:00:02:00 00:00:03:00" in text
    assert "* COMMENT: a bell" in text


def test_verb_keeps_a_library_in_order(library, folder, tmp_path, capsys):
    assert main(["library", "export", str(library.path), str(tmp_path / "a.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"segments": 3}
    assert main(["library", "remove", str(library.path), str(folder / "deep")]) == 0
    assert main(["library", "compact", str(library.path)]) == 0
    assert capsys.readouterr().out == "removed 1\nsegments 2\n"
    assert main(["library", "compact", str(tmp_path / "absent")]) == 1


def test_verb_lists_bad_files_with_reasons(library, folder, capsys):
    bad = folder / "text.mp4"
    bad.write_text("hello")
    library.add(folder)
    assert main(["library", "bad", str(library.path)]) == 0
    assert capsys.readouterr().out == f"{bad} (unreadable): is no media file\n"
    assert main(["library", "bad", str(library.path), "--json"]) == 0
    assert [row["reason"] for row in json.loads(capsys.readouterr().out)] == ["unreadable"]


def test_metadata_without_a_value_is_a_usage_error(library, folder, capsys):
    assert main(["index", str(library.path), str(folder), "--metadata", "camera"]) == 2
    assert "camera=2" in capsys.readouterr().err


def test_changed_subtitles_are_read_again(library, write_file):
    path = write_file("talk.mp4", DOG, DOG)
    library.add(path)
    path.with_suffix(".srt").write_text("1\n00:00:06,000 --> 00:00:07,000\ngood dog\n")
    assert library.refresh().added == 1
    hits = library.search("good", using="text", merged=False)
    assert [(hit.start_s, hit.speech, hit.score) for hit in hits] == [(5.0, "good dog", 1.0)]
