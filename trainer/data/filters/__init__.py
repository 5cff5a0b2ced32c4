"""Filters of documents: each a function of a text that says why it goes, or "" where it stays. One file a filter."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from trainer.data.filters.c4 import c4
from trainer.data.filters.fineweb import fineweb
from trainer.data.filters.gopher import gopher
from trainer.data.filters.repetition import repetition
from trainer.errors import UserError

Filter = Callable[[str], str]

FILTERS: dict[str, Filter] = {"gopher": gopher, "repetition": repetition, "fineweb": fineweb, "c4": c4}
"""By name, in no order; those with settings of their own (language, length, pattern) are built beside."""


def named(names: Sequence[str]) -> dict[str, Filter]:
    for name in names:
        if name not in FILTERS:
            near = difflib.get_close_matches(name, FILTERS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(FILTERS)}."
            raise UserError(f"There is no filter called {name!r}: {hint}")
    return {name: FILTERS[name] for name in names}


def reason(text: str, filters: dict[str, Filter]) -> str:
    """Of the first filter that removes the text, as "name: reason"; empty when all keep it."""
    for name, judge in filters.items():
        if said := judge(text):
            return f"{name}: {said}"
    return ""
