"""Strict, frozen configuration: dataclass <-> JSON, change by path, fingerprint.

A component declares its own configuration beside itself with `@configclass`. Reading is strict at
every level: an unknown key, a wrong type or an impossible value raises `ConfigError` with the path
of the field. Runtime objects (device, rank, tokenizer) never go into a configuration.
"""

import dataclasses
import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from typing import Any, ClassVar, TypeAlias, TypeVar, cast, dataclass_transform, get_args

from valor.errors import ConfigError, UsageError

T = TypeVar("T")
Config = TypeVar("Config")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def configclass(cls: type[T]) -> type[T]:
    """Make a frozen, keyword-only, slotted dataclass that is read strictly from JSON."""
    cls.__annotations__ = {
        "__pydantic_config__": ClassVar[dict[str, Any]],
        **inspect.get_annotations(cls),
    }
    cls.__pydantic_config__ = {  # pyright: ignore
        "extra": "forbid",
        "strict": True,
        "allow_inf_nan": False,
    }
    return dataclasses.dataclass(frozen=True, kw_only=True, slots=True)(cls)


Foreign: TypeAlias = Any
"""A configuration class outside the package, among those of a union `ByKind`."""
_FOREIGN = ":"


@dataclasses.dataclass(frozen=True)
class ByKind:
    """Marks a union of configurations that their field `kind` tells apart.

    `Annotated[VitConfig | TowerConfig | Foreign, ByKind()]` takes both by their kinds, and any
    other class whose kind is `package.module:Class`, which is imported. Code is imported only where
    the reader says that it trusts it.
    """

    default: str = ""
    """The kind of values that state none."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Choose the class by kind."""
        from pydantic_core import core_schema

        choices: dict[str, Any] = {
            cls.__dataclass_fields__["kind"].default: handler.generate_schema(cls)
            for cls in get_args(source)
            if cls is not Any
        }
        choices[_FOREIGN] = core_schema.with_info_plain_validator_function(
            _read_foreign, serialization=core_schema.plain_serializer_function_ser_schema(to_dict)
        )
        return core_schema.tagged_union_schema(choices, self._kind)

    def _kind(self, value: Any) -> str:
        kind = _kind_of(value) or self.default
        return _FOREIGN if _FOREIGN in kind else kind


def _kind_of(value: Any) -> str:
    if isinstance(value, dict):
        return str(cast("dict[str, Any]", value).get("kind", ""))
    return getattr(value, "kind", "")


def _read_foreign(value: Any, info: Any) -> Any:
    """Import the class that a kind names, if that is allowed, and read it strictly."""
    kind = _kind_of(value)
    if not info.context:
        raise ValueError(
            f"{kind} is code outside this package, which would be imported; trust it with "
            "--trust-code, in Python with trust_code=True"
        )
    module, _, name = kind.partition(":")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{kind} cannot be imported ({error})") from None
    try:
        return from_dict(cls, value, where=kind, trust_code=True)
    except ConfigError as error:
        raise ValueError(str(error)) from None


