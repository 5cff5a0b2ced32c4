"""Tasks on every trial: the scores are those of the model by itself, their cost is forecast and billed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokens_made import make_data

from hpt.reports.gather import Found
from hpt.reports.text import trial_headers, trial_rows
from hpt.tracking.views import trial_metrics
from search.budget import Budget, CostModel, Timing, shape_key
from search.execution.session import Session
from search.execution.worker import Job, Progress, Worker, calibrate_here
from search.records import Problem, Proposal, Trial
from search.strategies.early_stopping import EarlyStopping
from search.strategies.model_scaling import ModelScaling
from search.strategy import Done, Strategy
from trainer.architecture.counts import run_flops
from trainer.cohorts.cohort import Cohort
from trainer.config import DataConfig, ModelConfig, RunConfig, override
from trainer.data import Prepared
from trainer.data.tokenizer import load_tokenizer, train_tokenizer
from trainer.errors import UserError
from trainer.evals.evaluators import evaluate
from trainer.evals.score import leading
from trainer.evals.suite import Suite
from trainer.loop import Training

RUN = RunConfig(
    model=ModelConfig(depth=1, width=16, heads=2, context=32, vocabulary=301), data=DataConfig(val_tokens=256),
    tokens=64 * 20, batch=64, lr=1e-3, precision="fp32",
)  # fmt: skip
BERT = override(RUN, ["family=bert"])


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """With a tokenizer, and two tasks in the cache."""
    monkeypatch.setenv("HPT_CACHE_DIR", str(tmp_path))
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    train_tokenizer([readme], 300, tmp_path / "tokenizer.json")
    words = readme.split()
    rows = [{"query": " ".join(words[i : i + 9]), "choices": words[i + 9 : i + 12], "gold": 0} for i in range(30)]
    pairs = [
        {"sentence_good": " ".join(words[i : i + 5]), "sentence_bad": " ".join(words[i + 4 : i - 1 : -1] or ["x"]),
         "linguistics_term": "ab"[i % 2]} for i in range(1, 31)
    ]  # fmt: skip
    (tmp_path / "evals").mkdir()
    for name, lines in (("choice", rows), ("blimp", pairs)):
        (tmp_path / "evals" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return replace(make_data(tmp_path / "tokens"), tokenizer=str(tmp_path / "tokenizer.json"), vocabulary=300)


def work(proposals: list[Proposal], data: Prepared, folder: Path, suite: Suite | None) -> dict[str, Progress]:
    mine = Worker(Job(proposals=tuple(proposals), data=data, checkpoints=str(folder), threads=1, suite=suite))
    found: dict[str, Progress] = {}
    while not mine.ended:
        found |= mine.advance(0.0)
    torch.set_flush_denormal(False)  # a worker has a process of its own
    return found


@pytest.mark.parametrize("run", [RUN, BERT], ids=["next", "masked"])
def test_every_trial_has_its_scores_and_pays_for_them(run: RunConfig, data: Prepared, tmp_path: Path) -> None:
    suite = Suite.of(("choice", "blimp"), data, 20)
    assert suite is not None
    lrs = (1e-3, 1e-2, 1e5)
    proposals = [Proposal(id=f"p{lr}", run=replace(run, lr=lr, warmup=0, clip=0), horizon=run.tokens) for lr in lrs]
    found, bare = work(proposals, data, tmp_path, suite), work(proposals, data, tmp_path, None)
    encoding = load_tokenizer(data.tokenizer)
    reading = suite.reading(run)
    for proposal in proposals[:2]:
        progress, without = found[proposal.id], bare[proposal.id]
        assert progress.loss == without.loss
        alone = Training(proposal.run, data)
        list(alone.reports())
        for task, file in suite.files.items():
            for score in evaluate(alone.model, encoding, task, file, 20):
                if "/" not in score.name:
                    assert progress.scores[f"{task}/{score.name}"] == score.value
        assert progress.flops == without.flops + reading.flops(run)
        cost = CostModel(task_tokens=reading.tokens, task_share=reading.share)
        assert cost.forecast(proposal.run, run.tokens).flops == pytest.approx(progress.flops)
        trial = Trial(id=proposal.id, run=proposal.run, horizon=run.tokens, **progress.outcome())
        assert Trial.from_json(json.loads(json.dumps(trial.to_json()))) == trial
        assert trial_metrics(trial)["blimp/acc_macro"] == progress.scores["blimp/acc_macro"]
    assert found[proposals[2].id].status == "diverged" and not found[proposals[2].id].scores
    assert leading(found[proposals[0].id].scores).keys() == {"choice", "blimp"}


def test_tokens_are_those_that_are_read(data: Prepared) -> None:
    """The count before anything is trained is what the evaluators then report."""
    suite = Suite.of(("choice", "blimp"), data, 20)
    assert suite is not None
    for run in (RUN, BERT):
        read, model = 0, Training(run, data).model
        for task, file in suite.files.items():
            seen: list[int] = []
            evaluate(
                model, load_tokenizer(data.tokenizer), task, file, 20, progress=lambda done, _, s=seen: s.append(done)
            )
            read += seen[-1]
        assert suite.reading(run).tokens == read
        assert 0 < suite.reading(run).share < (1 if run is RUN else 0.2)


def test_their_time_is_calibrated(data: Prepared) -> None:
    suite = Suite.of(("blimp",), data, 20)
    with_tasks, without = calibrate_here(RUN, data, 1, 1, suite), calibrate_here(RUN, data, 1, 1, None)
    torch.set_flush_denormal(False)
    assert with_tasks.eval_seconds > 2 * without.eval_seconds
    key = shape_key(RUN)
    slow, fast = (
        CostModel(timings={key: Timing(step_seconds=0.1, eval_seconds=c.eval_seconds)}).forecast(RUN, RUN.tokens)
        for c in (with_tasks, without)
    )
    assert slow.seconds - fast.seconds == pytest.approx(with_tasks.eval_seconds - without.eval_seconds)


def test_a_fused_member_is_scored_as_itself(data: Prepared) -> None:
    suite = Suite.of(("choice",), data, 20)
    assert suite is not None
    scores = []
    for fused in (True, False):
        cohort = Cohort([RUN, replace(RUN, lr=1e-2)], data, torch.device("cpu"), fused=fused)
        last = [r for r in cohort.reports(look=lambda model: suite.scores(model, RUN))][-1]
        scores.append([last[i].scores for i in (0, 1)])
    assert scores[0] == scores[1]


def test_a_trial_without_tasks_is_written_as_before() -> None:
    trial = Trial(id="a", run=RUN, horizon=100, status="finished", loss=1.0)
    assert "scores" not in trial.to_json()


def test_the_table_has_a_column_a_task() -> None:
    scored = Trial(id="a", run=RUN, horizon=100, status="finished", loss=1.0, scores={"blimp/acc": 0.6125})
    found = Found(path=Path(), search={}, target=RUN, trials=[scored, replace(scored, id="b", scores={})], answer={},
                  cells=[], forecasts={}, plan={}, history=None)  # type: ignore[arg-type]  # fmt: skip
    column = trial_headers(found).index("blimp")
    assert [row[column][0] for row in trial_rows(found)] == ["0.6125", ""]


@pytest.mark.parametrize(
    ("tasks", "match"),
    [
        (("hellaswagg",), "no task of that name"),
        (("val",), "no task of that name"),
        (("piqa",), "file of piqa is missing"),
    ],
)
def test_tasks_that_cannot_be_scored_are_told_at_once(data: Prepared, tasks: tuple[str, ...], match: str) -> None:
    with pytest.raises(UserError, match=match):
        Suite.of(tasks, data)


@pytest.mark.parametrize("strategy", [ModelScaling(), EarlyStopping()], ids=["model-scaling", "early-stopping"])
def test_a_masked_target_is_searched_as_any_other(strategy: Strategy, data: Prepared, tmp_path: Path) -> None:
    """Plan, trials, law, recommendation and budget, without Ray: the session asks, a worker trains."""
    target = override(BERT, ["data.pack=documents", "tokens=6400", "batch=256", "lr=none"])
    suite = Suite.of(("blimp",), data, 4)
    assert suite is not None
    reading = suite.reading(target)
    cost = CostModel(task_tokens=reading.tokens, task_share=reading.share)
    budget = Budget(flops=12 * run_flops(target))
    problem = Problem(target=target, budget=budget, cost=cost, lr_range=(1e-3, 1e-1))
    session = Session(strategy, problem)
    assert sum(stage.cost.flops for stage in strategy.plan(session.history)) <= budget.flops  # type: ignore[operator]
    while proposals := session.next(4):
        if isinstance(proposals, Done):
            break
        for proposal in proposals:
            progress = work([proposal], data, tmp_path, suite)[proposal.id]
            session.finish(session.billed(proposal, progress.outcome(), progress.train_seconds))
    ended = session.history.finished
    assert len(ended) >= 5 and all(t.run.objective == "masked" and t.scores for t in ended)
    assert session.history.spent.flops <= budget.flops  # type: ignore[operator]
    answer = strategy.recommend(session.history)
    assert answer.lr is not None and 1e-4 < answer.lr < 1
