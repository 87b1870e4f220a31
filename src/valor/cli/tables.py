"""Numbers as lines to be read."""

from collections.abc import Mapping
from typing import Any


def table(values: Mapping[str, Any]) -> str:
    """Name and value, a line each; a dictionary's own names stand in its line."""
    lines: list[str] = []
    width = max(24, *(len(name) + 2 for name in values))
    for name, value in values.items():
        shown = f"{value:.4f}" if isinstance(value, float) else "-" if value is None else str(value)
        if isinstance(value, dict):
            shown = ", ".join(f"{key} {number}" for key, number in value.items()) or "-"
        lines.append(f"{name:<{width}}{shown}")
    return "\n".join(lines)