@cache
def _adapter(cls: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def to_dict(config: object) -> dict[str, Any]:
    """Return the configuration as plain JSON values."""
    return _adapter(type(config)).dump_python(config, mode="json", warnings=False)


def to_json(config: object) -> str:
    """Return the configuration as indented JSON text."""
    return json.dumps(to_dict(config), indent=2, ensure_ascii=False) + "\n"


def parse_json(text: str | bytes, where: str) -> Any:
    """The value of a JSON text; a `ConfigError` that begins with `where` if it is none."""
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(text)
        # A half of a surrogate pair can be escaped, but neither printed nor made tokens of.
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise ConfigError(f"{where}: not UTF-8 text ({error.reason})") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        message = f"{error.msg} at {line}column {error.colno}"
        raise ConfigError(f"{where}: not JSON ({message})") from None
    except (RecursionError, ValueError):
        raise ConfigError(f"{where}: nested too deeply, or a number of too many digits") from None


def from_dict(
    cls: type[Config],
    values: Mapping[str, Any],
    *,
    where: str = "config",
    trust_code: bool = False,
) -> Config:
    """Read a configuration strictly.

    Args:
        cls: The configuration class.
        values: JSON values, as from `json.loads`.
        where: What the values are, for the error message; usually a file name.
        trust_code: Whether a kind `package.module:Class` may be imported.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: If a key is unknown or missing, a type is wrong or a value is impossible.
    """
    from pydantic import ValidationError

    try:
        text = json.dumps(values, default=_plain)
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply") from None
    try:
        return _adapter(cls).validate_json(text, context=trust_code)
    except ValidationError as error:
        said = error.errors()[0].get("ctx", {}).get("error")
        wrong = f"{where}: {_first_problem(error, values)}"
        raise ConfigError(wrong) from getattr(said, "__cause__", None)


def _plain(value: Any) -> Any:
    """Write what JSON does not know: another configuration, or a group by its label."""
    return to_dict(value) if dataclasses.is_dataclass(value) else value.label


def _first_problem(error: Any, values: Any) -> str:
    """One line for the first of pydantic's problems, with the path of the field."""
    problem = error.errors(include_url=False)[0]
    parts = list[str]()
    inside: Any = values
    for place, part in enumerate(problem["loc"], start=1):
        known = cast("dict[Any, Any]", inside) if isinstance(inside, dict) else {}
        if part == _FOREIGN or (known and part not in known and place < len(problem["loc"])):
            continue  # The kind that was chosen among several, which is no key.
        inside = known.get(part)
        parts.append(str(part))
    path = ".".join(parts)
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{path}: unknown key; remove it or correct its spelling"
    if problem["type"] in ("missing", "missing_argument"):
        return f"{path}: missing key"
    message, semicolon, step = problem["msg"].removeprefix("Value error, ").partition("; ")
    if path:
        given = problem["input"]
        is_told = isinstance(given, dict) or re.search(
            rf"(?<!\w){re.escape(repr(given))}(?!\w)", message
        )
        message = f"{path}: {message}" if is_told else f"{path}: {message}, got {given!r}"
    return f"{message}{semicolon}{step}"


def evolve(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return a copy with the fields at the given dotted paths replaced.

    Args:
        config: Any configuration.
        changes: Values by path, such as `{"model.audio.num_mels": 80}`, also as JSON values.

    Returns:
        The changed configuration, checked again.

    Raises:
        ConfigError: If a new value is impossible.
        UsageError: If a path names no field, or a value no group.
    """
    changed = to_dict(config)
    for path, value in changes.items():
        *parents, name = path.split(".")
        place = changed
        for parent in parents:
            below = place.get(parent)
            place = cast("dict[str, Any]", below) if isinstance(below, dict) else {}
        if name not in place:
            known = ", ".join(place) or "nothing below it"
            raise UsageError(f"unknown key {path!r}; there is {known}")
        place[name] = deepcopy(value)  # A later path may lie below it.
    try:
        return from_dict(type(config), changed, where="config", trust_code=True)
    except ConfigError as error:
        if isinstance(error.__cause__, UsageError):
            raise UsageError(str(error)) from None
        raise


def differences(found: object, wanted: object, *, most: int = 3) -> str:
    """Say in which fields two configurations differ, as `path: one -> other`, a few of them."""
    before, after = by_path(to_dict(found)), by_path(to_dict(wanted))
    changed = [
        f"{path}: {before.get(path, 'nothing')} -> {after.get(path, 'nothing')}"
        for path in {**before, **after}
        if before.get(path) != after.get(path)
    ]
    more = [f"and {len(changed) - most} more"] if len(changed) > most else []
    return ", ".join([*changed[:most], *more])


def by_path(value: Any, path: str = "") -> dict[str, str]:
    """Every value of nested JSON objects, as JSON, by its whole name."""
    if not isinstance(value, dict) or not value:
        return {path: json.dumps(value)}
    below = cast("dict[str, Any]", value)
    paths = {key: f"{path}.{key}" if path else key for key in below}
    return {p: v for key, part in below.items() for p, v in by_path(part, paths[key]).items()}


def fingerprint(config: object) -> str:
    """Return the first 8 hex digits of the SHA-256 of the canonical JSON."""
    canonical = json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]
