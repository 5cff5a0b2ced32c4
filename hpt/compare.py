"""python -m hpt.compare: every strategy on a recorded sweep, or on planted problems; regret at the target against what
the search cost."""

from __future__ import annotations

import csv
import io
import math
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import Progress

from hpt.console import cli
from hpt.console.cli import parse
from hpt.reports.chart import Chart, picture
from hpt.reports.leaderboard import leaderboard, planted_page
from hpt.reports.marks import COLOURS
from search.replay.arena import Case, Result, Rules, judge
from search.replay.cases import PlantedCase, targets
from search.replay.contenders import CONTENDERS, entered
from search.replay.planted import Garden
from search.replay.summary import Line, summarise
from search.replay.table import Columns, load_table
from search.replay.world import World
from trainer.errors import UserError
from trainer.files import write_atomic

SHOWN = 1e-3  # percent: smaller regrets are drawn here, on a logarithmic axis
CHUNK = 25  # seeds of one task


@dataclass(frozen=True, kw_only=True)
class CompareConfig(cli.Common):
    """Replay strategies on a table of runs (targets are its largest cells), or on planted problems."""

    table: Path | None = None
    """Runs: .csv, .csv.gz, .jsonl (also hpt's own trials.jsonl) or .parquet."""
    planted: int = 0
    """Instead of a table: so many planted problems, a quarter of them again with levels off by x2 and x4, and a tenth
    as many of each kind that nobody could answer. 200 show whether 90 % intervals hold in 85 to 95 %."""
    columns: Columns = field(default_factory=Columns)
    """Which column holds what."""
    context: int | None = None
    """Tokens of a sequence, where the table counts batches in sequences; None: 2048 for a column called bs, else the
    batch is in tokens."""
    loss_cap: float | None = None
    """A run that ended above this loss diverged; None: above 1.5 times the lowest of its cell, at an lr above its."""
    curves: Path | None = None
    """A second file of (run, tokens, loss): loss curves, on which strategies that stop runs early are replayed too."""
    rules: Annotated[Rules, tyro.conf.arg(name="")] = field(default_factory=Rules)
    """What is asked of whom."""
    strategies: tuple[str, ...] = ()
    """Names of those to run, or module:Class; none: all. The free rules always run."""
    budgets: tuple[float, ...] = ()
    """Shares of the target's FLOPs (6ND); none: 0.1 to 2 on a table, 1 on planted problems."""
    seeds: int | None = None
    """Replicates: other noise of the runs, other draws of the strategy. None: 100 on a table, 1 on planted problems."""
    noise: float | None = None
    """Sd of a run's loss as a fraction of it; None: estimated from the table."""
    jobs: int = 2
    """Processes."""
    out: Path = Path("compare")
    """Folder for runs.csv, summary.csv and regret.svg."""


_CASES: list[Case] = []


def _start(cases: list[Case], alone: bool = True) -> None:
    _CASES[:] = cases
    if not alone:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's Ctrl-C ends them


def _judge(name: str, case: int, budget: float, seeds: range, rules: Rules) -> list[Result]:
    return judge(_CASES[case], name, budget, seeds, rules)


def compare(
    cases: list[Case], config: CompareConfig, console: Console, found: list[Result] | None = None
) -> list[Result]:
    """All strategies, targets, budgets and seeds; the same results whatever the number of
    processes. `found` is filled as they come."""
    names = entered(config.strategies, set.intersection(*(set(case.serves) for case in cases)))
    budgets = config.budgets or ((1.0,) if config.planted else (0.1, 0.25, 0.5, 1.0, 2.0))
    seeds = (1 if config.planted else 100) if config.seeds is None else config.seeds
    if seeds < 1 or min(budgets) <= 0 or config.jobs < 1:
        raise UserError("--seeds, --budgets and --jobs must be positive.")
    work = [
        (name, case, budget, range(i, min(i + CHUNK, seeds)), config.rules)
        for name in names
        for case in range(len(cases))
        for budget in budgets
        for i in range(0, seeds, CHUNK)
    ]
    found = [] if found is None else found
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(console=console, transient=True, disable=not console.is_terminal))
        task = progress.add_task("searches", total=len(work))
        if config.jobs == 1:
            _start(cases)
            parts = (_judge(*one) for one in work)
        else:
            pool = ProcessPoolExecutor(config.jobs, initializer=_start, initargs=(cases, False))
            stack.enter_context(pool)
            parts = pool.map(_judge, *zip(*work, strict=True))
        for part in parts:
            found += part
            progress.advance(task)
    return found


