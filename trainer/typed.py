"""Dataclasses from and to plain values: JSON, and KEY=VALUE on a command line. Types are checked, so that what a file
holds fails where it is read."""

from __future__ import annotations

import copy
import dataclasses
import functools
import types
import typing
from typing import Any, Literal, TypeVar

from trainer.errors import UserError

T = TypeVar("T")


def later(default: T) -> T:
    """A dataclass field that came after files had been written: `to_dict` leaves it out at its default, so that files
    of today and of before are alike."""
    return dataclasses.field(default=default, metadata={"later": True})  # type: ignore[return-value]


def later_dict() -> dict[str, Any]:
    """The same of a dict that is empty by default."""
    return dataclasses.field(default_factory=dict, metadata={"later": True})


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values."""
    values = dict[str, Any]()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.metadata.get("later") and value in (field.default, {}):
            continue
        values[field.name] = _plain(value)
    return values


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else copy.deepcopy(value)


def from_dict(kind: type[T], values: dict[str, Any]) -> T:
    """The dataclass `kind` from plain JSON values. UserError for unknown and missing fields and for values of another
    type; `from_json` names the file as well."""
    if not isinstance(values, dict):
        raise UserError(f"{kind.__name__} needs fields with values, and this is {_shown(values)}.")
    hints, fields = _known(kind)
    if unknown := sorted(set(values) - set(fields)):
        raise UserError(f"{kind.__name__} has no field {', '.join(unknown)}; it has {', '.join(sorted(fields))}.")
    needed = [n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [name for name in needed if name not in values]:
        raise UserError(f"{kind.__name__} has no {', '.join(missing)}, which it needs.")
    revived = {name: _revive(hints[name], value) for name, value in values.items()}
    for name, value in revived.items():
        if not _fits(hints[name], value):
            raise UserError(f"{kind.__name__}.{name} is {_shown(value)}, not of type {_called(hints[name])}.")
    return kind(**revived)


@functools.cache
def _known(kind: type) -> tuple[dict[str, Any], dict[str, dataclasses.Field[Any]]]:
    """(types of the attributes, the fields by name); a history of thousands of trials asks often."""
    return typing.get_type_hints(kind), {f.name: f for f in dataclasses.fields(kind)}


def from_json(kind: type[T], values: Any, source: object) -> T:
    """The same of what a file holds; `source` is named in the sentence."""
    try:
        return from_dict(kind, values)
    except UserError as error:
        raise UserError(f"{source} is damaged or not hpt's: {error}") from None


def override(config: T, assignments: typing.Iterable[str]) -> T:
    """`config` with fields set from `KEY=VALUE`; KEY may be dotted (`model.depth=4`). Checked when all are set."""
    values = to_dict(config)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--set {assignment!r} is not of the form KEY=VALUE, such as model.depth=4.")
        *path, name = key.strip().split(".")
        kind, place = type(config), values
        for part in path:
            kind, place = _hint(kind, part, assignment), place[part]
        if dataclasses.is_dataclass(inner := _hint(kind, name, assignment)):
            known = ", ".join(f"{name}.{f.name}" for f in dataclasses.fields(inner))
            raise UserError(f"--set {assignment}: {name} is not one value; set {known}.")
        place[name] = _parse(_hint(kind, name, assignment), text.strip(), assignment)
    return from_dict(type(config), values)


def _hint(kind: Any, name: str, where: str) -> Any:
    hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
    if name not in hints:
        known = ", ".join(sorted(hints))
        raise UserError(f"--set {where}: {getattr(kind, '__name__', kind)} has no field {name!r}; it has {known}.")
    return hints[name]


def _parse(hint: Any, text: str, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if text.lower() == "none":
            return None
        return _parse(next(a for a in arguments if a is not type(None)), text, where)
    if origin is Literal:
        if text not in arguments:
            raise UserError(f"--set {where}: choose from {', '.join(map(str, arguments))}.")
        return text
    if origin is tuple:
        parts = text.split(",")
        if arguments[1:] == (...,):
            return tuple(_parse(arguments[0], part, where) for part in parts)
        if len(parts) != len(arguments):
            raise UserError(f"--set {where}: {len(arguments)} values with commas between are needed, not {len(parts)}.")
        return tuple(_parse(a, part, where) for a, part in zip(arguments, parts, strict=True))
    try:
        if hint is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if hint is int:
            value = float(text)  # so that 2.5e9 is a number of tokens
            if value != int(value):
                raise ValueError
            return int(value)
        return hint(text)
    except (ValueError, KeyError, OverflowError):
        raise UserError(f"--set {where}: {text!r} is not of type {getattr(hint, '__name__', hint)}.") from None


def _revive(hint: Any, value: Any) -> Any:
    if isinstance(value, dict) and dataclasses.is_dataclass(hint):
        return _shared(typing.cast(type, hint), value)
    if isinstance(value, list) and typing.get_origin(hint) is not list:
        return tuple(_revive(Any, item) for item in value)
    return value


_MADE: dict[Any, Any] = {}
MOST_MADE = 4096


def _shared(kind: type[T], values: dict[str, Any]) -> T:
    """`from_dict`, one object for equal values where these are plain: the trials of a history have few models and data
    among them, and what is frozen may be shared."""
    try:
        key = (kind, tuple((name, type(value), value) for name, value in values.items()))
        found = _MADE.get(key)
    except TypeError:  # a list or a dictionary among them
        return from_dict(kind, values)
    if found is None:
        found = from_dict(kind, values)
        if len(_MADE) < MOST_MADE:
            _MADE[key] = found
    return found


def _fits(hint: Any, value: Any) -> bool:
    """Whether a revived value is of a field's type; of the inside of dicts and lists nothing is asked."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _fits(arguments[0], value)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(a, value) for a in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        each = [arguments[0]] * len(value) if arguments[1:] == (...,) else arguments
        return len(each) == len(value) and all(_fits(a, v) for a, v in zip(each, value, strict=True))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    plain = origin or hint
    return not isinstance(plain, type) or isinstance(value, plain)


def _called(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
