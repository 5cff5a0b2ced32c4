"""What `import hpt` offers: find an lr, look into a search, drive one by ask and tell. No argv, no exit.

>>> import hpt
>>> hpt.presets["gpt2-124m"]().batch
524288
>>> def train(run, report):
...     return 3 + (run.lr - 3e-3) ** 2 / run.lr
>>> hpt.find_lr(train, strategy="greedy", quiet=True)
Traceback (most recent call last):
trainer.errors.UserError: --strategy greedy stops runs before their schedule has ended, which --trainer train cannot ...
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hpt.console.answer import make_bill
from hpt.console.asked import begin_asked
from hpt.console.beginning import claimed
from hpt.console.local import begin, make, run
from hpt.console.settings import SearchConfig, from_json
from hpt.console.trainers import OWN
from hpt.regret import Curve, truth_curve
from hpt.reports.charts import search_charts
from hpt.reports.files import write_report
from hpt.reports.gather import Found, gather
from hpt.reports.judged import Picture, Truth, beside, frame, valleys
from hpt.reports.laws import Axis, fit_rows, law_rows
from scaling.published import predict_all
from search.evidence.cells import cells
from search.execution.asktell import LEASE_SECONDS, AskTell
from search.execution.external.template import values_of
from search.execution.store import SearchDir
from search.records import History, Problem, Recommendation, Trial
from search.strategies import load as load_strategy
from search.strategies.literature import scale_of
from search.strategy import Done, Strategy
from trainer.architecture.counts import parameters
from trainer.config import RunConfig, override, to_dict
from trainer.errors import UserError
from trainer.presets import PRESETS

Train = Callable[[Any, Any], Any]
"""train(run, report) -> final validation loss; see docs/trainers.md."""
presets: Mapping[str, Callable[[], RunConfig]] = PRESETS
"""Targets by name."""


def find_lr(train: Train | str | None = None, *, quiet: bool = False, **settings: Any) -> Recommendation:
    """The lr that a search within a budget recommends, run from this process without Ray.

    train: your own trainer, a function (run, report) -> loss, called in a process of its own for each trial; or its
    name "module:function"; or a command with placeholders; None: hpt's own. settings: those of `hpt.search` (target,
    tokens, batch, strategy, budget_hours, budget_usd with usd_per_hour, budget_flops, budget_runs, seed, name, out,
    slots, lr_range, set=("model.depth=4",) ...). `resume=Path(...)` goes on with a search that was interrupted. Its
    files are in out/name. UserError says what is wrong with any of it.
    """
    named = f"{train.__module__}:{getattr(train, '__qualname__', 'train')}" if callable(train) else train or OWN
    config = SearchConfig(**{"quiet": quiet, "trainer": named, **settings})
    directory = claimed(config)
    try:
        setup = make(config, directory, train if callable(train) else None)
        session = begin(setup)
        run(setup, session)
        answer = setup.strategy.recommend(session.history)
        directory.write_recommendation(answer, make_bill(setup, session.history))
        write_report(directory.path)
        return answer
    finally:
        directory.unlock()


@dataclass(frozen=True)
class Loaded:
    """A search's directory, read; nothing in it is changed."""

    path: Path
    strategy: Strategy
    problem: Problem
    history: tuple[Trial, ...]

    @cached_property
    def trials(self) -> Any:
        """A pandas DataFrame, a row a trial: id, lr, N, D, B, loss, status, what it cost, and its stage."""
        import pandas

        return pandas.DataFrame([_row(trial) for trial in self.history if not trial.aside])

    def recommend(self) -> Recommendation:
        """The answer that the trials support."""
        return self.strategy.recommend(self._history)

    @property
    def _history(self) -> History:
        return History(problem=self.problem, trials=tuple(t for t in self.history if t.id != "calibration"))

    @cached_property
    def found(self) -> Found:
        """What the pages draw: as recorded; of other trials or another target, with the answer that they support."""
        recorded = gather(self.path)
        if tuple(recorded.trials) == self.history and replace(recorded.target, lr=None) == self.problem.target:
            return recorded
        return replace(recorded, target=self.problem.target, trials=list(self.history), history=self._history,
                       cells=cells(self._history), answer=to_dict(self.recommend()))  # fmt: skip

    def only(self, keep: Callable[[Trial], bool]) -> Loaded:
        """The search as if it had no other trials than these."""
        return replace(self, history=tuple(t for t in self.history if keep(t)))

    def __add__(self, other: Loaded) -> Loaded:
        """This search with another's trials beside its own."""
        return replace(self, history=(*self.history, *(t for t in other.history if t.id != "calibration")))

    def what_if(
        self, *, tokens: float | None = None, batch: float | None = None, set: tuple[str, ...] = ()
    ) -> Recommendation:
        """The answer for another target, from the same trials: more tokens, another batch, any other field."""
        target = self.problem.target
        if tokens is not None:
            target = replace(target, tokens=int(tokens), warmup=round(target.warmup * tokens / target.tokens))
        target = override(target if batch is None else replace(target, batch=int(batch)), set)
        return replace(self, problem=replace(self.problem, target=target)).recommend()

    @cached_property
    def fits(self) -> Any:
        """A pandas DataFrame, a row a size and length: its best lr by the fitted valley, with the 90 % interval."""
        return frame(fit_rows(self.found))

    def laws(self, axis: Axis = "N") -> Any:
        """A pandas DataFrame: how the best lr may move with N or D, what each law says, and why it is refused."""
        return frame(law_rows(self.found, axis))

    def plot(self, what: str = "u_curves", truth: Truth | None = None) -> Picture:
        """u_curves: loss against lr, a curve for each size and number of tokens; learning_curves; rungs;
        best_lr_by_N, best_lr_by_D, best_lr_by_B: where the best lr moves, with the laws. truth: `hpt.truth(grid)`,
        drawn into it. UserError where there is nothing to draw, or no such picture."""
        charts = search_charts(self.found)
        if what not in charts:
            there = f"it can draw {', '.join(charts)}" if charts else "there is nothing to draw"
            raise UserError(f"{self.path} has no picture {what!r} from {len(self.history)} trials: {there}.")
        if truth is not None:
            beside(charts[what], what, truth, self.found)
        return Picture.of(charts[what])


