"""Laws of what the page offers to search for."""

import shutil
from pathlib import Path

import pytest

from valor.data.manifest import read_manifest
from valor.search.library import Library
from valor.server.examples import find_examples
from valor.types import AUDIOVISUAL, Modality


@pytest.fixture
def world_copy(world: Path, tmp_path: Path) -> Path:
    """Four videos of a world with its manifest; the manifest speaks of more."""
    shutil.copy(world / "manifest.jsonl", tmp_path)
    (tmp_path / "media").mkdir()
    for number in range(4):
        shutil.copy(world / f"media/test-{number:06d}.mp4", tmp_path / "media")
    return tmp_path


def paths_of(library: Library) -> list[str]:
    return [row.path for row in library.files()]


def test_captions_of_the_library_come_first(indexed, model):
    library = Library(indexed / "library", model=model)
    captions = {hit.caption for hit in library.search("a bell", limit=100)}
    found = find_examples(library, [indexed / "media"], paths_of(library))
    assert found
    assert captions.issuperset(found)


def test_a_manifest_beside_the_recordings_speaks_of_them_alone(world_copy, model):
    library = Library(world_copy / "library", model=model)
    library.add(world_copy / "media")
    paths = paths_of(library)
    found = find_examples(library, [world_copy / "media"], paths)
    records = [one for one in read_manifest(world_copy) if one.media in paths]
    about = {caption.text: caption.about for one in records for caption in one.captions}
    assert 2 < len(found) <= 5
    assert {about[text] for text in found} >= {Modality.AUDIO, Modality.VISION}
    assert AUDIOVISUAL in about.values()


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"media": 3}'])
def test_a_manifest_that_is_none_gives_nothing(world_copy, model, content):
    library = Library(world_copy / "library", model=model)
    (world_copy / "manifest.jsonl").write_text(content)
    assert find_examples(library, [world_copy / "media"], ["x"]) == []


def test_no_more_of_a_manifest_is_read_than_needed(world_copy, model, monkeypatch):
    library = Library(world_copy / "library", model=model)
    library.add(world_copy / "media")
    manifest = world_copy / "manifest.jsonl"
    lines = [line for line in manifest.read_text().splitlines() if "test-00000" in line][:4]
    paths = paths_of(library)

    def found(content: str) -> list[str]:
        manifest.write_text(content)
        return find_examples(library, [world_copy / "media"], paths)

    expected = found("\n".join(lines))
    assert expected
    broken = "\n".join([*lines, "{"])
    assert found(broken) == []
    monkeypatch.setattr("valor.server.examples._LINES", len(lines))
    assert found(broken) == expected
    monkeypatch.setattr("valor.server.examples._LINES", 100)
    monkeypatch.setattr("valor.server.examples._MANIFEST_BYTES", len("\n".join(lines)) + 1)
    assert found(broken) == expected
