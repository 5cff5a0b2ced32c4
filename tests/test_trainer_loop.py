"""One run: exact resume, one trunk for many horizons, divergence as a typed ending, the loss against PyTorch's."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tokens_made import make_data

from trainer.architecture.loss import linear_cross_entropy
from trainer.checkpoints.file import load_checkpoint
from trainer.cohorts.calibrate import calibrate
from trainer.config import DataConfig, ModelConfig, RunConfig
from trainer.data import Prepared
from trainer.errors import UserError
from trainer.loop import Report, Training, train

MODEL = ModelConfig(depth=2, width=32, heads=2, context=16, vocabulary=64)
RUN = RunConfig(
    model=MODEL, data=DataConfig(val_tokens=256), tokens=64 * 40, batch=64, warmup=64 * 4, lr=3e-3,
    schedule="wsd", precision="fp32",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return make_data(tmp_path_factory.mktemp("tokens"))


def losses(reports: list[Report]) -> list[tuple[int, float]]:
    return [(r.step, r.train_loss) for r in reports if r.train_loss is not None]


def test_learns_and_reports(data: Prepared) -> None:
    reports = list(train(RUN, data))
    last = reports[-1]
    assert last.status == "finished" and last.step == 40 and last.tokens == RUN.tokens
    assert last.val_loss is not None and last.val_loss < math.log(64) - 1.0
    assert last.bits_per_byte == pytest.approx(last.val_loss / math.log(2) / 2.0)
    assert last.flops > 0 and [r.step for r in reports] == [10, 20, 30, 40, 40]


@pytest.mark.parametrize("schedule", ["wsd", "cosine"])
def test_resume_is_exact(data: Prepared, tmp_path: Path, schedule: str) -> None:
    run = replace(RUN, schedule=schedule)
    whole = list(Training(run, data).reports())
    first = Training(run, data)
    for _ in range(20):
        first.train_step()
    first.save(tmp_path / "half.safetensors")
    second = list(train(run, data, resume=tmp_path / "half.safetensors"))
    assert losses(second) == losses(whole)[2:]  # to the last bit
    assert second[-1].val_loss == whole[-1].val_loss


def test_a_promoted_rung_equals_a_run_of_its_own(data: Prepared, tmp_path: Path) -> None:
    """Trunk to 16 of 20 steps, cooldown; from the trunk on to 32 of 40, cooldown: as if trained for 40 at once."""
    short, trunk = replace(RUN, tokens=64 * 20), tmp_path / "trunk.safetensors"
    one = Training(short, data)
    rung = list(one.reports(trunk=trunk))[-1]
    assert one.saved_trunk == 64 * 16 and load_checkpoint(trunk)[1]["step"] == 16
    promoted = list(train(RUN, data, resume=trunk))[-1]
    assert promoted.val_loss == list(train(RUN, data))[-1].val_loss
    assert rung.val_loss == list(train(short, data))[-1].val_loss


def test_batch_does_not_depend_on_micro_batches(data: Prepared) -> None:
    ends = [list(train(replace(RUN, micro_batch=m), data))[-1].val_loss for m in (1, 3, 4)]
    assert ends[0] == pytest.approx(ends[2], abs=2e-4) and ends[1] == pytest.approx(ends[2], abs=2e-4)


def test_divergence_is_typed(data: Prepared) -> None:
    last = list(train(replace(RUN, lr=1e6, clip=0, warmup=0), data))[-1]
    assert last.status == "diverged" and last.val_loss is None and last.step < 40
    capped = list(train(replace(RUN, loss_cap=0.01), data))[-1]
    assert capped.status == "diverged" and "above the cap of 0.01" in capped.reason


def test_hard_stop_is_typed(data: Prepared) -> None:
    last = list(Training(RUN, data).reports(seconds_limit=0.0))[-1]
    assert last.status == "stopped" and last.val_loss is None and "hard stop of 0 s" in last.reason


def test_horizon_cuts_the_schedule_short(data: Prepared) -> None:
    reports = list(Training(replace(RUN, schedule="cosine"), data).reports(64 * 10))
    assert reports[-1].step == 10 and reports[-1].lr > 0.9 * 3e-3


def test_checkpoints_of_other_models_and_damaged_ones_are_refused(data: Prepared, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    Training(RUN, data).save(path)
    with pytest.raises(UserError, match="is of another model: embedding.weight is of shape"):
        Training(RUN.shaped(2, 64, 2), data).load(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="is damaged"):
        Training(RUN, data).load(path)
    with pytest.raises(UserError, match="There is no checkpoint"):
        Training(RUN, data).load(tmp_path / "none")


def test_a_target_cannot_be_trained(data: Prepared) -> None:
    with pytest.raises(UserError, match="has no learning rate"):
        Training(replace(RUN, lr=None), data)


def test_calibration_measures(data: Prepared) -> None:
    found = calibrate(RUN, data)
    assert 0 < found.step_seconds < found.total_seconds and found.tokens == 21 * 64
    assert found.eval_seconds > 0


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_fused_loss_equals_pytorch(rows: int, scale: float) -> None:
    """1000 rows of 700 ids are several chunks."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 24, generator=generator, requires_grad=True)
    weight = torch.randn(700, 24, generator=generator, requires_grad=True)
    targets = torch.randint(700, (rows,), generator=generator)
    loss = linear_cross_entropy(x, weight, targets, scale)
    mine = torch.autograd.grad(3 * loss, (x, weight))
    plain = F.cross_entropy(scale * x @ weight.t(), targets)
    theirs = torch.autograd.grad(3 * plain, (x, weight))
    torch.testing.assert_close(loss, plain, atol=1e-5, rtol=1e-5)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_bf16_loss_is_near_and_runs(data: Prepared) -> None:
    full, half = (list(train(replace(RUN, precision=p), data))[-1].val_loss for p in ("fp32", "bf16"))
    assert full is not None and half == pytest.approx(full, abs=0.05)


def test_a_spike_that_is_made_good_is_no_divergence(data: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Training.train_step

    def spiking(self: Training) -> tuple[torch.Tensor, torch.Tensor]:
        loss, norm = step(self)
        return (loss + 5 if self.step == 15 else loss), norm

    monkeypatch.setattr(Training, "train_step", spiking)
    assert list(train(RUN, data))[-1].status == "finished"


def test_worse_than_guessing_at_the_end_is_divergence_even_in_warmup(data: Prepared) -> None:
    run = replace(RUN, warmup=RUN.tokens, schedule="cosine", loss_cap=0.5)
    last = list(Training(run, data).reports(64 * 5))[-1]
    assert last.status == "diverged" and last.val_loss is None


def test_calibration_of_a_pack_is_a_members_share(data: Prepared) -> None:
    found = calibrate(RUN, data, pack=3)
    assert found.pack == 3 and found.tokens == 3 * 21 * 64
    assert 0 < 3 * 20 * found.step_seconds < 4 * found.total_seconds
    assert calibrate(RUN, data, pack=None).pack == 1  # on a CPU
