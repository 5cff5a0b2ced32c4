"""Cohorts: a member's losses are those of the same run alone, whoever else is in it or leaves."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokens_made import make_data

from trainer.architecture.loss import CHUNK_BYTES, _softmax_cpu, _softmax_cuda, linear_cross_entropy
from trainer.cohorts.calibrate import calibrate
from trainer.cohorts.cohort import Cohort, alike
from trainer.config import DataConfig, ModelConfig, RunConfig
from trainer.data import Batches, Prepared
from trainer.errors import UserError
from trainer.loop import Report, Training

GPT2 = ModelConfig(depth=2, width=32, heads=2, context=16, vocabulary=64)
LLAMA = replace(GPT2, positions="rope", norm="rmsnorm", activation="swiglu", bias=False, tied=False, kv_heads=1)
RUN = RunConfig(
    model=GPT2, data=DataConfig(val_tokens=256), tokens=64 * 40, batch=64, warmup=64 * 4, lr=3e-3,
    schedule="wsd", precision="fp32",
)  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return make_data(tmp_path_factory.mktemp("tokens"), 64)


def curve(reports: list[Report]) -> list[float]:
    """Training losses by report, the validation loss last."""
    losses = [r.train_loss for r in reports] + [reports[-1].val_loss]
    return [x for x in losses if x is not None]


def train(cohort: Cohort) -> dict[int, list[Report]]:
    found: dict[int, list[Report]] = {m: [] for m in cohort.members}
    for reports in cohort.reports():
        for member, report in reports.items():
            found[member].append(report)
    return found


def alone(run: RunConfig, data: Prepared, data_seed: int = 0) -> list[Report]:
    training = Training(run, data, CPU)
    training.train_batches = Batches(data.train, run.model.context, data_seed)
    return list(training.reports())


DIVERSE = [
    replace(RUN, lr=1e-3, weight_decay=0.0, clip=0),
    replace(RUN, lr=1e4, clip=0, warmup=0),  # diverges
    replace(RUN, lr=1e-2, schedule="cosine", warmup=64 * 8, betas=(0.8, 0.99), seed=3, final_fraction=0.1),
    replace(RUN, lr=3e-3, eps=1e-4, cooldown=0.5, clip=0.1, weight_decay=1.0),
    replace(RUN, lr=3e-3, tokens=64 * 20),  # ends halfway
]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    "base",
    [
        RUN,
        replace(RUN, model=LLAMA),
        replace(RUN, parametrisation="completep", base_width=16, base_depth=1, micro_batch=3),
        replace(RUN, model=LLAMA, data=DataConfig(val_tokens=256, mask_documents=True)),
    ],
    ids=["gpt2", "llama", "completep", "documents"],
)
def test_members_equal_the_same_runs_alone(data: Prepared, base: RunConfig, fused: bool) -> None:
    runs = [
        replace(r, model=base.model, data=base.data, parametrisation=base.parametrisation, micro_batch=base.micro_batch,
                base_width=base.base_width, base_depth=base.base_depth)
        for r in DIVERSE
    ]  # fmt: skip
    found = train(Cohort(runs, data, CPU, fused=fused))
    for member, run in enumerate(runs):
        mine, wanted = found[member], alone(run, data)
        assert [r.step for r in mine] == [r.step for r in wanted]
        assert [r.status for r in mine] == [r.status for r in wanted]
        assert mine[-1].status == ("diverged" if member == 1 else "finished")
        assert mine[-1].flops == wanted[-1].flops and mine[-1].lr == wanted[-1].lr
        assert curve(mine) == pytest.approx(curve(wanted), abs=2e-4)
        if member != 1:
            assert mine[-2].grad_norm == pytest.approx(wanted[-2].grad_norm, rel=2e-2)
            assert mine[-1].bits_per_byte == pytest.approx(wanted[-1].bits_per_byte, abs=2e-4)
            assert curve(mine)[-1] < math.log(64) - 0.1


@pytest.mark.parametrize("fused", [True, False])
def test_halving_leaves_the_rest_as_it_is(data: Prepared, fused: bool) -> None:
    runs = [replace(RUN, lr=lr) for lr in (1e-3, 1e-2, 3e-3, 3e-2)]
    cohort = Cohort(runs, data, CPU, fused=fused)
    last: dict[int, Report] = {}
    for reports in cohort.reports():
        last |= reports
        if cohort.engine.step_count == 20:
            cohort.keep([3, 1])
    assert cohort.members == [] and sorted(m for m in last if last[m].status == "finished") == [1, 3]
    assert last[0].step == 20 and last[0].status == "running"
    for member in (1, 3):
        assert last[member].val_loss == pytest.approx(alone(runs[member], data)[-1].val_loss, abs=2e-4)


@pytest.mark.parametrize("fused", [True, False])
def test_checkpoints_are_those_of_an_ordinary_run(data: Prepared, tmp_path: Path, fused: bool) -> None:
    """From a cohort's trunk alone, from an ordinary trunk in a cohort: as if never interrupted."""
    runs = [replace(RUN, lr=lr, tokens=64 * 20) for lr in (1e-3, 1e-2)]
    trunks = {m: tmp_path / f"{m}.safetensors" for m in (0, 1)}
    first = Cohort(runs, data, CPU, fused=fused)
    for _ in first.reports(trunks=trunks):
        pass
    assert first.saved_trunks == {0: 64 * 16, 1: 64 * 16}
    longer = [replace(run, tokens=RUN.tokens) for run in runs]
    wanted = [alone(run, data)[-1].val_loss for run in longer]
    second = Training(longer[1], data, CPU)
    second.load(trunks[1])
    assert list(second.reports())[-1].val_loss == pytest.approx(wanted[1], abs=2e-4)
    third = Cohort(longer, data, CPU, fused=not fused)
    third.load(list(trunks.values()))
    found = train(third)
    assert [found[m][-1].val_loss for m in (0, 1)] == pytest.approx(wanted, abs=2e-4)
    assert found[0][-1].flops == pytest.approx(0.6 * alone(longer[0], data)[-1].flops)


