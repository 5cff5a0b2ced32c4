"""The README and the pages of docs: their blocks, and the commands that somebody would type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NUMBERS = {"N": "2", "MORE": "30"}
"""What stands for a number in a page."""


def blocks(text: str, kind: str) -> list[str]:
    return [block for of, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if of == kind]


def commands(text: str) -> list[tuple[str, ...]]:
    """Each command of hpt in the bash blocks and in code between words: its name and its arguments."""
    lines = [line for block in blocks(text, "bash") for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines += [" ".join(code.split()) for code in re.findall(r"`((?:python -m hpt\.|hpt )[^`]*)`", prose)]
    return [found for line in lines for found in _of_line(line)]


def _of_line(line: str) -> Iterator[tuple[str, ...]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    part: list[str] = []
    for word in [*lexer, ";"]:
        if word and set(word) <= set("();<>|&"):
            yield from _of_part(part)
            part = []
        else:
            part.append(word)


def _of_part(words: list[str]) -> Iterator[tuple[str, ...]]:
    """Of what stands between two operators of the shell; what is quoted may be a command again."""
    for quoted in (word for word in words if "python -m hpt." in word):
        yield from _of_line(quoted[quoted.index("python -m hpt.") :])
    if words[:1] == ["hpt"] and words[1:] and words[1].isalpha():  # not the line `hpt {"step": 1, "loss": 2.0}`
        yield tuple(words[1:])
    for k, word in enumerate(words):
        if word.startswith("hpt.") and words[max(0, k - 2) : k] == ["python", "-m"]:
            yield (word.removeprefix("hpt."), *words[k + 1 :])


def slug(heading: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
