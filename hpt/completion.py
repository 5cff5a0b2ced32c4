"""`python -m hpt.completion`: tab completion of `hpt` for bash and zsh."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import tyro

from hpt.console import cli
from hpt.console.commands import COMMANDS

SCRIPT = """{start}_hpt() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} words=""
  if [ "$COMP_CWORD" -eq 1 ]; then COMPREPLY=($(compgen -W "{commands}" -- "$cur")); return; fi
  case ${{COMP_WORDS[1]}} in
{cases}
  esac
  case $cur in
    -*) COMPREPLY=($(compgen -W "$words" -- "$cur")) ;;
    *) COMPREPLY=($(compgen -f -- "$cur")) ;;
  esac
}}
complete -o filenames -F _hpt hpt
"""
START = {"bash": "", "zsh": "autoload -U +X bashcompinit && bashcompinit\n"}


@dataclass(frozen=True, kw_only=True)
class CompletionConfig(cli.Common):
    """Print a script; load it with `source <(hpt completion bash)`, in ~/.bashrc or ~/.zshrc."""

    shell: tyro.conf.Positional[Literal["bash", "zsh"]] = "bash"


def main(argv: Sequence[str]) -> int:
    config = cli.parse(CompletionConfig, argv, "hpt.completion")
    found = {name: flags(name) for name in COMMANDS}
    if config.json:
        config.answer(found)
    else:
        print(script(config.shell, found), end="")
    return 0


def flags(command: str) -> list[str]:
    """The long flags of a command, in order; of all its forms where it has several."""
    found: dict[str, None] = {}
    for kind in kinds(command):
        told = io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
            tyro.cli(kind, args=["--help"])
        for line in told.getvalue().splitlines():  # "│ -h, --help", "│ --json, --no-json", "│ --slots INT  Trials ..."
            if listed := re.match(r"[│\s]*((?:-\w, )?--[a-z][\w.-]*(?:, --[\w.-]+)*)", line):
                found |= dict.fromkeys(re.findall(r"--[\w.-]+", listed[1]))
    return list(found)


def kinds(command: str) -> list[type[cli.Common]]:
    """The configurations that a command parses."""
    module = importlib.import_module(f"hpt.{command}")
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, cli.Common) and value is not cli.Common
    ]


def script(shell: str, found: dict[str, list[str]]) -> str:
    cases = "\n".join(f'    {name}) words="{" ".join(words)}" ;;' for name, words in found.items())
    return SCRIPT.format(start=START[shell], commands=" ".join(found), cases=cases)


if __name__ == "__main__":
    cli.run(main)
