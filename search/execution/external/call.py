"""Runs somebody's Python function as a trial's trainer, in a process of its own: run as a file, by the standard
library alone.

call.py module:function | call.py FUNCTION.pickle

The function is given the run (`run.lr`, `run.min_lr`, `run.tokens`, `run.steps`, `run.batch`, `run.model.depth`,
`run.seed`, `run.out` ...) and `report(step, loss=None, train_loss=None)`; it returns the final validation loss, or
reports it last.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

MODEL = ("depth", "width", "heads", "kv_heads", "head_dim", "ffn", "context", "vocabulary", "parameters")


def view() -> SimpleNamespace:
    """The run, from the environment."""
    given = {k[4:].lower(): v for k, v in os.environ.items() if k.startswith("HPT_")}
    found = {k: v if k in ("out", "name", "schedule") else _read(v) for k, v in given.items()}
    names = ("lr", "min_lr", "final_fraction", "weight_decay", "beta1", "beta2", "eps", "clip", "schedule", "seed",
             "tokens", "steps", "warmup", "warmup_steps", "warmup_fraction", "decay_steps", "decay_fraction", "batch",
             "sequences", "micro", "accumulation", "devices", "flops", "out", "name")  # fmt: skip
    model = SimpleNamespace(**{name: found[name] for name in MODEL})
    return SimpleNamespace(model=model, **{name: found[name] for name in names})


def _read(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


class Reporter:
    """`report(step, loss=..., train_loss=...)`: into HPT_RESULT, where nothing that is printed gets in between."""

    def __init__(self, path: str) -> None:
        self.path, self.last = path, -1

    def __call__(self, step: int, loss: float | None = None, train_loss: float | None = None) -> bool:
        if isinstance(step, bool) or not isinstance(step, int):
            raise TypeError(f"report's step is {step!r}, and it must be a whole number")
        if step < self.last:
            raise ValueError(f"report went backwards: step {step} after step {self.last}")
        self.last = step
        self._write({"step": step, "loss": number(loss, "loss"), "train_loss": number(train_loss, "train_loss")})
        return True

    def final(self, loss: Any) -> None:
        self._write({"loss": number(loss, "what the function returned"), "final": True})

    def _write(self, values: dict[str, Any]) -> None:
        with open(self.path, "a") as file:
            file.write(f"hpt {json.dumps({k: v for k, v in values.items() if v is not None})}\n")


def number(value: Any, what: str) -> float | None:
    """A float of anything that is one: a tensor of one element too. A bool is none."""
    if value is None:
        return None
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise TypeError(f"{what} is {value!r}, and it must be a number")
    return float(value)


def load(spec: str) -> Callable[..., Any]:
    sys.path.insert(0, os.getcwd())
    if spec.endswith(".pickle"):
        with open(spec, "rb") as file:
            sys.path += [path for path in pickle.load(file) if path not in sys.path]
            return pickle.load(file)
    module, _, name = spec.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def main() -> None:
    report = Reporter(os.environ["HPT_RESULT"])
    value = load(sys.argv[1])(view(), report)
    if value is not None:
        report.final(value)


if __name__ == "__main__":
    main()
