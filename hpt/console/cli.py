"""What every command shares: parsing, one-sentence errors, exit codes.

0 done; 2 bad input (one sentence on stderr); 130 interrupted (what was finished is kept); 1 a defect of hpt.
"""

from __future__ import annotations

import errno
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tyro
from rich.console import Console

from trainer.errors import UserError

T = TypeVar("T")


PLAIN_WIDTH = 110
"""Columns where the output is not a terminal."""


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every command takes."""

    json: bool = False
    """Print the result as one JSON document on stdout; whatever is for people goes to stderr."""
    quiet: bool = False
    """No progress and no tables: only the answer, in a line, and errors."""

    def console(self) -> Console:
        """Where people read."""
        terminal = (sys.stderr if self.json else sys.stdout).isatty()
        return Console(highlight=False, stderr=self.json, quiet=self.quiet, width=None if terminal else PLAIN_WIDTH)

    def answer(self, result: Any, line: str = "") -> None:
        """The result for a script where one asked, or the line that --quiet leaves."""
        if self.json:
            print(json.dumps(plain(result)))
        elif self.quiet and line:
            print(line)


def plain(value: Any) -> Any:
    """As JSON has it: numbers that are not finite are null, paths are text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, Path):
        return str(value)
    number = float(value)
    return number if math.isfinite(number) else None


def parse(kind: type[T], argv: Sequence[str], command: str, default: T | None = None) -> T:
    """The dataclass `kind` from the command line; its attribute docstrings are the help."""
    prog = f"python -m {command}"
    if default is None:
        return tyro.cli(kind, args=list(argv), prog=prog)
    return tyro.cli(kind, args=list(argv), prog=prog, default=default)


def value_of(flag: str, argv: Sequence[str]) -> str | None:
    """What follows a flag, before anything is parsed; None: it is not there."""
    for k, argument in enumerate(argv):
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
        if argument == flag and k + 1 < len(argv):
            return argv[k + 1]
    return None


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Run a command's main on sys.argv and exit as documented above."""
    try:
        code = main(sys.argv[1:]) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"error: the disk is full ({error.filename or 'unknown file'}).", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
