"""Sphinx configuration; the pages are MyST Markdown, readable on their own."""

from typing import Any

import valor

project = "valor"
author = "The valor authors"
copyright = "2026, The valor authors"
release = valor.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_typehints = "signature"  # Shapes stand beside their names.
python_maximum_signature_line_length = 80  # Of a longer one, each argument has a line.
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "valor"


def whole_sentence(app: Any, what: str, name: str, value: Any, options: Any, lines: Any) -> None:
    """Of an attribute, napoleon takes a first line up to a colon for its type; so end it early."""
    if lines and what in ("attribute", "data", "property"):
        lines[:1] = lines[0].split(" ", 1)


def setup(app: Any) -> None:
    """Come before napoleon, which has priority 500."""
    app.connect("autodoc-process-docstring", whole_sentence, priority=400)
