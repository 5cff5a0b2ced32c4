"""--help: what it imports, and how it is told."""

from __future__ import annotations

import importlib
import shlex
import subprocess
import sys
from collections.abc import Callable

import pytest

from hpt.completion import flags, kinds
from hpt.console import cli
from hpt.console.help import GUIDES, Guide, screen
from search.strategies import STRATEGIES
from trainer.errors import UserError

HEAVY = ("torch", "ray", "mlflow", "optuna", "pandas", "transformers", "scipy.stats")
TELLS = """
import contextlib, importlib, io, sys
from hpt.console.commands import COMMANDS
for name in COMMANDS:
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        importlib.import_module(f"hpt.{name}").main(["--help"])
    assert f"hpt.{name}" in told.getvalue(), name  # it did tell
    loaded = [heavy for heavy in sys.argv[1:] if heavy in sys.modules]
    assert not loaded, f"hpt.{name} --help imports {loaded}"
"""


def flags_of(guide: Guide) -> list[str]:
    """The long flags that it names."""
    words = [word for lines in guide.groups.values() for flag, _ in lines for word in flag.replace(",", "").split()]
    return [word for word in words if word.startswith("--")]


def test_help_imports_nothing_heavy() -> None:
    told = subprocess.run([sys.executable, "-c", TELLS, *HEAVY], text=True, capture_output=True, timeout=120)
    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize("command", GUIDES)
def test_one_screen_of_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """80 columns, 48 lines, three examples; every flag that it names is one of the command's."""
    guide, known = GUIDES[command], set(flags(command)) | {"--from"}
    with pytest.raises(SystemExit) as ended:
        main_of(command)(["--help"])
    told = capsys.readouterr().out
    assert not ended.value.code and told == screen(command)
    assert max(map(len, told.splitlines())) <= 80 and len(told.splitlines()) <= 48
    assert len(guide.examples) == 3 and {"Target", "Output"} <= set(guide.groups)
    assert set(flags_of(guide)) <= known and "--help-all" in told


@pytest.mark.parametrize(("command", "argv"), [(c, flags) for c, g in GUIDES.items() for _, flags in g.examples])
def test_its_examples_can_be_given(command: str, argv: str) -> None:
    cli.parse(kinds(command)[0], ["--search" if a == "--from" else a for a in shlex.split(argv)], f"hpt.{command}")


def test_all_flags_and_those_of_a_strategy(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main_of("search")(["--help-all"])
    told = capsys.readouterr().out
    assert not ended.value.code and {"--hyperband.units", "--lr-range", "--checkpoints"} <= set(told.split())
    with pytest.raises(SystemExit):
        main_of("search")(["--help-strategy", "greedy"])
    told = capsys.readouterr().out
    assert "--greedy.rounds" in told and "--hyperband" not in told and "--lr-range" not in told.split()
    with pytest.raises(UserError, match="did you mean greedy"):
        main_of("search")(["--help-strategy", "greedi"])
    with pytest.raises(SystemExit):
        main_of("report")(["--help-all"])
    assert "--format" in capsys.readouterr().out


def test_the_strategies_are_named() -> None:
    assert set(STRATEGIES) <= set(screen("search").replace(";", " ").split())


def main_of(command: str) -> Callable[[list[str]], int]:
    return importlib.import_module(f"hpt.{command}").main
