"""Sphinx configuration; the pages are MyST Markdown, readable on their own."""

import valor

project = "valor"
author = "The valor authors"
copyright = "2026, The valor authors"
release = valor.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_typehints = "none"  # Shapes stand in the text; jaxtyping's names are no links.
autodoc_member_order = "bysource"
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "valor"