def test_members_at_different_steps_or_of_another_model_are_refused(data: Prepared, tmp_path: Path) -> None:
    training, paths = Training(RUN, data, CPU), [tmp_path / "0", tmp_path / "1"]
    training.save(paths[0])
    training.train_step()
    training.save(paths[1])
    for fused in (True, False):
        with pytest.raises(UserError, match=r"must be at the same step, and these are at \[0, 1\]"):
            Cohort([RUN, RUN], data, CPU, fused=fused).load(paths)
    wide = RUN.shaped(2, 64, 2)
    with pytest.raises(UserError, match="is of another model: embedding.weight is of shape"):
        Cohort([wide, wide], data, CPU, fused=True).load(paths)


def test_a_diverging_member_does_not_change_a_bit_of_the_others(data: Prepared) -> None:
    runs = [replace(RUN, lr=lr, clip=0, warmup=0) for lr in (1e-3, 1e8, 3e-3)]
    mine = Cohort(runs, data, CPU, fused=True)
    tame = Cohort([runs[0], replace(runs[1], lr=1e-9), runs[2]], data, CPU, fused=True)
    for _ in range(9):
        one, other = mine.engine.train_step()[0], tame.engine.train_step()[0]
    assert not math.isfinite(float(one[1])) or float(one[1]) > 50
    assert torch.equal(one[[0, 2]], other[[0, 2]])


def test_only_runs_that_share_shapes_and_batches_go_together(data: Prepared) -> None:
    assert all(alike(RUN, run) for run in DIVERSE)
    for other in (RUN.shaped(1, 32, 2), replace(RUN, batch=128), replace(RUN, parametrisation="mup")):
        assert not alike(RUN, other)
        with pytest.raises(UserError, match="Member 1 of a cohort differs from the first in more than tokens, lr"):
            Cohort([RUN, other], data, CPU)
    with pytest.raises(UserError, match="has no learning rate"):
        Cohort([RUN, replace(RUN, lr=None)], data, CPU)


