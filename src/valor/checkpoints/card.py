"""The card of a trained model, and the licences of the weights that it began with."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from valor.encoders.towers import TowerConfig

_OWN = "mit"
"""Of weights that began with nobody else's."""
_HUB_KNOWS = (
    "apache-2.0",
    "bsd-3-clause",
    "cc-by-4.0",
    "cc-by-nc-4.0",
    "cc-by-sa-4.0",
    "mit",
    "other",
    "unknown",
)
"""Licences that the hub takes by these names; others are named beside `other`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Weights of others that a part of a model began with."""

    part: str
    source: str
    licence: str
    """As the source's card states it; `unknown` where it states none."""


def tower_origins(config: object) -> list[Origin]:
    """Where the public towers of a model's configuration came from."""
    towers = {name: getattr(config, name) for name in getattr(config, "__dataclass_fields__", ())}
    return [
        Origin(part=name.replace("_", " "), source=tower.source, licence=tower.licence)
        for name, tower in towers.items()
        if isinstance(tower, TowerConfig) and tower.source
    ]


def folder_origin(folder: Path) -> Origin:
    """A model folder that a whole model began with, by the title and licence of its card."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    named = re.search(r"^license_name: *(\S+)", text, re.MULTILINE)
    stated = named or re.search(r"^license: *(\S+)", text, re.MULTILINE)
    return Origin(
        part="all",
        source=title[1] if title else folder.name,
        licence=stated[1] if stated else "unknown",
    )


def card(title: str, text: str, origins: Sequence[Origin]) -> str:
    """Write a card.

    Args:
        title: Of the model.
        text: What it was trained on.
        origins: Of the weights that it began with. Where they are all under one licence, the model
            is too; where they are not, the card says `other` and lists them.

    Returns:
        The content of a model folder's `README.md`.
    """
    licences = sorted({origin.licence for origin in origins}) or [_OWN]
    licence = licences[0] if len(licences) == 1 else "several"
    known = licence in _HUB_KNOWS
    stated = f"license: {licence}" if known else f"license: other\nlicense_name: {licence}"
    body = f"# {title}\n\n{text}\n"
    if origins:
        rows = "".join(f"| {o.part} | {o.source} | {o.licence} |\n" for o in origins)
        body += (
            "\n## Initial weights\n\nIt began with weights of others, whose licences hold for it "
            f"too:\n\n| Part | From | Licence |\n|--|--|--|\n{rows}"
        )
    head = f"library_name: valor\n{stated}\npipeline_tag: feature-extraction"
    return f"---\n{head}\n---\n{body}"
