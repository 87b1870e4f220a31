"""A mask model from recipe to files: training, its folder, the verb."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.tiny import tiny_memory_config
from valor.checkpoints.folder import load_model
from valor.checkpoints.masks import load_mask_model
from valor.cli.main import main
from valor.config import evolve
from valor.data.manifest import read_manifest
from valor.errors import ManifestError, ModelError
from valor.media.probe import probe
from valor.recipes.tmanet import tmanet_world


class StopError(Exception):
    """Stands for a kill."""


def short_run():
    changes = {"num_steps": 4, "save_every": 2, "batch_size": 3}
    sizes = tiny_memory_config()
    config = evolve(tmanet_world(), {"model.backbone": sizes.backbone, "model.head": sizes.head})
    return evolve(config, {**changes, "sequence.short_side_px": 24})


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("masks") / "run"
    return short_run().run(read_manifest(world, split="train"), out)


@pytest.mark.media
def test_a_resumed_run_equals_an_uninterrupted_one(world, folder, tmp_path):
    """Also in what its batch norms have counted."""

    def report(stage, done, total, *, note=""):
        if stage == "train" and done == 3:
            raise StopError

    records = read_manifest(world, split="train")
    with pytest.raises(StopError):
        short_run().run(records, tmp_path / "cut", report=report)
    resumed = load_file(short_run().run(records, tmp_path / "cut") / "model.safetensors")
    whole = load_file(folder / "model.safetensors")
    assert any(name.endswith("running_var") for name in whole)
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


@pytest.mark.media
def test_masks_and_an_overlay_are_written(world, folder, tmp_path, capsys):
    file, out = world / "media/test-000000.mp4", tmp_path / "out"
    words = ["masks", str(folder), str(file), "--out", str(out), "--fps", "4", "--json"]
    assert main(words) == 0
    row = json.loads(capsys.readouterr().out)
    masks = [np.asarray(Image.open(path)) for path in sorted((out / "masks").glob("*.png"))]
    assert len(masks) == row["frames"] == 16
    assert {mask.shape for mask in masks} == {(24, 24)}
    model = load_mask_model(folder)
    for mask, found in zip(masks, model.masks(file, fps=4), strict=True):
        assert np.array_equal(mask, found.labels)
    classes = np.unique(masks).tolist()
    assert row["seen"] == [model.model.config.classes[label].name for label in classes]
    info = probe(out / "overlay.mp4")
    assert info.duration_s == pytest.approx(4.0, abs=0.1)
    assert info.width and info.height and info.width > info.height >= 240
    assert main(words) == 0, "masks may be written again"


@pytest.mark.media
def test_a_file_without_picture_leaves_nothing(folder, tmp_path, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    assert main(["masks", str(folder), str(tmp_path / "broken.mp4")]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["broken.mp4"]
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.media
def test_models_of_other_kinds_are_told_apart(folder, model_folder, tmp_path):
    with pytest.raises(ModelError, match="name the folder of a TMANet"):
        load_mask_model(model_folder)
    with pytest.raises(ModelError, match="temporal_memory"):
        load_model(folder)
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"preprocessor_config\.json is missing"):
        load_mask_model(broken)


@pytest.mark.media
def test_records_without_truth_are_refused(world, tmp_path):
    shutil.copytree(world / "media", tmp_path / "media")
    shutil.copy(world / "manifest.jsonl", tmp_path)
    with pytest.raises(ManifestError, match=r"no truth\.jsonl"):
        short_run().run(read_manifest(tmp_path, split="train"), tmp_path / "run")
