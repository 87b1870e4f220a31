"""Every error that a user can meet.

A message carries the value, the limit and the next step, in one line. Anything that is not a
`ValorError` is a bug of ours. The command line turns a `ValorError` into exit code 1, and a
`UsageError` into exit code 2.
"""


class ValorError(Exception):
    """Base of all errors that are the input's fault, not the program's."""

    def __str__(self) -> str:
        """One line that can be shown, whatever a file or a field is called."""
        return "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode()
            for char in super().__str__()
        )


class UsageError(ValorError):
    """An unknown verb, recipe, key or group: what was asked for does not exist."""


class ConfigError(ValorError):
    """A configuration with an unknown key, a wrong type or an impossible value."""


class MediaError(ValorError):
    """A file that cannot be read as audible video.

    Args:
        path: The file.
        reason: A short stable word that reports count by, such as `unreadable` or `empty`.
        detail: What exactly is wrong, and what to do about it.
    """

    def __init__(self, path: str, reason: str, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        """Keep all three parts when the error crosses a process boundary."""
        return type(self), (self.path, self.reason, self.detail)


class ManifestError(ValorError):
    """A manifest line that breaks the format; names file, line, field and what was expected."""


class ModelError(ValorError):
    """A model that is missing, incomplete, inconsistent, or cannot do what is asked of it."""


class TrainingError(ValorError):
    """A run that cannot go on; its last state is whole."""


class LibraryError(ValorError):
    """A search library that is missing, damaged or built with another model."""


class AnnotationError(ValorError):
    """An annotator's action that is not theirs to take now, or a store that cannot be used."""


class DependencyError(ValorError):
    """A package of an optional extra that is not installed; the message names the extra."""
