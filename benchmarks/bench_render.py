"""The rendered world: videos per second with 1 and 2 workers, against encoding alone.

The limit, a share of 1, is what H.264 and AAC encoding take without any drawing and sounding.
"""

import argparse
import tempfile
import time
from pathlib import Path

from valor.data.world.drawing import draw
from valor.data.world.render import World, render_scene, render_world, write_mp4
from valor.data.world.scene import draw_scene
from valor.data.world.sound import mixture
from valor.evaluation.provenance import finish


def per_second(num: int, workers: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        world = World(num=num, num_val=0, num_test=0, seed=0, level="duet")
        start = time.perf_counter()
        render_world(Path(folder) / "world", world, workers=workers)
        return num / (time.perf_counter() - start)


def share_of_encoding(num: int) -> float:
    scenes = [draw_scene(0, "train", index, "duet") for index in range(num)]
    with tempfile.TemporaryDirectory() as folder:
        ready = [(draw(scene).frames, mixture(scene)) for scene in scenes]
        start = time.perf_counter()
        for frames, sound in ready:
            write_mp4(Path(folder) / "bare.mp4", frames, sound)
        bare = time.perf_counter() - start
        start = time.perf_counter()
        for scene in scenes:
            render_scene(scene, folder=Path(folder), seed=0)
        return bare / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    num = 200 if arguments.quick else 1000
    one, two = per_second(num, 1), per_second(num, 2)
    figures = {
        "speedup_of_two_workers": round(two / one, 2),
        "share_of_time_encoding": round(share_of_encoding(num // 5), 2),
        "videos_per_s_one_worker": round(one, 1),
        "videos_per_s_two_workers": round(two, 1),
    }
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()
