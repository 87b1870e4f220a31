"""Ablations run once, go on, and claim no more than the spread over seeds allows."""

import json

import pytest

from tests.tiny import small_run
from valor.config import evolve
from valor.data.world.render import World
from valor.errors import ConfigError, UsageError
from valor.recipes.ablations import STUDIES, Ablation, Claim, verdict

CLAIM = Claim(text="a beats b", metric="r1", better="a", worse="b")


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_every_variant_is_a_run_and_every_claim_names_two_of_them(study):
    configs = [evolve(small_run(), dict(changes)) for changes in study.variants.values()]
    assert len(set(map(repr, configs))) == len(configs)
    assert study.variants["all"] == {}
    for claim in study.claims:
        assert {claim.better, claim.worse} <= study.variants.keys()
        assert claim.metric in study.metrics


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0.5, 0.6, 0.7), (0.1, 0.2, 0.3), "agrees"),
        ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), "does not agree"),
        ((0.5, 0.6, 0.7), (0.4, 0.5, 0.6), "not decided"),
    ],
)
def test_a_difference_within_the_spread_decides_nothing(a, b, expected):
    results = {"a": [{"r1": value} for value in a], "b": [{"r1": value} for value in b]}
    assert verdict(CLAIM, results) == expected


def test_a_study_runs_once_and_writes_its_table(tmp_path):
    ablation = Ablation(
        out=tmp_path,
        study="audio",
        base=evolve(small_run(), {"num_steps": 2, "objectives.answering": None}),
        seeds=[0],
        world=World(num=8, num_val=0, num_test=4, seed=0, level="duet"),
    )
    table = ablation.run()
    results = sorted(tmp_path.glob("runs/*/result.json"))
    assert [path.parent.name for path in results] == ["all-0", "no-sound-0"]
    assert (tmp_path / "audio.md").read_text() == table
    assert "sound helps to find" in table
    assert json.loads((tmp_path / "audio.json").read_text()).keys() == {"all", "no sound"}
    before = [path.stat().st_mtime_ns for path in results]
    assert ablation.run() == table
    assert [path.stat().st_mtime_ns for path in results] == before
    ablation.base = evolve(ablation.base, {"num_steps": 3})
    with pytest.raises(ConfigError, match="num_steps: 2 -> 3"):
        ablation.run()


def test_an_unknown_study_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="grouping"):
        Ablation(out=tmp_path, study="colour").run()
