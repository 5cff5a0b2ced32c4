"""python -m hpt.compare: every strategy on a recorded sweep; regret at the target against what the
search cost."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import optuna
import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table as Grid

from hpt.console import cli
from hpt.console.cli import parse
from hpt.reports.chart import COLOURS, Chart, picture
from search.replay.arena import CONTENDERS, Line, Result, Rules, judge, summarise, targets
from search.replay.table import Columns, load_table
from search.replay.world import World
from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.files import write_atomic

SHOWN = 1e-3  # percent: smaller regrets are drawn here, on a logarithmic axis


@dataclass(frozen=True, kw_only=True)
class CompareConfig(cli.Common):
    """Replay strategies on a table of runs; targets are its largest cells."""

    table: Path
    """Runs: .csv, .csv.gz, .jsonl (also hpt's own trials.jsonl) or .parquet."""
    columns: Columns = field(default_factory=Columns)
    """Which column holds what."""
    rules: Annotated[Rules, tyro.conf.arg(name="")] = field(default_factory=Rules)
    """What is asked of whom."""
    strategies: tuple[str, ...] = ()
    """Names of those to run; none: all."""
    budgets: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0, 2.0)
    """Shares of the target's FLOPs (6ND)."""
    seeds: int = 100
    """Replicates: other noise of the runs, other draws of the strategy."""
    noise: float | None = None
    """Sd of a run's loss as a fraction of it; None: estimated from the table."""
    jobs: int = 2
    """Processes."""
    out: Path = Path("compare")
    """Folder for runs.csv, summary.csv and regret.svg."""


_WORLD: World | None = None


def _start(world: World) -> None:
    global _WORLD
    _WORLD = world
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _judge(name: str, target: RunConfig, budget: float, seeds: range, rules: Rules) -> list[Result]:
    assert _WORLD is not None
    return judge(_WORLD, name, target, budget, seeds, rules)


def compare(world: World, config: CompareConfig) -> list[Result]:
    """All strategies, targets, budgets and seeds; the same results whatever the number of
    processes."""
    if unknown := sorted(set(config.strategies) - set(CONTENDERS)):
        raise UserError(f"There is no strategy {', '.join(unknown)} to compare: choose from {', '.join(CONTENDERS)}.")
    names = config.strategies or tuple(CONTENDERS)
    chunk = 25
    spans = [range(i, min(i + chunk, config.seeds)) for i in range(0, config.seeds, chunk)]
    runs = targets(world, config.rules)
    work = [
        (name, run, budget, span, config.rules)
        for name in names
        for run in runs
        for budget in config.budgets
        for span in spans
    ]
    if config.jobs == 1:
        _start(world)
        return [r for task in work for r in _judge(*task)]
    with ProcessPoolExecutor(config.jobs, initializer=_start, initargs=(world,)) as pool:
        return [r for part in pool.map(_judge, *zip(*work, strict=True)) for r in part]


def show(lines: list[Line], console: Console) -> None:
    """The leaderboard; regret is the median, in percent of the loss, of searches that answered."""
    names = ("budget", "strategy", "regret", "p90", "answered", "in 50 %", "in 90 %", "trials", "cost")
    grid = Grid(*names, box=SIMPLE, padding=(0, 1))
    for a, b in zip(lines, [*lines[1:], None], strict=True):
        shown = [
            f"{a.budget:.0%}",
            a.strategy,
            _cell(a.median, " %", 3),
            _cell(a.p90, " %", 3),
            f"{a.answered:.0%}",
        ]
        shown += [
            _cell(100 * a.inside50, " %", 0),
            _cell(100 * a.inside90, " %", 0),
            f"{a.trials:.1f}",
            f"{a.cost:.0%}",
        ]
        grid.add_row(*shown, end_section=b is None or b.budget != a.budget)
    console.print(grid)


def _cell(value: float, unit: str, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}{unit}"


def write(rows: list[Result] | list[Line], path: Path) -> None:
    """As CSV, one row each."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def draw(lines: list[Line]) -> Chart:
    """Regret against cost: medians as lines, up to the 90th percentile as bars."""
    chart = Chart("spent, % of one target run's FLOPs", "regret at the target, % of its loss", y_log=True, height=420)
    chart.title = "Median regret against cost; bars: up to the 90th percentile"
    for i, name in enumerate(CONTENDERS):  # the same colour and dashes in every picture
        mine = [line for line in lines if line.strategy == name and line.answered >= 0.5]
        if not mine:
            continue
        points = [(max(100 * line.cost, 1), max(line.median, SHOWN)) for line in mine]
        chart.bars([(x, y, max(line.p90, SHOWN)) for (x, y), line in zip(points, mine, strict=True)], i)
        chart.line(sorted(points), i, dash=i >= COLOURS)
        chart.dots(points, i, [f"{name}: {y:.3g} % at {x:.3g} %" for x, y in points], name, hollow=i >= COLOURS)
    return chart


def run(config: CompareConfig, console: Console) -> list[Line]:
    """Compare, print, and write what was found under `config.out`."""
    world = World(load_table(config.table, config.columns), noise=config.noise)
    for note in world.table.notes:
        console.print(f"{world.table.name}: {note}")
    console.print(f"{len(world.table.cells)} cells (N, D, batch); noise of a run {world.sd:.3%} of its loss")
    results = compare(world, config)
    lines = summarise(results)
    show(lines, console)
    config.out.mkdir(parents=True, exist_ok=True)
    write(results, config.out / "runs.csv")
    write(lines, config.out / "summary.csv")
    write_atomic(config.out / "regret.svg", picture([draw(lines)]))
    console.print(f"Written: {config.out}/runs.csv, summary.csv, regret.svg")
    return lines


def main(argv: Sequence[str]) -> int:
    config = parse(CompareConfig, argv, "hpt.compare")
    lines = run(config, config.console())
    best = min(lines, key=lambda line: (-line.budget, line.median))
    words = f"{best.strategy}: median regret {best.median:.3f} % at a budget of {best.budget:g} target runs"
    config.answer([asdict(line) for line in lines], words)
    return 0


if __name__ == "__main__":
    cli.run(main)
