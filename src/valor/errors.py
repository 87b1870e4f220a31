"""Every error that a user can meet.

A message carries the value, the limit and, after a semicolon, the next step, in one line; outside
of parentheses a semicolon stands for nothing else. Anything that is not a `ValorError` is a bug of
ours. The command line turns a `ValorError` into exit code 1, and a `UsageError` into exit code 2;
to a message without a next step it adds that of the class.
"""

from typing import ClassVar


class ValorError(Exception):
    """Base of all errors that are the input's fault, not the program's."""

    next_step: ClassVar[str] = "correct what it names and run the same command again"
    """What helps against most errors of the class."""

    def __str__(self) -> str:
        """One line that can be shown, whatever a file or a field is called."""
        return "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode()
            for char in super().__str__()
        )


class UsageError(ValorError):
    """An unknown verb, recipe, key or group: what was asked for does not exist."""

    next_step = "`valor --help` lists the verbs, `valor VERB --help` what each takes"


class ConfigError(ValorError):
    """A configuration with an unknown key, a wrong type or an impossible value."""

    next_step = "correct that value, or leave it out for its default"


class MediaError(ValorError):
    """A file that cannot be read as audible video.

    Args:
        path: The file.
        reason: A short stable word that reports count by, one of `REASONS`.
        detail: What exactly is wrong, and what to do about it.

    Raises:
        ValueError: If the reason is none of these.
    """

    next_step = "leave the file out, or encode it anew as H.264 and AAC"
    REASONS: ClassVar[dict[str, str]] = {
        "missing": "there is no such file or object",
        "unreadable": "it is not of an accepted format, or may not be opened",
        "empty": "it holds no media",
        "truncated": "it ends before what it says that it holds",
        "undecodable": "it holds media that cannot be decoded",
        "outside": "the stretch that was asked for is not in it",
        "no-video": "it has no picture, and one is needed",
        "no-audio": "it has no sound, and one is needed",
        "missing_modality": "the segment to search by lacks what is searched by",
        "nothing_usable": "it has nothing that the model was to look at",
        "size": "pictures that belong together are of different sizes",
        "too_large": "it has more pixels than are accepted",
        "too_long": "it lasts longer than is accepted",
        "too_slow": "it takes longer to read than is allowed",
        "crashed": "the process that read it died",
        "failed": "reading it failed in a way that was not foreseen",
    }
    """Every reason, and what it means."""

    def __init__(self, path: str, reason: str, detail: str) -> None:
        if reason not in self.REASONS:
            raise ValueError(f"reason={reason!r}, wanted one of {', '.join(self.REASONS)}")
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        """Keep all three parts when the error crosses a process boundary."""
        return type(self), (self.path, self.reason, self.detail)


class ManifestError(ValorError):
    """A manifest line that breaks the format; names file, line, field and what was expected."""

    next_step = "correct it; `valor data validate MANIFEST` checks every line"


class ModelError(ValorError):
    """A model that is missing, incomplete, inconsistent, or cannot do what is asked of it."""

    next_step = (
        "name a folder that `valor train` or `valor convert` wrote, a public model, or tiny-world"
    )


class TrainingError(ValorError):
    """A run that cannot go on; its last state is whole."""

    next_step = "correct what it names; the same command goes on from the last state"


class LibraryError(ValorError):
    """A search library that is missing, damaged or built with another model."""

    next_step = "`valor index LIBRARY FOLDER --rebuild` makes it anew; the media stay"


class AnnotationError(ValorError):
    """An annotator's action that is not theirs to take now, or a store that cannot be used."""

    next_step = "load the page again and take the next caption"


class DependencyError(ValorError):
    """A package of an optional extra that is not installed; the message names the extra."""

    next_step = "`valor doctor` shows each extra with the command that adds it"
