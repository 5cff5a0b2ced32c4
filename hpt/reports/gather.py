"""What a report is about, read from a directory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.budget import Budget, CostModel, Spending, Timing
from search.evidence.cells import Cell, cells
from search.execution.store import SearchDir
from search.records import History, Problem, Trial
from trainer.architecture.counts import parameters, run_flops
from trainer.config import RunConfig, from_dict
from trainer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Found:
    """A search: its trials, its answer, its bill."""

    path: Path
    search: dict[str, Any]
    target: RunConfig
    trials: list[Trial]
    answer: dict[str, Any]
    """recommendation.json; empty while the search is under way."""
    cells: list[Cell]
    forecasts: dict[str, float]
    """Seconds that each trial was forecast to take."""
    plan: dict[str, dict[str, Any]]
    """By stage, as it was before the first trial: trials, tokens, cost."""
    history: History
    """The trials without the calibration."""

    @property
    def lr(self) -> float | None:
        return self.answer.get("lr")

    @property
    def interval90(self) -> tuple[float, float] | None:
        found = self.answer.get("interval90")
        return (found[0], found[1]) if found else None

    @property
    def n_target(self) -> int:
        return parameters(self.target.model).non_embedding

    def stages(self) -> list[tuple[str, list[Trial]]]:
        """Trials by stage, in the order of their first; calibration included."""
        names = dict.fromkeys(t.tags.get("stage", "trials") for t in self.trials)
        return [(name, [t for t in self.trials if t.tags.get("stage", "trials") == name]) for name in names]

    def share(self, trials: list[Trial]) -> float:
        """Of the target's FLOPs."""
        return sum((t.spending for t in trials), Spending()).flops / run_flops(self.target)


def gather(path: Path) -> Found:
    """UserError where there is no search."""
    directory = SearchDir(path)
    saved = directory.read_config()
    target, trials = from_dict(RunConfig, saved["target"]), directory.read_trials()
    answer = {}
    if (path / "recommendation.json").is_file():
        answer = directory.read_recommendation()
    cost = CostModel(timings={key: Timing(**t) for key, t in saved.get("timings", {}).items()})
    problem = Problem(target=target, budget=Budget(flops=1.0), cost=cost)
    history = History(problem=problem, trials=tuple(t for t in trials if t.id != "calibration"))
    forecasts = {t.id: cost.forecast(t.run, t.horizon - t.start).seconds for t in history}
    return Found(
        path=path, search=saved.get("search", {}), target=target, trials=trials, answer=answer,
        cells=cells(history), forecasts=forecasts, history=history,
        plan={stage["name"]: stage for stage in saved.get("plan", ())},
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FinalFound:
    """A final run: what hpt.train left."""

    path: Path
    run: RunConfig
    result: dict[str, Any]
    evaluations: dict[str, Any]
    samples: str
    predicted: Found | None
    """The search that recommended its lr, where it is still there."""


def gather_final(path: Path) -> FinalFound:
    """UserError where training has not ended yet."""
    run = from_dict(RunConfig, json.loads((path / "run.json").read_text()))
    if not (path / "result.json").is_file():
        raise UserError(f"{path} has no result yet: let hpt.train end, or give its command again.")
    origin = _read(path / "origin.json")
    search = Path(origin["search"]) if origin.get("search") else None
    return FinalFound(
        path=path, run=run, result=_read(path / "result.json"), evaluations=_read(path / "evaluations.json"),
        samples=(path / "samples.txt").read_text() if (path / "samples.txt").is_file() else "",
        predicted=gather(search) if search and (search / "config.json").is_file() else None,
    )  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}
