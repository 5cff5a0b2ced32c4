"""What all commands have in common: --json, --quiet, exit codes, completion, no colours in a pipe."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpt.__main__ import COMMANDS
from hpt.completion import flags, kinds, script
from hpt.console import cli

ROOT = Path(__file__).parents[1]
TRUTH = ROOT / "notebooks" / "data" / "laptop_truth.jsonl"
SEARCH = ROOT / "notebooks" / "data" / "search" / "by-size"
CHEAP = {
    "regret": ["--searches", str(SEARCH), "--truth", str(TRUTH)],
    "report": ["search", "--out", "page.html"],
    "cost": ["--search", "search"],
    "advise": ["--table", str(TRUTH), "--target", "laptop"],
    "mup": ["--widths", "16", "32", "--parametrisations", "sp", "--set", "model.head_dim=16"],
    "ablate": ["--lr", "2e-3", "--variant", "rope:model.positions=rope", "--dry-run"],
    "compare": ["--table", str(TRUTH), "--strategies", "data-scaling", "--holdout", "run", "--seeds", "1"],
    "data": ["inspect", "text.jsonl", "--tokenizer", "bpe:300"],
}


def run(folder: Path, command: str, *argv: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "hpt", command, *argv], cwd=folder, env=env, text=True, capture_output=True, timeout=120
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(SEARCH, tmp_path / "search")
    words = ["one", "two", "three", "four", "and so on", "until the end"]
    texts = [" ".join(words[(i * k) % 6] for k in range(1, 60)) for i in range(1, 400)]
    (tmp_path / "text.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_them(command: str) -> None:
    assert {"--json", "--quiet", "--help"} <= set(flags(command))


@pytest.mark.parametrize("command", [c for c in CHEAP if c not in ("mup", "compare")])
def test_json_is_one_document_and_quiet_is_a_line(command: str, folder: Path) -> None:
    told = run(folder, command, *CHEAP[command], "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout) and "NaN" not in told.stdout and "Infinity" not in told.stdout
    quiet = run(folder, command, *CHEAP[command], "--quiet")
    assert quiet.returncode == 0 and 1 <= len(quiet.stdout.splitlines()) <= 5 and not quiet.stderr, quiet
    assert "\x1b" not in told.stdout + told.stderr + quiet.stdout


@pytest.mark.slow
def test_a_search_told_to_a_script(folder: Path) -> None:
    small = ["--corpus", "text.jsonl", "--tokenizer", "bpe:300", "--tokens", "32000", "--batch", "512", "--set",
             "model.depth=1", "model.width=16", "model.heads=2", "model.context=32", "model.vocabulary=300",
             "data.val_tokens=1024", "data.epochs=20", "--slots", "1"]  # fmt: skip
    told = run(folder, "search", *small, "--strategy", "early-stopping", "--early-stopping.trials", "2", "--json")
    assert told.returncode == 0, told.stderr
    answer = json.loads(told.stdout)
    assert {"lr", "interval90", "bill", "directory"} <= set(answer) and "Plan" in told.stderr
    again = run(folder, "search", "--resume", answer["directory"], "--quiet")
    assert again.returncode == 0 and again.stdout.strip() in ("no recommendation", f"{answer['lr'] or 0:.4g}"), again
    run_dir = ["--target", "laptop", "--lr", "1e-3", "--out", "run", "--evaluations", "1", "--set",
               "data.corpus=text.jsonl", "data.tokenizer=bpe:300", "tokens=2048", "batch=512", "warmup=512",
               *small[9:15], "model.vocabulary=300", "data.epochs=20"]  # fmt: skip
    trained = run(folder, "train", *run_dir, "--json")
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["status"] == "finished"
    text = run(folder, "generate", "run", "--max-tokens", "5", "--json")
    assert len(json.loads(text.stdout)["texts"]) == 1
    assert json.loads(run(folder, "convert", "run", "out.pt", "--to", "pt", "--json").stdout)["out"] == "out.pt"
    assert json.loads(run(folder, "evaluate", "run", "--tasks", "val", "--json").stdout)["val"]["scores"]


@pytest.mark.parametrize("argv", [("regret", "--searches", "none", "--truth", "none"), ("report", "none"),
                                  ("generate", "none"), ("compare", "--table", "none"), ("serch",),
                                  ("search", "--target", "none")])  # fmt: skip
def test_bad_input_is_a_sentence(argv: tuple[str, ...], tmp_path: Path) -> None:
    told = run(tmp_path, *argv)
    assert told.returncode == 2 and not told.stdout.strip() and "Traceback" not in told.stderr
    assert told.stderr.startswith("error: ") and len(told.stderr.strip().splitlines()) == 1


def test_json_has_no_numbers_that_json_has_not() -> None:
    values: dict[Any, Any] = {"a": [math.nan, math.inf, 1.5], "b": (Path("x"), None, True), 3: {"c": 2}}
    assert cli.plain(values) == {"a": [None, None, 1.5], "b": ["x", None, True], "3": {"c": 2}}


def test_bash_completes_commands_and_flags(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    (tmp_path / "hpt.bash").write_text(script("bash", {"search": flags("search"), "report": flags("report")}))

    def complete(*words: str) -> list[str]:
        typed = " ".join(f"'{word}'" for word in ("hpt", *words))
        code = f"source hpt.bash; COMP_WORDS=({typed}); COMP_CWORD={len(words)}; _hpt; echo ${{COMPREPLY[@]}}"
        return subprocess.run([bash, "-c", code], cwd=tmp_path, text=True, capture_output=True).stdout.split()

    assert complete("sea") == ["search"] and complete("search", "--strat") == ["--strategy"]
    assert complete("report", "hpt.b") == ["hpt.bash"] and "--hyperband.units" in complete("search", "--hyperband.")
    assert [len(kinds(c)) for c in ("data", "search")] == [5, 1]


def test_hpt_lists_its_commands_and_codes() -> None:
    told = run(ROOT, "--help")
    assert all(f"hpt.{name}" in told.stdout for name in COMMANDS) and "Exit codes: 0 done, 2 bad input" in told.stdout
    assert run(ROOT, "--version").stdout.startswith("hpt")
