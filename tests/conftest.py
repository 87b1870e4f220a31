"""What every test gets: no network, fixed random numbers, and no GPU tests without a GPU."""

import os
import random

import numpy as np
import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """The same random numbers whatever ran before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
