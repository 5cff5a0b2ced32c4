"""What the README says can be typed: every command's flags exist and are legal, every path is there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

from hpt.__main__ import COMMANDS
from hpt.completion import kinds
from hpt.data import FORMS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines()] + re.findall(r"`(python -m hpt\.[^`]*)`", TEXT)
TYPED = sorted({m[0] for line in LINES for m in re.finditer(r"python -m hpt\.\w+[^#&|]*", line.replace("\n", " "))})
PLACEHOLDERS = ("...", "CHECKOUT", "DIR", "MODEL", "FILE")


def arguments(typed: str) -> tuple[str, list[str]]:
    words = shlex.split(typed)
    return words[2].removeprefix("hpt."), ["--search" if w == "--from" else w for w in words[3:]]


@pytest.mark.parametrize("typed", TYPED)
def test_it_can_be_typed(typed: str) -> None:
    command, argv = arguments(typed)
    assert command in COMMANDS
    if any(word in typed for word in PLACEHOLDERS) or not argv:
        return
    forms = kinds(command)
    if command == "data":
        forms, argv = [FORMS[argv[0]][0]], argv[1:]
    if command == "generate":
        argv = [a for a in argv if a != "--search"]
    tyro.cli(forms[0], args=argv)  # a SystemExit where a flag or value is not known


def test_there_is_something_to_check() -> None:
    found = {arguments(typed)[0] for typed in TYPED}
    assert len(TYPED) > 20 and {"search", "train", "report", "ui", "compare", "data", "ablate", "mup"} <= found


def test_what_it_names_is_there() -> None:
    named = set(re.findall(r"\]\((?!http)([^)#]+)\)", TEXT)) | set(
        re.findall(r"`((?:notebooks|cluster|search|hpt)/[\w./-]+)`", TEXT)
    )
    assert len(named) > 4
    for path in named:
        assert (ROOT / path).exists(), path


@pytest.mark.slow
def test_the_two_commands_and_the_page(tmp_path: Path) -> None:
    """The first command without its installation, the report, and the final run's dry run, in a folder of their own."""
    for typed in ("hpt.search --strategy hyperband --budget-runs 0.5", "hpt.report searches/laptop-hyperband",
                  "hpt.train --from searches/laptop-hyperband --dry-run"):  # fmt: skip
        env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        told = subprocess.run(
            [sys.executable, "-m", *typed.split()], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert told.returncode == 0, told.stdout + told.stderr
    assert (tmp_path / "searches" / "laptop-hyperband" / "report.html").is_file()
