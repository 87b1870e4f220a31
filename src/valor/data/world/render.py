"""Write a world to disk: H.264 + AAC mp4 files, `manifest.jsonl` and `truth.jsonl`.

Every file depends on seed, level and its own index alone, and is encoded by one thread, so that the
bytes are the same whatever the number of workers.
"""

import json
import shutil
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from jaxtyping import Float, UInt8

from valor.config import from_dict
from valor.data.executors import process_pool
from valor.data.world.drawing import draw
from valor.data.world.language import captions, facts
from valor.data.world.questions import questions
from valor.data.world.scene import (
    FPS,
    SAMPLE_RATE_HZ,
    SIZE_PX,
    Level,
    Scene,
    beats,
    draw_scene,
    draw_test_pool,
)
from valor.data.world.sound import mixture
from valor.errors import ValorError

_VERSION = 2
_AUDIO_CHUNK = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a rendered folder holds."""

    num: int
    """Training videos."""
    num_val: int
    num_test: int
    seed: int
    level: Level
    version: int = _VERSION

    def __post_init__(self) -> None:
        """Reject what cannot be rendered."""
        for name in ("num", "num_val", "num_test", "seed"):
            if getattr(self, name) < 0:
                raise ValorError(f"{name}={getattr(self, name)}, wanted at least 0")


def render_world(
    out: Path,
    world: World,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Render a world; one that is there already is left as it is.

    Args:
        out: Folder to be made.
        world: How much, and of what.
        workers: Processes; all processors by default.
        progress: Told how many of how many videos are done.

    Raises:
        ValorError: If the folder holds something else, or there are no workers.
    """
    if workers is not None and workers < 1:
        raise ValorError(f"workers={workers}, wanted at least 1")
    out = out.resolve()
    description = json.dumps(asdict(world), indent=2) + "\n"
    note = out / "world.json"
    if note.is_file() and note.read_text(encoding="utf-8") == description:
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValorError(f"{out}: holds something else than this world; choose another --out")
    partial_out = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial_out, ignore_errors=True)
    (partial_out / "media").mkdir(parents=True)
    scenes = _scenes(world)
    write = partial(render_scene, folder=partial_out / "media", seed=world.seed)
    rows = []
    try:
        with process_pool(workers) as pool:
            for done, row in enumerate(pool.map(write, scenes, chunksize=8), start=1):
                rows.append(row)
                progress(done, len(scenes))
    except BrokenProcessPool:
        raise ValorError(f"{out}: a process that renders has died; render again") from None
    for index, name in enumerate(("manifest.jsonl", "truth.jsonl")):
        lines = "".join(json.dumps(row[index]) + "\n" for row in rows)
        (partial_out / name).write_text(lines, encoding="utf-8")
    (partial_out / "world.json").write_text(description, encoding="utf-8")
    if out.exists():
        out.rmdir()
    partial_out.rename(out)


def _scenes(world: World) -> list[Scene]:
    train = [draw_scene(world.seed, "train", index, world.level) for index in range(world.num)]
    val = [draw_scene(world.seed, "val", index, world.level) for index in range(world.num_val)]
    return [*train, *val, *draw_test_pool(world.seed, world.num_test, world.level)]


def render_scene(scene: Scene, *, folder: Path, seed: int) -> tuple[dict, dict]:
    """Write one video; return its rows of the manifest and of the truth."""
    frames, sound = draw(scene).frames, mixture(scene)
    write_mp4(folder / f"{scene.id}.mp4", frames, sound)
    rng = np.random.default_rng((seed, 3, *scene.id.encode()))
    said = captions(scene, rng, per_kind=2)
    asked = questions(scene, rng)
    record = {
        "id": scene.id,
        "media": f"media/{scene.id}.mp4",
        "split": scene.split,
        "captions": [{"text": c.text, "about": c.about, "style": c.style} for c in said],
        "questions": [
            {"question": q.text, "answers": [q.answer], "needs": q.needs, "type": q.type}
            for q in asked
        ],
        "source": "rendered world",
    }
    truth = {
        "id": scene.id,
        "family": scene.family,
        "layout": scene.layout,
        "facts": facts(scene),
        "captions": [{"text": c.text, "about": c.about, "slots": c.slots} for c in said],
        "questions": [{"question": q.text, "prior": dict(q.prior)} for q in asked],
        "events": [
            {"actor": index, "timbre": a.voice.timbre, "beats_s": beats(a.voice).round(4).tolist()}
            for index, a in enumerate(scene.actors)
            if a.voice
        ],
        "scene": asdict(scene),
    }
    return record, truth


def read_scenes(folder: Path) -> dict[str, Scene]:
    """The scenes of a rendered world by id; none if the folder is no rendered world."""
    path = folder / "truth.jsonl"
    if not path.is_file():
        return {}
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {row["id"]: from_dict(Scene, row["scene"], where=f"{path}: {row['id']}") for row in rows}


def write_mp4(
    path: Path,
    frames: UInt8[np.ndarray, "frames height width 3"],
    sound: Float[np.ndarray, " samples"],
) -> None:
    """Encode frames and mono sound as H.264 + AAC with reproducible bytes.

    Args:
        path: File to write.
        frames: Pictures at `FPS`.
        sound: float32 in [-1, 1] at `SAMPLE_RATE_HZ`.
    """
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        picture = container.add_stream("libx264", rate=FPS)
        picture.width, picture.height, picture.pix_fmt = SIZE_PX, SIZE_PX, "yuv420p"
        # x264's macroblock tree reads memory that it never wrote: bytes would differ now and then.
        picture.options = {"preset": "veryfast", "crf": "18", "threads": "1", "mbtree": "0"}
        picture.codec_context.flags |= Flags.bitexact
        voice = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
        voice.bit_rate = 64_000
        voice.codec_context.options = {"aac_coder": "fast"}
        voice.codec_context.flags |= Flags.bitexact
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = index
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        for start in range(0, len(sound), _AUDIO_CHUNK):
            chunk = sound[None, start : start + _AUDIO_CHUNK]
            heard = av.AudioFrame.from_ndarray(chunk, format="fltp", layout="mono")
            heard.sample_rate, heard.pts = SAMPLE_RATE_HZ, start
            container.mux(voice.encode(heard))
        container.mux(voice.encode(None))
