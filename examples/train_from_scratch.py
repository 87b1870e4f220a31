"""Train a model from nothing on a rendered world, then ask it about a video that it never saw.

    python examples/train_from_scratch.py OUT [VIDEOS] [STEPS]

With the defaults this takes ten minutes on two cores; stopped, it goes on where it was.
"""

import sys
from pathlib import Path

import valor
from valor.config import evolve
from valor.data.manifest import read_manifest
from valor.data.world.render import World, render_world
from valor.recipes.tiny import tiny


def main(out: str, videos: str = "6000", steps: str = "1150") -> str:
    """Render, train, and return what the model says of the first test video."""
    folder = Path(out)
    world = World(num=int(videos), num_val=0, num_test=8, seed=0, level="duet")
    render_world(folder / "world", world)
    config = evolve(tiny(), {"num_steps": int(steps)})
    model = valor.load(config.run(read_manifest(folder / "world", split="train"), folder / "run"))
    video = read_manifest(folder / "world", split="test")[0]
    caption = model.caption(video.media)
    print(f"{video.media}\n  says: {caption.text} (from {caption.modalities_used.label})")
    print(f"  true: {video.captions[0].text}")
    return caption.text


if __name__ == "__main__":
    main(*sys.argv[1:])
