"""Bad input to the search command: one clear sentence, exit code 2, nothing written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpt.console import cli
from hpt.console.settings import SearchConfig
from hpt.search import main
from search.execution.store import SearchDir
from search.strategies import STRATEGIES
from search.strategy import Strategy
from trainer.errors import UserError


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--strategy", "hyperbnd"], "did you mean hyperband"),
        (["--strategy", "nowhere:Mine"], "cannot be loaded"),
        (["--strategy", "search.execution.session:Session"], "not a subclass of search.strategy.Strategy"),
        (["--target", "labtop"], "did you mean laptop"),
        (["--lr-range", "1e-2", "1e-3"], "the lower first"),
        (["--lr-range", "0", "1e-3"], "must be two positive numbers"),
        (["--budget-usd", "5"], "needs --usd-per-hour"),
        (["--budget-hours", "-1"], "must be a positive number"),
        (["--set", "model.heads=5"], "does not divide model.width=64"),
        (["--set", "nonsense"], "KEY=VALUE"),
        (["--corpus", "/no/such/place"], "nothing there"),
        (["--tokens", "1e12"], "training tokens and the run needs"),
        (["--tokenizer", "gpt3"], "did you mean gpt2"),
        (["--tokenizer", "bpe:12"], "from 257"),
        (["--set", "model.vocabulary=1000"], "the model's vocabulary only 1,000"),
        (["--budget-flops", "1e9"], "too small for one trial of hyperband"),
        (["--strategy", "early-stopping", "--budget-runs", "0.001"], "too small for one trial of early-stopping"),
        (["--resume", "/no/such/search"], "is not a search directory"),
        (
            ["--stratgy", "grid"],
            "Unrecognized options: --stratgy, grid: did you mean --strategy? See python -m hpt.search",
        ),
        (["--slots", "x"], "Error parsing --slots: no whole number: 'x'. See python -m hpt.search --help."),
        (["--hyperband.units", "-3"], "--hyperband.units -3 must be a whole number from 1 to 1,000,000,000."),
        (["--set", "model.kv_heads=-2"], "model.kv_heads=-2 must be a whole number from 1"),
        (["--set", "betas=0.9"], "2 values with commas between are needed"),
        (["--seed", "-1"], "--seed -1 must be a whole number from 0"),
    ],
)
def test_one_sentence(argv: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        main(argv)
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "searches").exists()


def test_exit_code_two_without_a_traceback(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "hpt.search", "--strategy", "hyperbnd"],
        cwd=tmp_path, env=env, text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: There is no strategy called 'hyperbnd'")


def test_a_live_search_keeps_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    live = SearchDir(tmp_path / "searches" / "mine")
    live.lock()
    with pytest.raises(UserError, match="is in use by a live search"):
        main(["--name", "mine"])


def test_a_used_directory_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    directory = SearchDir(tmp_path / "searches" / "mine")
    directory.write_config({})
    (directory.path / "trials.jsonl").write_text("{}\n")  # without a trial there is nothing to lose
    with pytest.raises(UserError, match="holds a search already"):
        main(["--name", "mine"])


def test_resume_with_another_configuration_names_the_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hpt.console.settings import to_json

    monkeypatch.chdir(tmp_path)
    directory = SearchDir(tmp_path / "searches" / "mine")
    directory.write_config({"search": to_json(SearchConfig(seed=3))})
    with pytest.raises(UserError, match="other values of --lr-range, --hyperband: leave them out"):
        main(["--resume", str(directory.path), "--lr-range", "1e-3", "1e-2", "--hyperband.units", "50"])


def test_every_strategy_of_the_table_has_its_flags() -> None:
    fields = {name.replace("_", "-"): v for name, v in vars(SearchConfig()).items() if isinstance(v, Strategy)}
    assert {name: type(v) for name, v in fields.items()} == STRATEGIES


def test_flags_reach_the_strategy() -> None:
    config = cli.parse(SearchConfig, ["--strategy", "hyperband", "--hyperband.reduction-factor", "4"], "hpt.search")
    assert config.build_strategy().reduction_factor == 4  # type: ignore[attr-defined]
