"""Recipes from files: the config.json of a run, or TOML or JSON with any fields of a recipe."""

import tomllib
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from regen.io import parse_json

R = TypeVar("R")
RUN_KEYS = frozenset(
    {"recipe", "version", "class", "files", "files_fingerprint", "latents", "text_fingerprint", "fingerprint"}
)
"""What a run stores besides the fields of its recipe."""


def read_config(path: Path) -> dict[str, Any]:
    """The content of a .json or .toml file. Raises ValueError when it is missing or can't be parsed."""
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.suffix.lower() == ".toml" else parse_json(text)
    except (OSError, ValueError, RecursionError) as error:  # tomllib has no limit of depth
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"--config must be a .json or .toml file; {path} can't be read: {reason}.") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold the fields of a recipe, got {type(values).__name__}.")
    return values


def configured(recipe: R, values: dict[str, Any], path: Path) -> R:
    """`recipe` with the fields that `values`, read from `path`, has; nested ones one by one.

    Raises ValueError for unknown names and for values of another type.
    """
    own = {name: value for name, value in values.items() if name not in RUN_KEYS}
    return _filled(type(recipe), own, recipe, f"{path}: ")


def _filled(kind: type[R], values: dict[str, Any], default: R | None, where: str) -> R:
    """A dataclass of this kind: `default` (or new) with `values`."""
    values = {name.replace("-", "_"): value for name, value in values.items()}
    hints, known = get_type_hints(kind), {field.name for field in fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            near = get_close_matches(name, known, n=2) or sorted(known)
            raise ValueError(f"{where}{name} is no field here; the nearest are {', '.join(near)}.")
    now = {
        name: _converted(hints[name], value, getattr(default, name, None), f"{where}{name}")
        for name, value in values.items()
    }
    if default is not None:
        return replace(default, **now)  # type: ignore[type-var]
    try:
        return kind(**now)
    except TypeError as error:
        raise ValueError(f"{where.removesuffix('.')} is incomplete: {error}.") from None


def _converted(hint: Any, value: Any, default: Any, where: str) -> Any:
    """`value` of JSON or TOML as the type `hint`."""
    hint = type(default) if isinstance(hint, TypeVar) else hint
    origin, kinds = get_origin(hint), get_args(hint)
    if is_dataclass(hint) and isinstance(value, dict):
        assert isinstance(hint, type)
        return _filled(hint, value, default if isinstance(default, hint) else None, f"{where}.")
    if origin in (Union, UnionType):
        for kind in kinds:
            try:
                return _converted(kind, value, default, where)
            except ValueError:
                if is_dataclass(kind) and isinstance(value, dict):
                    raise
    elif origin is tuple and isinstance(value, list | tuple):
        items = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        if len(items) == len(value):
            places = [f"{where}.{index}" for index in range(len(value))]
            return tuple(map(_converted, items, value, [None] * len(value), places))
    elif origin is Literal:
        if value in kinds:
            return value
    elif hint is Any or (hint in (None, NoneType) and value is None) or origin is dict:
        return value
    elif hint is float and type(value) is int:
        return value  # as it was written, so that the fingerprint stays
    elif isinstance(hint, type) and type(value) is hint:
        return value
    raise ValueError(f"{where} must be {getattr(hint, '__name__', hint)}, got {value!r}.")
