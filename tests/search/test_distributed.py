from pathlib import Path

import pytest

from valor.errors import LibraryError
from valor.media.probe import probe
from valor.search import distributed, ingest
from valor.search.library import Library


@pytest.fixture(autouse=True)
def real_media(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "probe", probe)


def listed(library: Library) -> list[tuple[str, float, float, float]]:
    hits = library.search("a red circle", using="audiovisual", limit=1000, merged=False)
    return sorted((hit.path, hit.start_s, hit.end_s, round(hit.score, 3)) for hit in hits)


@pytest.mark.slow
@pytest.mark.media
def test_workers_make_the_library_that_one_process_makes(tmp_path, world: Path, model_folder):
    pytest.importorskip("ray")
    media = [world / "media", tmp_path / "absent.mp4"]
    alone = Library(tmp_path / "alone", model=str(model_folder))
    many = Library(tmp_path / "many", model=str(model_folder))
    expected, report = alone.add(media), many.add_with_ray(media, num_workers=2)
    assert report == expected
    assert listed(many) == listed(alone)
    again = many.add_with_ray(media, num_workers=2)
    assert (again.added, again.skipped, again.bad) == (0, report.added, report.bad)


@pytest.mark.media
def test_worker_makes_what_belongs_to_a_file(world: Path, model_folder, tmp_path):
    library = Library(tmp_path / "library", model=str(model_folder))
    worker = distributed.Worker(str(model_folder), library.fingerprint, {})
    path = str(sorted((world / "media").iterdir())[0])
    segments, files, report = worker.ingest(path, None)
    assert [len(table) for table in segments] == [files[0].num_segments] == [report.num_segments]
    assert worker.ingest(path, files[0])[2].skipped == 1


def test_worker_with_another_model_is_refused(model_folder):
    with pytest.raises(LibraryError, match="copy it"):
        distributed.Worker(str(model_folder), "another", {})


def test_model_without_a_name_is_refused(library, tmp_path):
    with pytest.raises(LibraryError, match="give its folder"):
        library.add_with_ray(tmp_path, num_workers=1)
