"""Complete runs as functions that return a `TrainConfig`."""

import importlib

from valor.errors import UsageError
from valor.training.loop import TrainConfig

RECIPES = ("tiny", "tiny_quick")


def find_recipe(name: str) -> TrainConfig:
    """Return a recipe's configuration.

    Args:
        name: One of `RECIPES`, or `package.module:function` of your own.

    Returns:
        What the function returns.

    Raises:
        UsageError: If there is no such recipe.
    """
    module, _, function = name.partition(":")
    if not function:
        if name not in RECIPES:
            known = ", ".join(RECIPES)
            raise UsageError(
                f"unknown recipe {name!r}; there is {known}, or package.module:function"
            )
        module, function = "valor.recipes.tiny", name
    try:
        config = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UsageError(f"no recipe {name!r}: {error}") from None
    if not isinstance(config, TrainConfig):
        raise UsageError(f"no recipe {name!r}: it returns {type(config).__name__}")
    return config
