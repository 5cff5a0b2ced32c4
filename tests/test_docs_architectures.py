"""docs/architectures.md: its example computes what it says, its commands can be typed, its table is the code's."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
import tyro

from hpt.completion import kinds
from trainer.families import FAMILIES

TEXT = (Path(__file__).parents[1] / "docs" / "architectures.md").read_text()
TYPED = re.findall(r"^python -m hpt\.[^\n]*", TEXT, re.MULTILINE)


def test_the_example_prints_what_stands_beside_it() -> None:
    block = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert block is not None
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(block[1], {})
    wanted = re.findall(r"print\(.*?\)  # (.*)", block[1])
    for line, expected in zip(out.getvalue().splitlines(), wanted, strict=True):
        assert line.startswith(expected.removesuffix("..."))


@pytest.mark.parametrize("typed", TYPED)
def test_its_commands_can_be_typed(typed: str) -> None:
    words = shlex.split(typed)
    tyro.cli(kinds(words[2].removeprefix("hpt."))[0], args=words[3:])


def test_every_family_is_in_the_table() -> None:
    assert re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE) == list(FAMILIES)