def test_time_is_shared(data: Prepared) -> None:
    found = train(Cohort([RUN, RUN], data, CPU, fused=True))
    assert found[0][-1].seconds == found[1][-1].seconds > 0


def test_bf16_is_near(data: Prepared) -> None:
    runs = [replace(RUN, precision="bf16", lr=lr) for lr in (1e-3, 1e-2)]
    found = train(Cohort(runs, data, CPU, fused=True))
    for member, run in enumerate(runs):
        assert found[member][-1].val_loss == pytest.approx(alone(run, data)[-1].val_loss, abs=0.05)


@pytest.mark.parametrize("chunk", [4 * 70 * 5, 2**20])
def test_loss_of_many_models_is_that_of_each(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHUNK_BYTES, "cpu", chunk)  # rows of one model by parts, and all models at once
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(3, n, 8, generator=generator, requires_grad=True) for n in (12, 70))
    targets = torch.randint(70, (12,), generator=generator)
    together = linear_cross_entropy(x, weight, targets, 0.5)
    each = torch.stack([linear_cross_entropy(x[p], weight[p], targets, 0.5) for p in range(3)])
    torch.testing.assert_close(together, each)
    factors = torch.tensor([1.0, 2.0, -3.0])
    for mine, theirs in zip(
        torch.autograd.grad((together * factors).sum(), (x, weight)),
        torch.autograd.grad((each * factors).sum(), (x, weight)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_ways_to_the_gradient_agree(dtype: torch.dtype, scale: float) -> None:
    logits = (4 * torch.randn(2, 9, 70, generator=torch.Generator().manual_seed(0))).to(dtype)
    wanted = logits.argmax(-1, keepdim=True)
    losses, gradients = zip(
        *(f(logits.clone(), wanted, scale, True) for f in (_softmax_cpu, _softmax_cuda)), strict=True
    )
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)
    for f, loss in zip((_softmax_cpu, _softmax_cuda), losses, strict=True):
        assert torch.equal(f(logits.clone(), wanted, scale, False)[0], loss)


def test_no_gradient_is_made_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def softmax(*arguments: Any) -> Any:
        asked.append(arguments[-1])
        return _softmax_cpu(*arguments)

    monkeypatch.setattr("trainer.architecture.loss._softmax_cpu", softmax)
    x, weight, targets = torch.ones(3, 4), torch.ones(5, 4, requires_grad=True), torch.zeros(3, dtype=torch.int64)
    with torch.no_grad():
        without = linear_cross_entropy(x, weight, targets)
    assert torch.equal(without, linear_cross_entropy(x, weight, targets).detach()) and asked == [False, True]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile's own imports
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("cl") is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("fused", [False, True])
def test_compiled_members_are_the_same_and_cohorts_share_the_code(fused: bool, data: Prepared) -> None:
    runs = [replace(RUN, tokens=64 * 12, lr=lr) for lr in (1e-3, 1e-2)]
    eager = train(Cohort(runs, data, CPU, fused=fused))
    began = time.perf_counter()
    compiled = train(Cohort(runs, data, CPU, fused=fused, compile=True))
    first = time.perf_counter() - began
    for member in eager:
        assert curve(compiled[member]) == pytest.approx(curve(eager[member]), rel=1e-4)
    began = time.perf_counter()
    train(Cohort([replace(run, lr=3e-3) for run in runs], data, CPU, fused=fused, compile=True))
    assert time.perf_counter() - began < 0.5 * first
    found = calibrate(RUN, data, CPU, pack=2, compile=True)
    assert found.pack == 2 and found.tokens == 2 * 2 * 21 * 64
