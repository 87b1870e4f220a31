"""What reads media goes one way, so that no file makes any of it read another one."""

import ast
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from valor.data.executors import LocalExecutor
from valor.data.manifest import Record
from valor.data.reading import Draw, FileSource, ShardSource
from valor.data.sharding import ShardConfig, shard
from valor.data.shards import Entry, Shards, tar_members
from valor.data.validate import examine
from valor.errors import MediaError
from valor.media.audio import decode_waveform
from valor.media.probe import probe
from valor.media.segments import DecodePlan, decode_segment
from valor.media.video import decode_frames
from valor.processing.processor import Processor, ProcessorConfig

SOURCE = Path(__file__).parents[2] / "src/valor"
OPENERS = {"av.open": "media/container.py", "Image.open": "media/pictures.py"}
PLAN = DecodePlan(num_frames=1, short_side_px=16, sample_rate_hz=16_000)
KEYFRAMES = DecodePlan(num_frames=1, short_side_px=16, sample_rate_hz=16_000, keyframes_only=True)
PROCESSOR = Processor(ProcessorConfig(), None)


def openings() -> list[tuple[str, str]]:
    """Every call that opens media to be read, with its file."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or ast.unparse(node.func) not in OPENERS:
                continue
            if not any(isinstance(part, ast.Constant) and part.value == "w" for part in node.args):
                found.append((ast.unparse(node.func), path.relative_to(SOURCE).as_posix()))
    return found


def test_media_are_opened_in_one_place_each():
    assert sorted(openings()) == sorted(OPENERS.items())


def loaded(path: Path, draw: Draw | None) -> None:
    FileSource([Record(id="one", media=str(path))]).load(0, PROCESSOR, draw)


READ: dict[str, Callable[[Path], object]] = {
    "probe": probe,
    "segment": lambda path: decode_segment(path, PLAN),
    "keyframes": lambda path: decode_segment(path, KEYFRAMES),
    "frames": lambda path: decode_frames(path, [0.0]),
    "torchcodec": lambda path: decode_frames(path, [0.0], backend="torchcodec"),
    "sound": lambda path: decode_waveform(path, sample_rate_hz=16_000),
    "sample": lambda path: loaded(path, None),
    "draw": lambda path: loaded(path, Draw(seed=0, step=0)),
}
SCRIPTS = {
    "concat": "ffconcat version 1.0\nfile test-000000.mp4\n",
    "playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\ntest-000000.mp4\n#EXT-X-ENDLIST\n",
}


@pytest.fixture(params=sorted(SCRIPTS))
def script(request, world: Path):
    """A text named as a film, beside the film that it names."""
    path = world / "media/script.mp4"
    path.write_text(SCRIPTS[request.param])
    yield path
    path.unlink()


@pytest.mark.parametrize("way", READ)
def test_a_text_that_names_a_film_is_no_film(script: Path, way: str):
    with pytest.raises(MediaError) as caught:
        READ[way](script)
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize("content", ["frames", "original"])
def test_a_text_that_names_a_film_is_left_out(script: Path, tmp_path: Path, content):
    examined = examine(str(script), decode=True)
    assert isinstance(examined, MediaError)
    assert examined.reason == "unreadable"
    records = [Record(id="one", media=str(script))]
    assert shard(records, tmp_path, ShardConfig(content=content), LocalExecutor(1))
    assert json.loads((tmp_path / "_stats.json").read_text())["left_out"] == {"unreadable": 1}


def test_a_text_within_shards_is_no_film(tmp_path: Path):
    stretch = {"start_s": 0.0, "end_s": 1.0, "original": "mp4"}
    record = json.dumps({"id": "one", "media": "one.mp4", "extra": stretch}).encode()
    members = {"json": record, "mp4": SCRIPTS["concat"].encode()}
    content = tar_members("000000000", members)
    sizes = tuple((suffix, len(member)) for suffix, member in members.items())
    entry = Entry(row=0, id="one", status="ok", size=len(content), members=sizes)
    summary = {"num_samples": 1, "num_records": 1, "seconds": 1.0, "bytes": len(content)}
    named = {**summary, "name": "shard-000000", "sha256": ""}
    stats = json.dumps({**summary, "left_out": {}, "shards": [named]})
    (tmp_path / "_stats.json").write_text(stats)
    (tmp_path / "shard-000000.jsonl").write_text(entry.to_json())
    (tmp_path / "shard-000000.tar").write_bytes(content)
    with pytest.raises(MediaError) as caught:
        ShardSource(Shards(tmp_path)).load(0, PROCESSOR, None)
    assert caught.value.reason == "unreadable"
