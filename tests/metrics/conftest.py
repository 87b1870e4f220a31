"""The folder of published predictions and scores, which is not part of the repository."""

import os
from pathlib import Path

import pytest

DEFAULT = Path(__file__).parents[2].parent / "shared" / "annotations"


@pytest.fixture
def annotations() -> Path:
    folder = Path(os.environ.get("VALOR_TEST_ANNOTATIONS", DEFAULT))
    if not folder.is_dir():
        pytest.skip(f"no reference scores at {folder}; set VALOR_TEST_ANNOTATIONS")
    return folder
