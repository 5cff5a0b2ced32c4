"""`python -m hpt` lists the commands; `hpt NAME ...` runs one."""

from __future__ import annotations

import contextlib
import difflib
import runpy
import sys
from importlib.metadata import PackageNotFoundError, version

from hpt.console.commands import COMMANDS, GROUPS


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in COMMANDS:
        del sys.argv[1]
        runpy.run_module(f"hpt.{name}", run_name="__main__", alter_sys=True)
        return
    if name == "--version":
        with contextlib.suppress(PackageNotFoundError):
            print(f"hpt {version('hpt')}")
            return
        print("hpt, run from a checkout that is not installed")
        return
    if name not in ("-h", "--help"):
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(COMMANDS)}."
        print(f"error: there is no command {name!r}: {hint}", file=sys.stderr)
        sys.exit(2)
    print(__doc__, end="\n\n")
    for group, commands in GROUPS.items():
        print(f"{group}:")
        for command, line in commands.items():
            print(f"  python -m hpt.{command:<10} {line}")
    print("\nEach explains its flags with --help, prints its result as JSON with --json, and only that with --quiet.")
    print("Exit codes: 0 done, 2 bad input, 130 interrupted, 1 a final run that diverged or a defect of hpt.")


if __name__ == "__main__":
    main()
