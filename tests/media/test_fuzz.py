"""Whatever is damaged in a file: it is read or refused with a reason, and no other file is opened.

`benchmarks/fuzz_media.py` tries many more cases of the same kind.
"""

import resource
import sys
from contextlib import suppress
from pathlib import Path

import av
import pytest

from benchmarks.fuzz_media import (
    OTHER_FILE,
    Folder,
    OpenedFiles,
    case,
    outcome,
    read_seeds,
    write_seeds,
)
from valor.errors import MediaError
from valor.media.probe import probe
from valor.media.segments import DecodePlan, decode_segment

pytestmark = [
    pytest.mark.media,
    pytest.mark.skipif(sys.platform != "linux", reason="inotify tells which files are opened"),
]

SEED = 20261121
CASES_PER_TEST = 100
PLAN = DecodePlan(num_frames=2, short_side_px=16, sample_rate_hz=16_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Folder:
    seeds = tmp_path_factory.mktemp("seeds")
    write_seeds(seeds)
    return Folder(tmp_path_factory.mktemp("cases"), read_seeds(seeds))


@pytest.mark.parametrize("first", range(0, 2000, CASES_PER_TEST))
def test_damage_of_any_kind_ends_in_a_segment_or_an_error(folder: Folder, first: int):
    found = {number: folder.tried(SEED, number) for number in range(first, first + CASES_PER_TEST)}
    assert {number: text for number, text in found.items() if text.startswith("WRONG")} == {}
    assert "ok" in found.values()
    assert len(set(found.values())) > 1


def test_a_movie_of_references_opens_no_other_file(tmp_path: Path):
    """QuickTime can name another file that holds the samples."""
    write_seeds(tmp_path)
    (tmp_path / "plain.mp4").rename(tmp_path / OTHER_FILE)
    opened = OpenedFiles(tmp_path)
    with pytest.raises(MediaError):
        decode_segment(tmp_path / "reference.mov", PLAN)
    assert opened.names() == {"reference.mov"}
    with av.open(str(tmp_path / "reference.mov"), options={"enable_drefs": "1"}):
        assert opened.names() == {"reference.mov", OTHER_FILE}


def test_keyframes_whose_times_go_back_are_displayed_frames(tmp_path: Path):
    write_seeds(tmp_path)
    path = tmp_path / "case.mp4"
    path.write_bytes(case(read_seeds(tmp_path), 7, 41799)[1])  # Found so; more frames than times.
    assert outcome(path, 41799) == "ok"


def test_a_header_cannot_make_gigabytes_be_allocated(tmp_path: Path):
    write_seeds(tmp_path)
    path = tmp_path / "case.avi"
    name, content = case(read_seeds(tmp_path), 7, 8170)  # Found so; it took 2.2 GiB.
    assert name.endswith(".avi")
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with suppress(MediaError):
        probe(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20
