"""What every command shares: parsing, one-sentence errors, exit codes.

0 done; 2 bad input (one sentence on stderr); 130 interrupted (what was finished is kept); 1 a defect of hpt.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from trainer.errors import UserError

T = TypeVar("T")


def parse(kind: type[T], argv: Sequence[str], command: str, default: T | None = None) -> T:
    """The dataclass `kind` from the command line; its attribute docstrings are the help."""
    prog = f"python -m {command}"
    if default is None:
        return tyro.cli(kind, args=list(argv), prog=prog)
    return tyro.cli(kind, args=list(argv), prog=prog, default=default)


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
