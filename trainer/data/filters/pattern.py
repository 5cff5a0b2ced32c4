"""A regular expression of the user's: documents in which it is found go."""

from __future__ import annotations

import re
from collections.abc import Callable

from trainer.errors import UserError


def without(pattern: str) -> Callable[[str], str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--pattern {pattern!r} is not a regular expression ({error}).") from None

    def judge(text: str) -> str:
        found = compiled.search(text)
        return f"matches {pattern!r}" if found else ""

    return judge
