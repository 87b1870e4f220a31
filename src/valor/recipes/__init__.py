"""Complete runs as functions that return a configuration that can `run`, such as `TrainConfig`."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from valor.data.manifest import Record
from valor.data.reading import Source
from valor.errors import UsageError
from valor.training.monitor import Report

RECIPES = {
    "tiny": "valor.recipes.tiny:tiny",
    "tiny_quick": "valor.recipes.tiny:tiny_quick",
    "bridge_encoders": "valor.recipes.bridge:bridge_encoders",
    "small": "valor.recipes.paper:small",
    "valor_base": "valor.recipes.paper:valor_base",
    "valor_large": "valor.recipes.paper:valor_large",
    "from_siglip2_clap": "valor.recipes.paper:from_siglip2_clap",
    "finetune": "valor.recipes.finetune:finetune",
    "bridge_captions": "valor.recipes.bridge:bridge_captions",
    "bridge_instructions": "valor.recipes.bridge:bridge_instructions",
    "tmanet_world": "valor.recipes.tmanet:tmanet_world",
    "tmanet_world_quick": "valor.recipes.tmanet:tmanet_world_quick",
}


@runtime_checkable
class Recipe(Protocol):
    """A complete run: model, preprocessing, objectives, schedule."""

    def run(
        self, records: Sequence[Record], out: Path, *, source: Source | None, report: Report
    ) -> Path:
        """Train on the records, or go on with a run that was stopped; returns the model folder.

        A source holds the records' samples row for row; None for their media files.
        """
        ...


def find_recipe(name: str, **options: str | bool) -> Recipe:
    """Return a recipe's configuration.

    Args:
        name: One of `RECIPES`, or `package.module:function` of your own.
        **options: What the function takes, such as the protocol of `finetune`.

    Returns:
        What the function returns.

    Raises:
        UsageError: If there is no such recipe.
    """
    if ":" not in name and name not in RECIPES:
        known = ", ".join(RECIPES)
        raise UsageError(f"unknown recipe {name!r}; there is {known}, or package.module:function")
    function = find_function(RECIPES.get(name, name))
    try:
        config = function(**options)
    except (ValueError, TypeError) as error:
        raise UsageError(f"no recipe {name!r}: {error}") from None
    if not isinstance(config, Recipe):
        raise UsageError(f"no recipe {name!r}: it returns {type(config).__name__}")
    return config


def find_function(name: str) -> Callable[..., Any]:
    """Import a function that is written `package.module:function`.

    Args:
        name: As on the command line.

    Returns:
        The function.

    Raises:
        UsageError: If there is none.
    """
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"no function {name!r} ({error}); `python -m valor` looks in this folder too"
        ) from None
