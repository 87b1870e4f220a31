"""What every test gets: no network, fixed random numbers, and no GPU tests without a GPU."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.docs.blocks import RUN, count_run
from tests.tiny import save_towers, small_run
from valor.data.manifest import read_manifest
from valor.data.world.render import World, render_world
from valor.training.run import run

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many blocks of the documentation were run, whichever process ran them."""
    passed = terminalreporter.stats.get("passed", [])
    if any(name == RUN for report in passed for name, _ in report.user_properties):
        terminalreporter.write_line(count_run(passed))


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """The same random numbers whatever ran before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small rendered world."""
    folder = tmp_path_factory.mktemp("rendered") / "world"
    render_world(folder, World(num=12, num_val=2, num_test=8, seed=0, level="duet"), workers=1)
    return folder


@pytest.fixture(scope="session")
def model_folder(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as training leaves it, after a few steps."""
    records = read_manifest(world, split="train")
    return run(small_run(), records, tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="session")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny pretrained towers: `vision`, `audio` and `text`."""
    folder = tmp_path_factory.mktemp("towers")
    save_towers(folder)
    return folder
