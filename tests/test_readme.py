"""What the README and the pages say can be typed: commands are parsed, links lead somewhere, Python compiles."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import NUMBERS, PAGES, ROOT, blocks, commands, slug

from hpt.bench import EdgeConfig
from hpt.completion import kinds
from hpt.console import cli
from hpt.console.commands import COMMANDS
from hpt.data import FORMS
from search.strategies import STRATEGIES

TYPED = sorted({command for page in PAGES for command in commands(page.read_text())})
each_page = pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])


def parsed(name: str, argv: list[str]) -> None:
    """As the command does it; UserError where a flag or a value is not known."""
    form = kinds(name)[0]
    if name == "data" and argv:
        form, argv = FORMS[argv[0]][0], argv[1:]
    if name == "bench" and argv[:1] == ["edge"]:
        form, argv = EdgeConfig, argv[1:]
    if name == "generate":
        argv = [a for a in argv if a != "--from"]
    cli.parse(form, ["--search" if a == "--from" else a for a in argv], f"hpt.{name}")


@pytest.mark.parametrize("name", sorted({name for name, *_ in TYPED}))
def test_it_can_be_typed(name: str) -> None:
    assert name in COMMANDS
    for argv in (argv for found, *argv in TYPED if found == name):
        told = [NUMBERS.get(word, word) for word in argv if word != "..."]
        if "--help-strategy" in told:
            assert told[told.index("--help-strategy") + 1] in STRATEGIES
        elif told and told not in (["--help"], ["--help-all"]):
            parsed(name, told)


def test_there_is_something_to_check() -> None:
    found = {name for name, *_ in TYPED}
    assert len(TYPED) > 60 and found >= COMMANDS.keys() - {"completion"}
    assert ("completion", "bash") in TYPED and ("tell", "searches/mine", "$ID", "--from-log", "$ID.log") in TYPED
    readme = {name for name, *_ in commands(PAGES[0].read_text())}
    assert {"search", "train", "ls", "advise", "generate", "compare", "regret", "ui"} <= readme


@pytest.mark.parametrize("flag", ["--no-such-flag", "--budget-runs=-1"])
def test_what_cannot_be_typed_is_found(flag: str) -> None:
    (command,) = commands(f"```bash\nLR=$(python -m hpt.search --target laptop {flag} | tail -1)  # it's wrong\n```\n")
    with pytest.raises(cli.UserError):
        parsed(command[0], list(command[1:]))


@each_page
def test_what_it_names_is_there(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = link.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in map(slug, re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)), link
    for path in re.findall(r"`((?:notebooks|cluster|docs|tests|search|scaling|trainer|hpt)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), f"{page.name}: {path}"


@each_page
def test_python_compiles(page: Path) -> None:
    for block in blocks(page.read_text(), "python"):
        compile(block, page.name, "exec")


def test_the_readme_is_a_screen_and_a_half() -> None:
    text = PAGES[0].read_text()
    assert len(text.splitlines()) < 130
    unfound = [p.name for p in PAGES if p.parent == ROOT / "docs" and f"](docs/{p.name})" not in text]
    assert not unfound, "pages that the README does not link to"


def test_the_two_commands_are_whole_lines() -> None:
    lines = PAGES[0].read_text().splitlines()
    begin = "python3 -m venv .venv && . .venv/bin/activate && pip install -q -e "
    assert f"{begin}. && python -m hpt.search --strategy hyperband" in lines
    assert [line for line in lines if line.endswith("python -m pytest")] == [f"{begin}'.[dev]' && python -m pytest"]


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
