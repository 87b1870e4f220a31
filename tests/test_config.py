"""Laws of configuration."""

import json

import pytest

from valor.config import evolve, fingerprint, from_dict, to_dict, to_json
from valor.data.loader import ReadingConfig
from valor.errors import ConfigError, UsageError
from valor.recipes import RECIPES, find_recipe
from valor.training.run import TrainConfig
from valor.types import AUDIOVISUAL, MEDIA_GROUPS, Modality


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - {"finetune"}))  # It needs a model.
def test_every_recipe_survives_writing_and_reading(name):
    config = find_recipe(name)
    assert from_dict(type(config), json.loads(to_json(config))) == config
    assert len(RECIPES) >= 2


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("model.audio.num_mel", 80, "model.audio.num_mel: unknown key"),
        ("model.audio.num_mels", "80", "model.audio.num_mels"),
        ("model.audio.num_mels", 63, "num_mels=63"),
        ("batch_size", 7.5, "batch_size"),
        ("num_steps", 0, "at least 1"),
        ("precision", "float8", "precision"),
        ("objectives.alignment.groups", ["smell"], "unknown group 'smell'"),
    ],
)
def test_wrong_values_are_named_with_their_path(path, value, problem):
    values = to_dict(TrainConfig())
    place = values
    *parents, name = path.split(".")
    for parent in parents:
        place = place[parent]
    place[name] = value
    with pytest.raises(ConfigError) as error:
        from_dict(TrainConfig, values)
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("optim.average", 2, "and average=2.0 in [0, 1)"),
        ("optim.average", "x", "optim.average: Input should be a valid number, got 'x'"),
        ("reading.max_bad_fraction", 3, "reading: max_bad_fraction=3.0 "),
    ],
)
def test_a_wrong_value_is_told_once_and_alone(path, value, told):
    values = to_dict(TrainConfig(reading=ReadingConfig()))
    section, _, name = path.partition(".")
    values[section][name] = value
    with pytest.raises(ConfigError) as error:
        from_dict(TrainConfig, values)
    assert told in str(error.value)
    assert "{" not in str(error.value)


def test_changes_by_path_are_checked():
    config = evolve(TrainConfig(), {"model.embed_dim": 24, "batch_size": 8})
    assert to_dict(config)["model"]["embed_dim"] == 24
    assert config.batch_size == 8
    groups = {"objectives.alignment.groups": ["vision", "audiovisual"]}
    changed = evolve(config, groups).objectives.alignment
    assert changed is not None
    assert changed.groups == (Modality.VISION, AUDIOVISUAL)
    assert evolve(config, {"objectives.alignment.groups": MEDIA_GROUPS}) == config
    text = to_dict(config.model)["text"]
    evolve(config, {"model.text": text, "model.text.num_layers": 5})
    assert text == to_dict(config.model)["text"]
    with pytest.raises(UsageError, match=r"unknown key 'model\.audio\.num_layer'"):
        evolve(config, {"model.audio.num_layer": 2})
    with pytest.raises(UsageError, match="nothing below it"):
        evolve(config, {"batch_size.deeper": 2})
    with pytest.raises(ConfigError, match="batch_size"):
        evolve(config, {"batch_size": "many"})
    with pytest.raises(UsageError, match=r"groups\.0: unknown group 'smell'; use vision"):
        evolve(config, {"objectives.alignment.groups": ["smell"]})


def test_the_fingerprint_changes_with_any_value():
    config = TrainConfig()
    assert fingerprint(config) == fingerprint(TrainConfig())
    assert fingerprint(evolve(config, {"model.text.norm_eps": 1e-6})) != fingerprint(config)


@pytest.mark.parametrize("group", [*MEDIA_GROUPS, Modality.AUDIO | Modality.TEXT])
def test_groups_are_written_and_read_by_their_label(group):
    assert Modality.parse(group.label) == group