def _row(trial: Trial) -> dict[str, Any]:
    n = parameters(trial.run.model)
    return {"id": trial.id, "lr": trial.lr, "n": n.non_embedding, "n_total": n.total, "d": trial.horizon,
            "batch": trial.run.batch, "loss": trial.loss, "status": trial.status, "seconds": trial.seconds,
            "flops": trial.flops, "usd": trial.usd, "seed": trial.run.seed, "stage": trial.tags.get("stage", ""),
            "error": trial.error}  # fmt: skip


def load(path: str | Path, strategy: Strategy | None = None) -> Loaded:
    """A search that was made, or is under way. strategy: where it was code of your own, or to ask another one."""
    directory = SearchDir(Path(path))
    config = from_json(directory.read_config("search", "target")["search"], directory.path)
    if strategy is None and ":" in config.strategy:
        raise UserError(f"{path} was searched by {config.strategy}, code of its own: load(path, strategy=...) asks it.")
    found = gather(directory.path)
    target = replace(found.target, lr=None)
    budget = config.build_budget(target, 1)  # which a sweep's plan was fitted to
    problem = replace(found.history.problem, target=target, budget=budget, lr_range=config.lr_range, seed=config.seed)
    return Loaded(directory.path, strategy or config.build_strategy(), problem, tuple(found.trials))


def truth(grid: str | Path) -> Curve:
    """The target's loss by ln lr, from the trials.jsonl of a grid of whole runs; `.lr` is the best one."""
    return truth_curve(Path(grid))


def regrets(truths: Mapping[str, Curve]) -> Picture:
    """What learning rates give up at each target, in per cent of its lowest loss, with those of published laws."""
    said = {name: [(law.name, math.exp(law.log_value)) for law in predict_all(scale_of(curve.run))]
            for name, curve in truths.items()}  # fmt: skip
    return Picture.of(valleys(truths, said))


class Search:
    """A search by ask and tell: each call reads and writes the directory, so no process must live between two.

    Search("searches/mine") opens one; Search.create("searches/mine", target=..., budget_runs=...) begins it.
    """

    def __init__(self, path: str | Path, strategy: str | None = None) -> None:
        self._asked = AskTell.open(SearchDir(Path(path)), load_strategy, strategy)

    @staticmethod
    def create(path: str | Path, **settings: Any) -> Search:
        """settings: those of `hpt.search` that say what is searched: target, tokens, batch, strategy, a budget ..."""
        path = Path(path)
        config = SearchConfig(name=path.name, out=path.parent, ask_only=True, quiet=True, **settings)
        directory = claimed(config)
        try:
            begin_asked(config, directory)
        finally:
            directory.unlock()
        return Search(path, config.strategy if ":" in config.strategy else None)

    @property
    def path(self) -> Path:
        return self._asked.directory.path

    def ask(self, count: int = 1, *, lease_hours: float = LEASE_SECONDS / 3600) -> list[dict[str, Any]] | None:
        """Up to so many trials to run, each with its id, lr, steps, shape ...; [] to wait; None: it is over."""
        answer = self._asked.ask(count, lease_hours * 3600)
        return None if isinstance(answer, Done) else [{**values_of(p), "id": p.id} for p in answer]

    def tell(self, trial: str, loss: float | None = None, *, diverged: bool = False, failed: str = "",
             seconds: float | None = None, tokens: float | None = None) -> bool:  # fmt: skip
        """How a trial ended; False: it was told before. UserError for what cannot be."""
        return self._asked.tell(trial, loss, diverged=diverged, failed=failed, seconds=seconds, tokens=tokens)

    def recommend(self) -> Recommendation:
        """The answer so far."""
        return self._asked.recommend()
