"""What a search shows in the terminal: plan, progress, answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from rich.box import SIMPLE
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from hpt.console.tables import Fitting
from hpt.reports.numbers import duration, short
from search.budget import Spending
from search.execution.contract import Progress
from search.execution.session import Session
from search.records import Proposal, Recommendation, Trial
from search.strategy import Stage, wall_seconds

PLAIN_EVERY = 15.0  # seconds between lines where the output is not a terminal


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
    if priced:
        columns.append(("dollars", f"{total.usd:.2f}", "right", lambda s: f"{s.cost.usd:.2f}"))
    columns.append(("", more, "left", lambda s: s.note))
    for header, footer, justify, _ in columns:
        table.add_column(header, footer=footer, justify=justify)  # type: ignore[arg-type]
    for stage in stages:
        table.add_row(*(cell(stage) for *_, cell in columns))
    return Fitting(table, ("FLOPs", "parameters", "tokens"))


class Screen:
    """Progress by stage with the time left: redrawn on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, session: Session, stages: Sequence[Stage], slots: int) -> None:
        self.console, self.session, self.slots = console, session, slots
        self.stages = {s.name: s for s in stages}
        self.tokens: dict[str, int] = {}  # of running proposals
        self.last_line = time.monotonic()
        self.live = Live(console=console, refresh_per_second=4, transient=True, get_renderable=self.draw)

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def last_words(self, text: str) -> None:
        """Before the process ends by itself."""
        self.__exit__()
        self.console.print(text, soft_wrap=True)

    def progress(self, proposal: Proposal, progress: Progress) -> None:
        self.tokens[proposal.id] = max(0, progress.tokens - proposal.start)

    def trial(self, trial: Trial) -> None:
        self.tokens.pop(trial.id, None)
        if trial.status == "failed":
            self.console.print(f"trial {trial.id} failed: {trial.error}", style="yellow")
        elif trial.retries:
            times = "once" if trial.retries == 1 else "twice"
            self.console.print(f"trial {trial.id}: its worker process died {times}, it was tried again", style="yellow")
        if not self.console.is_terminal and time.monotonic() - self.last_line > PLAIN_EVERY:
            self.last_line = time.monotonic()
            self.console.print(self.line())

    def line(self) -> str:
        ended = self.session.history
        best = min(ended.finished, key=lambda t: (-t.horizon, t.loss), default=None)
        found = f", best at the longest horizon so far: lr {best.lr:.2e}, loss {best.loss:.4f}" if best else ""
        newest = ended.trials[-1].tags.get("stage", "") if ended.trials else ""
        return f"{newest}: {len(self.mine())} of {self.planned} trials, about {duration(self.left())} left{found}"

    def mine(self) -> list[Trial]:
        return [t for t in self.session.trials if not t.aside]

    @property
    def planned(self) -> int:
        """Trials; a strategy that decides as it goes may make more."""
        return max(sum(s.trials for s in self.stages.values()), len(self.mine()) + len(self.session.running))

    def left(self) -> float:
        """Seconds of wall time: what the plan forecasts for trials that have not ended, corrected."""
        open_stages = []
        for name, stage in self.stages.items():
            ended = sum(t.tags.get("stage") == name for t in self.session.trials)
            trials = max(0, stage.trials - ended)
            open_stages.append(replace(stage, trials=trials, cost=stage.cost * (trials / max(1, stage.trials))))
        running = self.session.running.values()
        done = sum(
            self.tokens.get(p.id, 0) / max(1, p.train_tokens) * self.session.forecast(p).seconds for p in running
        )
        return max(0.0, wall_seconds(open_stages, self.slots) * self.session.correction - done / self.slots)

    def draw(self) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for header in ("stage", "trials", "tokens each", "best lr", "loss"):
            table.add_column(header, justify="left" if header == "stage" else "right")
        for name, stage in self.stages.items():
            ended = [t for t in self.session.trials if t.tags.get("stage") == name]
            running = sum(p.tags.get("stage") == name for p in self.session.running.values())
            best = min((t for t in ended if t.loss is not None), key=lambda t: t.loss or 0, default=None)
            state = f"{len(ended)}/{stage.trials}" + (f" +{running}" if running else "")
            each = short(stage.run.tokens) if stage.run else ""
            style = "bold" if running else "dim" if len(ended) < stage.trials else ""
            found = (f"{best.lr:.2e}", f"{best.loss:.4f}") if best else ("", "")
            table.add_row(name, state, each, *found, style=style)
        return Group(table, f"about {duration(self.left())} left · Ctrl-C stops, --resume goes on")


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
