"""Released TMANet weights: recorded numbers, every key, every kind of wrong input."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import official_parity
from valor.checkpoints.masks import load_mask_model
from valor.checkpoints.official import read_weights
from valor.checkpoints.official_tmanet import load_head, load_tmanet, model_keys
from valor.cli.main import main
from valor.data.sources.masks import CAMVID
from valor.encoders.pyramid import PyramidConfig
from valor.errors import ModelError
from valor.models.temporal_memory import (
    MaskClass,
    MemoryHeadConfig,
    TemporalMemory,
    TemporalMemoryConfig,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "tmanet" / "tmanet_head"
CLASSES = tuple(MaskClass(name=name, colour=(0, 0, 0)) for name in ("road", "sky", "car"))


def parity(folder, monkeypatch):
    words = ["official_parity.py", "--tolerance", "1e-5", str(folder)]
    monkeypatch.setattr("sys.argv", words)
    return official_parity.main()


def test_every_recorded_number_is_reproduced(monkeypatch, capsys):
    assert parity(GOLDEN, monkeypatch) == 0, capsys.readouterr().out
    assert "6 of 6 results equal" in capsys.readouterr().out


def released_model(classes=CLASSES):
    """A small model with the names that a released file has."""
    config = TemporalMemoryConfig(
        backbone=PyramidConfig(
            stem="deep", stem_dim=4, widths=(8, 12, 16, 20), depths=(1, 2, 1, 1)
        ),
        head=MemoryHeadConfig(num_slots=2, key_dim=4, value_dim=6, bottleneck_dim=5),
        auxiliary_dim=7,
        classes=classes,
    )
    model = TemporalMemory(config).eval()
    state = model.state_dict()
    released = {key: state[ours].clone() for ours, key in model_keys(config).items()}
    return model, released


def test_a_whole_release_is_read_with_its_sizes(tmp_path):
    model, released = released_model()
    released["backbone.stem.1.num_batches_tracked"] = torch.tensor(80_000)
    torch.save({"meta": {"iter": 80_000}, "state_dict": released}, tmp_path / "tmanet.pth")
    loaded = load_tmanet(read_weights(tmp_path / "tmanet.pth"), CLASSES, where="file")
    assert loaded.config == model.config
    pixels = torch.randn(1, 3, 3, 32, 32)
    torch.testing.assert_close(loaded(pixels).main, model(pixels).main)


def test_a_release_becomes_a_model_folder(tmp_path, capsys):
    """Twelve classes are CamVid's."""
    model, released = released_model(
        tuple(MaskClass(name=name, colour=colour) for name, colour in CAMVID.items())
    )
    torch.save({"state_dict": released}, tmp_path / "tmanet.pth")
    assert main(["convert", str(tmp_path / "tmanet.pth"), str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == 12
    loaded = load_mask_model(tmp_path / "out").model
    assert loaded.config == model.config
    pixels = torch.randn(1, 3, 3, 32, 32)
    torch.testing.assert_close(loaded(pixels).main, model(pixels).main)
    assert main(["convert", str(tmp_path / "none.pth"), str(tmp_path / "none")]) == 1


def test_released_keys_are_those_of_mmsegmentation():
    _, released = released_model()
    assert {
        "backbone.stem.0.weight",
        "backbone.stem.7.running_mean",
        "backbone.layer1.0.downsample.0.weight",
        "backbone.layer2.1.conv2.weight",
        "backbone.layer4.0.bn3.running_var",
        "decode_head.memory_key_conv.1.0.conv.weight",
        "decode_head.conv_seg.bias",
        "auxiliary_head.convs.0.bn.weight",
        "auxiliary_head.conv_seg.weight",
    } <= released.keys()


def test_what_does_not_fit_is_told():
    _, released = released_model()
    extra = {**released, "neck.weight": torch.zeros(1)}
    with pytest.raises(ModelError, match=r"left over \['neck.weight'\]"):
        load_tmanet(extra, CLASSES, where="file")
    with pytest.raises(ModelError, match="decides 3 classes, but 2 were named"):
        load_tmanet(released, CLASSES[:2], where="file")
    head = load_file(GOLDEN / "official_state_dict.safetensors")
    del head["query_value_conv.1.bn.running_mean"]
    with pytest.raises(ModelError, match=r"missing \['query_value_conv.1.bn.running_mean'\]"):
        load_head(head, where="file")
