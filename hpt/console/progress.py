"""What is shown while something goes on: redrawn on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from hpt.console.tables import Fitting
from hpt.reports.numbers import duration, of_given, short
from search.execution.contract import Progress
from search.execution.session import Session
from search.records import Proposal, Trial
from search.strategy import Stage, wall_seconds

PLAIN_EVERY = 15.0
"""Seconds between lines where the output is not a terminal (Slurm, nohup): whether anything happens or not."""
KNOWN = 3
"""Finished trials from which the time left is one number: forecasts are corrected by them (Session.correction)."""
DOUBT = 2.0
"""By what factor, either way, it may be off before the first has finished."""
ROWS = 4
"""Running trials with a line of their own."""


@contextmanager
def doing(console: Console, text: str) -> Iterator[Callable[[str], None]]:
    """While something takes its time: says what, and what it has come to."""
    now, began = [text], time.monotonic()
    if console.is_terminal:
        with console.status(text) as status:
            yield status.update
        return
    with _every(PLAIN_EVERY, lambda: console.print(f"{now[0]}, {duration(time.monotonic() - began)} so far")):
        yield lambda text: now.__setitem__(0, text)


@contextmanager
def _every(seconds: float, say: Callable[[], None]) -> Iterator[None]:
    """Calls it from a thread, the first time after so many seconds."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(seconds):
            say()

    thread = threading.Thread(target=work, name="hpt-says", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(1.0)


class Screen:
    """Progress of a search by stage, with the time left and the money spent.

    It is drawn from threads of its own: from copies of the session's lists, never by its history (whose cache is the
    strategy's) nor under its lock (a print under it would wait for the drawing).
    """

    def __init__(self, console: Console, session: Session, stages: Sequence[Stage], slots: int) -> None:
        self.console, self.session, self.slots = console, session, slots
        self.stages = {s.name: s for s in stages}
        self.news: dict[str, Progress] = {}  # of running proposals
        self.stops = False
        self.live = Live(console=console, refresh_per_second=4, transient=True, get_renderable=self.draw)
        self.lines = _every(PLAIN_EVERY, lambda: console.print(self.line()))

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            self.live.start()
        else:
            self.lines.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.live.stop()
        else:
            self.lines.__exit__(None, None, None)

    def stopping(self) -> None:
        """At the first Ctrl-C or SIGTERM."""
        self.stops = True
        self.console.print("stopping: what runs is billed and made again by --resume; a second Ctrl-C does not wait")

    def last_words(self, text: str) -> None:
        """Before the process ends by itself, from another thread."""
        if self.console.is_terminal:
            self.live.stop()
        self.console.print(text, soft_wrap=True)

    def progress(self, proposal: Proposal, progress: Progress) -> None:
        self.news[proposal.id] = progress

    def trial(self, trial: Trial) -> None:
        self.news.pop(trial.id, None)
        if trial.status == "failed":
            self.console.print(f"trial {trial.id} failed: {trial.error}", style="yellow")
        elif trial.retries:
            times = "once" if trial.retries == 1 else "twice"
            self.console.print(f"trial {trial.id}: its worker process died {times}, it was tried again", style="yellow")

    def line(self) -> str:
        """All in one line."""
        ended, running = self.mine(), list(self.session.running.values())
        finished = [(-t.horizon, t.loss, t.lr) for t in ended if t.loss is not None]
        found = ""
        if finished:
            _, loss, lr = min(finished)
            found = f", best at the longest horizon so far: lr {lr:.2e}, loss {loss:.4f}"
        newest = running[0].tags if running else ended[-1].tags if ended else {}
        return f"{newest.get('stage', '')}: {len(self.mine())} of {self.planned} trials, {self.rest()}{found}"

    def mine(self) -> list[Trial]:
        return [t for t in list(self.session.trials) if not t.aside]

    @property
    def planned(self) -> int:
        """Trials; a strategy that decides as it goes may make more."""
        return max(sum(s.trials for s in self.stages.values()), len(self.mine()) + len(self.session.running))

    def rest(self) -> str:
        """The time left, and the money spent."""
        low, high = map(duration, self.left())
        if not any(stage.cost.seconds for stage in self.stages.values()):  # nothing was timed: the budget is no time
            return "how long is not known"
        time_left = f"about {low} left" if low == high else f"{low} to {high} left"
        if any(not stage.trials for stage in self.stages.values()):  # nobody knows how many it will be
            time_left += " of what is planned by now"
        price, cap = self.session.problem.cost.usd_per_hour, self.session.cap or self.session.problem.budget
        spent = sum(t.usd for t in list(self.session.trials))
        return time_left + (f", {of_given(spent, cap.usd)} spent" if price else "")

    def left(self) -> tuple[float, float]:
        """Seconds of wall time, from and to: what the plan forecasts for trials that have not ended, corrected by those
        that have. A range while few have."""
        open_stages = []
        for name, stage in self.stages.items():
            ended = sum(t.tags.get("stage") == name for t in self.session.trials)
            trials = max(0, stage.trials - ended)
            open_stages.append(replace(stage, trials=trials, cost=stage.cost * (trials / max(1, stage.trials))))
        done = sum(self._share(p) * self.session.forecast(p).seconds for p in list(self.session.running.values()))
        seconds = max(0.0, wall_seconds(open_stages, self.slots) * self.session.correction - done / self.slots)
        ratios = self.session.ratios()
        if len(ratios) >= KNOWN:
            return seconds, seconds
        doubt = DOUBT ** (1 / (1 + len(ratios)))
        return seconds * min([1.0, *ratios]) / doubt, seconds * max([1.0, *ratios]) * doubt

    def _share(self, proposal: Proposal) -> float:
        """Of a running trial, what is done."""
        news = self.news.get(proposal.id)
        return 0.0 if news is None else max(0, news.tokens - proposal.start) / max(1, proposal.train_tokens)

    def draw(self) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for header in ("stage", "trials", "tokens each", "best lr", "loss"):
            table.add_column(header, justify="left" if header == "stage" else "right")
        trials, running = list(self.session.trials), list(self.session.running.values())
        for name, stage in self.stages.items():
            ended = [t for t in trials if t.tags.get("stage") == name]
            here = sum(p.tags.get("stage") == name for p in running)
            best = min((t for t in ended if t.loss is not None), key=lambda t: t.loss or 0, default=None)
            state = f"{len(ended)} of {stage.trials}" + (f", {here} running" if here else "")
            each = short(stage.run.tokens) if stage.run else ""
            style = "bold" if here else "dim" if len(ended) < stage.trials else ""
            found = (f"{best.lr:.2e}", f"{best.loss:.4f}") if best else ("", "")
            table.add_row(name, state, each, *found, style=style)
        rows = [self.running_line(p) for p in running[:ROWS]]
        rows += [f"  and {len(running) - ROWS} more"] if len(running) > ROWS else []
        last = "stopping" if self.stops else f"{self.rest()} · Ctrl-C stops, --resume goes on"
        return Group(Fitting(table, ("tokens each",)), *rows, last)

    def running_line(self, proposal: Proposal) -> str:
        """How far a trial is, its loss and its speed."""
        news, size = self.news.get(proposal.id), proposal.run.model
        what = f"  {size.depth}x{size.width} at lr {proposal.lr:.2e}: "
        if news is None:
            return what + "starting"
        loss = "" if news.train_loss is None else f", loss {news.train_loss:.4f}"
        speed = max(0, news.tokens - proposal.start) / news.train_seconds if news.train_seconds else 0.0
        fast = f", {short(speed)} tokens/s" if speed else ""
        return f"{what}{self._share(proposal):.0%} of {short(proposal.train_tokens)} tokens{loss}{fast}"