def posed(config: CompareConfig, console: Console) -> list[Case]:
    """The targets of the table, or the planted ones."""
    if (config.table is None) == (not config.planted):
        raise UserError("Give a table of runs (--table runs.csv) or a number of planted problems (--planted 200).")
    if config.table is None:
        garden = Garden.of(config.planted)
        return [PlantedCase(name, planted, config.rules) for name, planted in garden.problems()]
    table = load_table(
        config.table, config.columns, context=config.context, loss_cap=config.loss_cap, curves=config.curves
    )
    world = World(table, noise=config.noise)
    cases, dropped = targets(world, config.rules)
    for note in (*table.notes, *dropped):
        console.print(f"{table.name}: {note}")
    console.print(f"{len(world.table.cells)} cells (N, D, batch); noise of a run {world.sd:.3%} of its loss")
    return list[Case](cases)


def write(rows: list[Result] | list[Line], path: Path) -> None:
    """As CSV, one row each."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(asdict(rows[0])))
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_atomic(path, text.getvalue().encode())


def draw(lines: list[Line]) -> Chart:
    """Regret against cost: medians as lines, up to the 90th percentile as bars."""
    chart = Chart("spent, % of one target run's FLOPs", "regret at the target, % of its loss", y_log=True, height=420)
    chart.title = f"{lines[0].table}: median regret against cost; bars: up to the 90th percentile"
    names = dict.fromkeys([*CONTENDERS, *(line.strategy for line in lines)])
    for i, name in enumerate(names):  # the same colour and dashes in every picture
        mine = [x for x in lines if x.strategy == name and x.answered - x.unjudged >= 0.5 and math.isfinite(x.median)]
        if not mine:
            continue
        points = [(max(100 * line.cost, 1), max(line.median, SHOWN)) for line in mine]
        tops = [line.p90 if math.isfinite(line.p90) else line.median for line in mine]
        chart.bars([(x, y, max(top, SHOWN)) for (x, y), top in zip(points, tops, strict=True)], i)
        chart.line(sorted(points), i, dash=i >= COLOURS)
        chart.dots(points, i, [f"{name}: {y:.3g} % at {x:.3g} %" for x, y in points], name, hollow=i >= COLOURS)
    return chart


def run(config: CompareConfig, console: Console) -> list[Line]:
    """Compare, print, and write what was found under `config.out`; interrupted, what was found until then."""
    cases, results = posed(config, console), list[Result]()
    try:
        compare(cases, config, console, results)
    except KeyboardInterrupt:
        if results:
            console.print(f"Interrupted: the {len(results)} searches that had ended are kept.")
            _write_all(results, summarise(results), config.out)
        raise
    lines = summarise(results)
    (planted_page if config.planted else leaderboard)(lines, console)
    _write_all(results, lines, config.out)
    console.print(f"Written: {config.out}/runs.csv, summary.csv, regret.svg")
    return lines


def _write_all(results: list[Result], lines: list[Line], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write(results, out / "runs.csv")
    write(lines, out / "summary.csv")
    first = [line for line in lines if line.table == lines[0].table]  # of planted problems, those to be answered
    write_atomic(out / "regret.svg", picture([draw(first)]))


def main(argv: Sequence[str]) -> int:
    config = parse(CompareConfig, argv, "hpt.compare")
    lines = run(config, config.console())
    best = min(lines, key=lambda line: (line.table != lines[0].table, -line.budget, line.median))
    words = f"{best.strategy}: median regret {best.median:.3f} % at a budget of {best.budget:g} target runs"
    config.answer([asdict(line) for line in lines], words)
    return 0


if __name__ == "__main__":
    cli.run(main)
