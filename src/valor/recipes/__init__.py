"""Complete runs as functions that return a `TrainConfig`."""

import importlib
from collections.abc import Callable
from typing import Any

from valor.errors import UsageError
from valor.training.loop import TrainConfig

RECIPES = {
    "tiny": "valor.recipes.tiny:tiny",
    "tiny_quick": "valor.recipes.tiny:tiny_quick",
    "bridge_captions": "valor.recipes.bridge:bridge_captions",
    "bridge_instructions": "valor.recipes.bridge:bridge_instructions",
}


def find_recipe(name: str) -> TrainConfig:
    """Return a recipe's configuration.

    Args:
        name: One of `RECIPES`, or `package.module:function` of your own.

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
        config = function()
    except (ValueError, TypeError) as error:
        raise UsageError(f"no recipe {name!r}: {error}") from None
    if not isinstance(config, TrainConfig):
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
        raise UsageError(f"no function {name!r}: {error}") from None
