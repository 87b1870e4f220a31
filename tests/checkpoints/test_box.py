"""Laws of the models that come with the package."""

import pytest
import torch

from valor.checkpoints import box as box_module
from valor.checkpoints.box import MAX_BYTES, TINY_WORLD, box, find_boxed
from valor.checkpoints.folder import load_model
from valor.inference import load

REPORT = {
    "data": {"n": 8},
    "retrieval": {"vision": {"text_to_media": {"r1": 0.25}, "oracle_r1": 0.5}},
}


def test_a_boxed_model_is_the_same_up_to_half_precision(model_folder, tmp_path):
    folder = box(model_folder, REPORT, out=tmp_path / TINY_WORLD)
    mine = dict(load_model(model_folder)[0].named_parameters())
    boxed = dict(load_model(folder)[0].named_parameters())
    assert mine.keys() == boxed.keys()
    for name, weight in mine.items():
        torch.testing.assert_close(boxed[name], weight.half().float(), rtol=0, atol=0)
    card = (folder / "README.md").read_text()
    assert "| vision | 0.250 | 0.500 |" in card
    assert "nothing of real videos" in card


def test_too_large_a_model_is_refused(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(box_module, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="exceed 1000"):
        box(model_folder, REPORT, out=tmp_path / TINY_WORLD)
    assert not (tmp_path / TINY_WORLD).exists()


def test_only_names_in_the_package_are_found(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(box_module, "_BOX", tmp_path)
    assert find_boxed(TINY_WORLD) is None
    box(model_folder, REPORT, out=tmp_path / TINY_WORLD)
    assert find_boxed(TINY_WORLD) == tmp_path / TINY_WORLD
    assert load(TINY_WORLD).fingerprint
    assert find_boxed("../box/tiny-world") is None


def test_the_model_in_the_package_is_small_and_loads():
    folder = find_boxed(TINY_WORLD)
    assert folder is not None
    assert sum(path.stat().st_size for path in folder.iterdir()) <= MAX_BYTES
    assert load(TINY_WORLD).fingerprint == load(folder).fingerprint
