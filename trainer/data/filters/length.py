"""A minimal length."""

from __future__ import annotations

from collections.abc import Callable


def at_least(words: int) -> Callable[[str], str]:
    return lambda text: f"under {words:,} words" if len(text.split(None, words)) < words else ""
