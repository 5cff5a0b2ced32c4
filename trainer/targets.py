"""Targets as files: TOML that names the preset it begins with and the fields that differ.

base = "gpt2-124m"
tokens = 2.5e9

[model]
depth = 10
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.config import DataConfig, ModelConfig, RunConfig, from_json, to_dict
from trainer.errors import UserError
from trainer.files import write_atomic

PARTS: dict[str, type] = {"model": ModelConfig, "data": DataConfig}
"""Fields of a run that are tables of a file."""


def read_target(path: Path, preset: Callable[[str], RunConfig]) -> RunConfig:
    """The run that a file describes, without lr. UserError names the file, and an unknown key with those it is like."""
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"There is no target file {path}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as TOML ({str(error).splitlines()[0]}).") from None
    base = values.pop("base", None)
    if base is not None and (not isinstance(base, str) or base.endswith(".toml")):
        raise UserError(f'{path}: base is the name of a preset, such as "gpt2-124m", not {base!r}.')
    _check_keys(path, values)
    fields: dict[str, Any] = to_dict(preset(base)) if base is not None else {}
    for name, value in values.items():
        if name in PARTS:
            fields[name] = {**(fields.get(name) or {}), **_whole(value, PARTS[name])}
        else:
            fields |= _whole({name: value}, RunConfig)
    if base is not None and "tokens" in values and "warmup" not in values:  # the same share of the run
        old = preset(base)
        fields["warmup"] = round(old.warmup * fields["tokens"] / old.tokens)
    return dataclasses.replace(from_json(RunConfig, fields, path), lr=None)


def _check_keys(path: Path, values: dict[str, Any]) -> None:
    for kind, table, prefix in [(RunConfig, values, "")] + [(k, values.get(n, {}), f"{n}.") for n, k in PARTS.items()]:
        if not isinstance(table, dict):
            raise UserError(f"{path}: {prefix.rstrip('.')} is a table of fields, [{prefix.rstrip('.')}].")
        known = [f.name for f in dataclasses.fields(kind) if f.name != "lr"]
        for key in table:
            if key == "lr" and not prefix:
                raise UserError(f"{path}: lr is what is searched for: leave it out.")
            if key not in known:
                near = difflib.get_close_matches(key, known, n=2)
                hint = (
                    f"did you mean {' or '.join(prefix + n for n in near)}?" if near else f"it has {', '.join(known)}."
                )
                raise UserError(f"{path}: a target has no field {prefix}{key}: {hint}")


def _whole(table: dict[str, Any], kind: type) -> dict[str, Any]:
    """2.5e9 is a number of tokens: floats without a fraction where the field is a whole number."""
    hints = {f.name: str(f.type) for f in dataclasses.fields(kind)}
    return {
        key: int(v) if isinstance(v, float) and v.is_integer() and "int" in hints[key] else v
        for key, v in table.items()
    }


def write_target(path: Path, run: RunConfig) -> None:
    """All fields of a run but its lr and those that are None, as `read_target` reads them."""
    if path.suffix != ".toml":
        raise UserError(f"A target is saved as a .toml file, not {path}.")
    values = to_dict(run)
    parts = {name: values.pop(name) for name in PARTS}
    values.pop("lr")
    lines = _lines(values)
    for name, table in parts.items():
        lines += ["", f"[{name}]", *_lines(table)]
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def _lines(table: dict[str, Any]) -> list[str]:
    """TOML of plain values; JSON writes strings, numbers, lists and booleans as TOML has them."""
    return [
        f"{key} = {json.dumps(list(v) if isinstance(v, tuple) else v)}" for key, v in table.items() if v is not None
    ]
