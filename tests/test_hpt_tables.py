"""What is printed fits 80 columns, with every number whole, in plain words."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console, RenderableType
from rich.table import Table

from hpt import merge
from hpt.console import cli
from hpt.console.screen import answer_panel, plan_table
from hpt.console.tables import Fitting
from hpt.corpora import dedup
from hpt.cost import CostConfig, elsewhere, forecast_table, forecasts
from hpt.ls import main as ls
from hpt.mup import best_table, check_table
from hpt.reports.gather import gather
from scaling.optimum import fit_optimum
from search.budget import Budget, CostModel
from search.execution.store import SearchDir
from search.records import History
from search.strategies import STRATEGIES
from trainer.coordcheck import Movement

SEARCH = Path(__file__).parents[1] / "notebooks" / "data" / "search" / "by-size"
FOUND = gather(SEARCH)


def told(what: RenderableType, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(what)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    return text


@pytest.mark.parametrize("width", [60, 80, 110])
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_plan_fits(name: str, width: int) -> None:
    cost = CostModel(usd_per_hour=2.0, flops_per_second=1e10)
    problem = replace(FOUND.history.problem, budget=Budget(flops=4e14), cost=cost, proxies=None)
    stages = STRATEGIES[name]().plan(History(problem=problem))
    text = told(plan_table(stages, 2, True, 20.0), width)
    for stage in stages:
        assert f"{stage.cost.usd:.2f}" in text and f" {stage.trials} " in text
    assert "time, 2 at once" in text and "slot" not in text


@pytest.mark.parametrize("name", ["transfer", "hyperband"])
def test_an_answer_is_told_in_plain_words(name: str) -> None:
    answer = STRATEGIES[name]().recommend(FOUND.history)
    text = told(answer_panel(answer, [("files", "a/" * 60), ("review", "sqlite:///" + "x" * 150)]))
    assert re.sub(r"[\s│]", "", text).count("x" * 150) == 1  # folded, not cut
    assert not any(word in text for word in ("slot time", "carried over by", "curvature-limited", "noise-limited"))
    assert answer.lr and "how much loss you probably give up" in text and "how it is found" in text


@pytest.mark.parametrize("make", [
    lambda console: console.print(Fitting(forecast_table(forecasts(SearchDir(SEARCH))))),
    lambda console: elsewhere(CostConfig(targets=("gpt2-124m", "llama-7b"), device="h100"), "h100", console),
])  # fmt: skip
def test_costs_fit(make: Callable[[Console], object]) -> None:
    console = Console(width=80, file=io.StringIO(), highlight=False)
    make(console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text and max(map(len, text.splitlines())) <= 80 and len(text.splitlines()) < 12


def test_columns_are_left_out_in_order_and_empty_ones_always() -> None:
    table = Table("name", "a", "b", "empty", "")
    table.add_row("first thing", "1234567890", "2345678901", "", "a note of several words")
    table.columns[3].header = ""
    assert {"1234567890", "2345678901"} <= set(told(Fitting(table, ("b", "a"))).split())
    narrow = told(Fitting(table, ("b", "a")), 56)
    assert "1234567890" in narrow and "2345678901" not in narrow
    last = told(Fitting(table, ("b", "a")), 28)
    assert "1234567890" not in last and "first" in last and "note" in last
    assert len(told(Fitting(Table("x")), 80).splitlines()) >= 1  # nothing to show is no error


def test_ls_leaves_out_what_nobody_has(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(SEARCH.parent)
    ls(["."])
    text = capsys.readouterr().out
    assert "cost" in text and "90 %" in text and "loss" not in text.splitlines()[0]


def test_the_table_of_the_docs_is_what_80_columns_show() -> None:
    text = (SEARCH.parents[3] / "docs" / "terminal.md").read_text()
    command, shown = (block.strip() for block in re.findall(r"```(?:bash)?\n(.*?)```", text, re.DOTALL))
    config = cli.parse(CostConfig, command.split()[3:], "hpt.cost")
    console = Console(width=80, file=io.StringIO(), highlight=False)
    elsewhere(config, config.device or "", console)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert [line for line in lines[:6] if line and "──" not in line] == shown.splitlines()


def test_tables_of_many_columns_fit() -> None:
    """Of mup, merge, dedup and heads: what is left out is told by what stays, never cut."""
    names = ("sp", "mup", "completep")
    parts = [f"movement of part {k}" for k in range(7)]
    checks = {n: [Movement(name=p, sizes=(1, 2), moved=(1.0, 1.0)) for p in parts] for n in names}
    text = told(Fitting(check_table(checks)))
    assert all(p in text for p in parts) and text.count("transfers") == 3
    fitted = fit_optimum([1e-3, 2e-3, 4e-3, 8e-3], [4.2, 4.0, 4.0, 4.3])
    text = told(Fitting(best_table({(n, w): fitted for n in names for w in (32, 64, 128, 256, 512)})))
    assert all(f" {w} " in text for w in (32, 512)) and "slope" in text
    domains = [SimpleNamespace(name=f"a-long-domain-{k}") for k in range(9)]  # type: ignore[arg-type]
    text = told(Fitting(merge.table({"expert": [3.0] * 9}, domains), [d.name for d in reversed(domains)]))
    assert "a-long-domain-0" in text and "mean" in text and "a-long-domain-8" not in text
    reasons = Counter({"fineweb: lines that end without a full stop, of a page of lists": 7, "near duplicate": 3})
    cleaned = SimpleNamespace(rows=10**9, kept=12, reasons=reasons)
    assert "1,000,000,000" in told(Fitting(dedup.table(cleaned)), 60)  # type: ignore[arg-type]
