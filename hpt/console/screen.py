"""What a search shows before and after: the plan, the answer. While it goes on: hpt.console.progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE
from rich.panel import Panel
from rich.table import Table

from hpt.console.tables import Fitting
from hpt.reports.numbers import duration, short
from search.budget import Spending
from search.records import Recommendation
from search.strategy import Stage, wall_seconds


def planned(stage: Stage) -> dict[str, Any]:
    """A stage for config.json, so that what was spent can be set beside it."""
    return {"name": stage.name, "trials": stage.trials, "tokens": stage.tokens, "cost": asdict(stage.cost)}


def plan_table(stages: Sequence[Stage], slots: int, priced: bool, launch: float = 0.0) -> Fitting:
    """What would be done; `launch`: seconds in which the workers start, all at once."""
    more = f"{duration(launch)} of it to start" if launch >= 1 else ""
    table = Table(title="Plan", title_justify="left", show_footer=True, box=SIMPLE)
    total = sum((s.cost for s in stages), Spending())
    columns = [
        ("stage", "total", "left", lambda s: s.name),
        ("trials", str(sum(s.trials for s in stages)), "right", lambda s: str(s.trials)),
        ("parameters", "", "right", lambda s: short(s.parameters)),
        ("tokens", short(sum(s.tokens for s in stages)), "right", lambda s: short(s.tokens)),
        ("FLOPs", f"{total.flops:.3g}", "right", lambda s: f"{s.cost.flops:.3g}"),
        (
            f"time, {slots} at once" if slots > 1 else "time",
            duration(wall_seconds(stages, slots) + launch),
            "right",
            lambda s: duration(wall_seconds([s], slots)),
        ),
    ]
    if not total.seconds:  # nothing was timed
        columns.pop()
    if priced:
        columns.append(("dollars", f"{total.usd:.2f}", "right", lambda s: f"{s.cost.usd:.2f}"))
    columns.append(("", more, "left", lambda s: s.note))
    for header, footer, justify, _ in columns:
        table.add_column(header, footer=footer, justify=justify)  # type: ignore[arg-type]
    for stage in stages:
        table.add_row(*(cell(stage) for *_, cell in columns))
    return Fitting(table, ("FLOPs", "parameters", "tokens"))


def answer_panel(answer: Recommendation, lines: Sequence[tuple[str, str]]) -> Panel:
    """The recommendation and the bill."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    if answer.lr is None:
        title, style = "No recommendation", "yellow"
    else:
        title, style = f"Recommended max lr: {answer.lr:.3g}", "green"
        for name, interval in (
            ("50 % interval", answer.interval50),
            ("90 % interval", answer.interval90),
        ):
            if interval:
                grid.add_row(name, f"{interval[0]:.3g} to {interval[1]:.3g}")
    if answer.max_stable_lr is not None:
        grid.add_row("largest stable lr", f"{answer.max_stable_lr:.3g}; a larger one diverged")
    if answer.undiverged_lr is not None:
        grid.add_row("stability", f"none diverged up to {answer.undiverged_lr:.3g}, the largest lr tried")
    if answer.expected_regret is not None and answer.worst_regret is not None:
        grid.add_row(
            "expected regret",
            f"{answer.expected_regret:.3g} nats: how much loss you probably give up by not knowing the best lr "
            f"exactly; {answer.worst_regret:.3g} if it lies at the worse end of the 90 % interval",
        )
    if answer.law:
        grid.add_row("how it is found", answer.law)
    for reason in answer.reasons:
        grid.add_row("note", reason)
    for name, value in lines:
        grid.add_row(name, value)
    return Panel(grid, title=title, border_style=style, expand=False)
