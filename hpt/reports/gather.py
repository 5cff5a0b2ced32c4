"""What a report is about, read from a directory."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from search.budget import Budget, CostModel, Spending, Timing
from search.evidence.cells import Cell, cells
from search.execution.store import SearchDir
from search.records import History, Problem, Recommendation, Trial
from trainer.architecture.counts import parameters, run_flops
from trainer.config import RunConfig, from_dict, from_json, to_dict
from trainer.errors import UserError
from trainer.evals.score import Score
from trainer.files import read_json


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


@dataclass(frozen=True)
class _Saved:
    """Of config.json, what a report reads."""

    search: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, Any] = field(default_factory=dict)
    plan: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class _Stage:
    name: str
    trials: int
    tokens: float
    cost: Spending


def gather(path: Path) -> Found:
    """UserError where there is no search."""
    directory = SearchDir(path)
    saved = directory.read_config()
    config = path / "config.json"
    target, trials = from_json(RunConfig, saved.get("target"), config), directory.read_trials()
    answer = read_answer(directory) if (path / "recommendation.json").is_file() else {}
    held = from_json(_Saved, {k: v for k, v in saved.items() if k in ("search", "timings", "plan")}, config)
    cost = CostModel(timings={key: from_json(Timing, t, config) for key, t in held.timings.items()})
    problem = Problem(target=target, budget=Budget(flops=1.0), cost=cost)
    history = History(problem=problem, trials=tuple(t for t in trials if t.id != "calibration"))
    forecasts = {t.id: cost.forecast(t.run, t.horizon - t.start).seconds for t in history}
    return Found(
        path=path, search=held.search, target=target, trials=trials, answer=answer,
        cells=cells(history), forecasts=forecasts, history=history,
        plan={stage["name"]: to_dict(from_json(_Stage, stage, config)) for stage in held.plan},
    )  # fmt: skip


def read_answer(directory: SearchDir) -> dict[str, Any]:
    """recommendation.json; UserError for one that is damaged."""
    answer = directory.read_recommendation()
    from_json(Recommendation, {k: v for k, v in answer.items() if k != "bill"}, directory.path / "recommendation.json")
    return {**to_dict(Recommendation(lr=None)), **answer}


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
    run = from_json(RunConfig, read_json(path / "run.json"), path / "run.json")
    if not (path / "result.json").is_file():
        raise UserError(f"{path} has no result yet: let hpt.train end, or give its command again.")
    origin, result = _read(path / "origin.json"), read_json(path / "result.json")
    from_json(_Result, {k: v for k, v in result.items() if k in _RESULT}, path / "result.json")
    evaluations = _read(path / "evaluations.json")
    for entry in evaluations.values():
        from_json(_Evaluation, {"scores": entry.get("scores") if isinstance(entry, dict) else entry}, path)
    search = Path(str(origin["search"])) if origin.get("search") else None
    return FinalFound(
        path=path, run=run, result=result, evaluations=evaluations,
        samples=(path / "samples.txt").read_text(errors="replace") if (path / "samples.txt").is_file() else "",
        predicted=gather(search) if search and (search / "config.json").is_file() else None,
    )  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class _Result:
    """Of result.json, what a report reads."""

    status: str
    reason: str = ""
    loss: float | None = None
    bits_per_byte: float | None = None
    seconds: float = 0.0
    saving_seconds: float = 0.0
    usd: float | None = None
    curve: Curve = ()
    train_curve: Curve = ()
    lr_curve: Curve = ()
    grad_norm_curve: Curve = ()
    scores: tuple[tuple[float, dict[str, Any]], ...] = ()
    checkpoint: str = ""


_RESULT = {field.name for field in fields(_Result)}


@dataclass(frozen=True)
class _Evaluation:
    scores: tuple[dict[str, Any], ...]

    def __post_init__(self) -> None:
        for score in self.scores:
            from_dict(Score, score)
