"""What every command shares: parsing, one-sentence errors, exit codes.

0 done; 2 bad input (one sentence on stderr); 130 interrupted (what was finished is kept); 1 a defect of hpt.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tyro
from rich.console import Console

from hpt.console.help import screen
from hpt.console.ranges import FLAGS
from trainer.errors import UserError
from trainer.ranges import check_ranges

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
    """The dataclass `kind` from the command line; its attribute docstrings are the help (--help-all; --help
    is one screen of it where hpt.console.help has one). UserError for what it does not have, what has another type, and
    numbers outside their range (hpt.console.ranges)."""
    if {"-h", "--help"} & set(argv) and (told := screen(command.removeprefix("hpt."))):
        print(told, end="")
        raise SystemExit(0)
    argv = ["--help" if a == "--help-all" else a for a in argv]
    given: dict[str, Any] = {} if default is None else {"default": default}
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            config = tyro.cli(kind, args=list(argv), prog=f"python -m {command}", **given)
    except SystemExit as end:
        if not end.code:  # --help
            raise
        raise UserError(f"{_sentence(said.getvalue())} See python -m {command} --help.") from None
    _check(config)
    return config


def _check(config: Any, prefix: str = "") -> None:
    """The ranges of a command's numbers, those of its settings' settings included (--hyperband.units)."""
    check_ranges(config, FLAGS, prefix, flags=True)
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(value := getattr(config, field.name)):
            _check(value, f"{prefix}{field.name.replace('_', '-')}.")


OF_NO_TYPE = (
    r"(Error parsing \S+): no type matching \{None\}\|\S+ could be instantiated from .*?<class '(?:int|float)'>: ",
    r"\1: ",
)
PLAINER = (
    (r"invalid literal for int\(\) with base 10: ", "no whole number: "),
    (r"could not convert string to float: ", "no number: "),
)
"""Python's words for it, and a person's."""


def _sentence(box: str) -> str:
    """What tyro says in a box of lines, as a sentence: without its frames, and without the help that it repeats."""
    lines = [line.strip("│ ") for line in box.splitlines() if line.startswith("│")]
    parts = [" ".join(part.split()) for part in re.split("─{3,}", " ".join(lines))]
    told = [p for p in parts if p and not p.startswith(("For full helptext", "Argument helptext"))]
    hints = [re.match(r"Perhaps you meant: (\S+)", part) for part in told[1:]]
    if told:
        told[0] = re.sub(*OF_NO_TYPE, told[0])
        for pattern, words in PLAINER:
            told[0] = re.sub(pattern, words, told[0])
    near = next((f": did you mean {found[1]}?" for found in hints if found), ".")
    return f"{told[0].rstrip('.') if told else 'The command line cannot be read'}{near}"


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
    except BrokenPipeError:  # whoever read our output has enough, such as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except OSError as error:
        if not (sentence := of_the_system(error)):
            raise
        print(f"error: {sentence}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


def of_the_system(error: OSError) -> str:
    """Of a file that cannot be used, and of a full disk; empty where it may be a defect of hpt."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({error.filename or 'unknown file'})."
    if error.filename is None:
        return ""
    return f"{error.filename} cannot be used ({error.strerror}): give another place, or mend this one."
