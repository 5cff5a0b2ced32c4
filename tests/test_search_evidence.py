"""pytest tests/test_search_evidence.py"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from search.budget import Budget, CostModel
from search.evidence import cells
from search.records import History, Problem, Trial
from trainer.counts import parameters
from trainer.presets import laptop


def test_trials_are_grouped_by_everything_but_lr_and_seed() -> None:
    run = laptop()
    small, problem = (
        run.shaped(1, 32, 1),
        Problem(target=run, budget=Budget(flops=1e15), cost=CostModel()),
    )
    trials = [
        Trial(id=f"{r.model.width}-{h}-{lr}-{seed}", run=replace(r, lr=lr, seed=seed), horizon=h, status="finished",
              loss=5 + 0.1 * math.log(lr / 3e-3) ** 2)
        for r in (run, small) for h in (800_000, 400_000) for lr in (1e-3, 2e-3, 4e-3, 8e-3) for seed in (0, 1)
    ]  # fmt: skip
    other = replace(run, lr=1e-2)
    trials += [
        Trial(id="bad", run=other, horizon=400_000, status="diverged"),
        Trial(id="failed", run=other, horizon=400_000, status="failed"),
        Trial(id="lone", run=replace(other, weight_decay=0.0), horizon=400_000, status="diverged"),
    ]
    found = cells(History(problem=problem, trials=tuple(trials)))
    assert [(c.run.model.width, c.horizon, len(c.lrs), len(c.diverged)) for c in found] == [
        (32, 400_000, 8, 0), (32, 800_000, 8, 0), (64, 400_000, 8, 1), (64, 400_000, 0, 1), (64, 800_000, 8, 0),
    ]  # fmt: skip
    assert (
        found[2].trials[-1] == "bad"
        and found[2].run.lr is None
        and found[2].n_total == parameters(run.model).total
    )
    assert found[3].optimum is None
    for cell in (found[0], found[2]):
        assert cell.optimum and cell.optimum.log_lr == pytest.approx(math.log(3e-3), abs=0.15)
    assert cells(History(problem=problem)) == []
