"""The demo's model must learn the rendered world, not only run."""

import pytest

from valor.recipes.demo import demo


@pytest.mark.slow
def test_the_tiny_recipe_learns_every_group_of_the_world(tmp_path):
    report = demo(tmp_path / "demo")
    r1 = {}
    for group, figures in report["retrieval"].items():
        r1[group] = figures["text_to_media"]["r1"]
        assert r1[group] >= 0.8 * figures["oracle_r1"], group
    assert r1["audiovisual"] >= max(r1["vision"], r1["audio"]) + 0.2
    told = report["by_caption"]
    for single in ("vision", "audio"):
        assert told[single]["audiovisual"] >= told[single][single] - 0.02
    slots = report["captioning"]["audiovisual"]["slot_accuracy"]
    for slot in ("colour", "shape", "motion", "timbre", "rhythm", "pitch"):
        assert slots[slot] >= 0.9, slot
    needs_both = {
        group: figures["by_need"]["both"]["accuracy"] - figures["prior"]["both"]
        for group, figures in report["answering"].items()
    }
    assert report["answering"]["audiovisual"]["by_need"]["both"]["accuracy"] >= 0.8
    assert max(needs_both["vision"], needs_both["audio"]) <= 0.1
