"""Every key of a configuration says what it means."""

import runpy
from pathlib import Path

GENERATOR = runpy.run_path(str(Path(__file__).parents[2] / "docs/generate.py"))


def test_every_key_has_a_meaning():
    meanings = {
        f"{node.name}.{name}": meaning
        for _, node in GENERATOR["configurations"]()
        for name, _, _, meaning in GENERATOR["fields"](node)
        if name != "kind"
    }
    assert len(meanings) > 250
    assert [name for name, meaning in meanings.items() if not meaning] == []
