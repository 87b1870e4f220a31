"""Train a vision-audio-language model, then search, caption and question audible video.

Public names are imported on first use, so that `import valor` is quick and takes no torch.
Start at `load`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from valor.errors import ValorError

__all__ = ["Library", "Processor", "Valor", "ValorError", "load", "register_auto_classes"]
__version__ = "0.1.0"

_HOMES = {
    "Library": "valor.search.library",
    "Processor": "valor.processing.processor",
    "Valor": "valor.models.valor",
    "load": "valor.inference",
    "register_auto_classes": "valor.checkpoints.hub",
}

if TYPE_CHECKING:
    from valor.checkpoints.hub import register_auto_classes
    from valor.inference import load
    from valor.models.valor import Valor
    from valor.processing.processor import Processor
    from valor.search.library import Library
else:
    # Hidden from type checkers, to which it would make every misspelt name look right.
    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'valor' has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
