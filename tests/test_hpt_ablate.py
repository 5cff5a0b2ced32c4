"""Ablations: verdicts on planted gaps, and the command with real runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hpt import ablate
from scaling.ablation import judge, power_law
from trainer.errors import UserError

COMPUTE = [1e12, 4e12, 16e12]


def differences(gap: list[float], noise: float, seeds: int = 3, seed: int = 0) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    return [(g + noise * rng.standard_normal(seeds)).tolist() for g in gap]


def test_a_planted_gap_is_found_and_its_trend_named() -> None:
    even = judge(COMPUTE, differences([-0.05] * 3, 0.005))
    assert even.shown and abs(even.gap + 0.05) < 0.004
    assert "nats at all sizes" in even.sentence() and even.sentence().endswith("; recommended")
    fading = judge(COMPUTE, differences([-0.12, -0.07, -0.02], 0.004))
    assert "the gap shrinks with scale; not recommended" in fading.sentence()
    growing = judge(COMPUTE, differences([-0.02, -0.07, -0.12], 0.004))
    assert growing.sentence().endswith("the gap grows with scale; recommended")
    worse = judge(COMPUTE, differences([0.05] * 3, 0.005))
    assert "worse by" in worse.sentence() and worse.sentence().endswith("not recommended")


def test_noise_alone_is_seldom_shown() -> None:
    shown = [judge(COMPUTE, differences([0.0] * 3, 0.02, seeds=2, seed=s)).shown for s in range(400)]
    assert np.mean(shown) < 0.09  # 5 % by construction, and some scatter
    held = [judge(COMPUTE, differences([-0.03] * 3, 0.02, seeds=2, seed=s)) for s in range(400)]
    inside = [abs(v.gap + 0.03) < v.factor * v.error for v in held]
    assert 0.90 < np.mean(inside) < 0.99


def test_too_little_is_said() -> None:
    with pytest.raises(ValueError, match="two levels"):
        judge([1e12], [[0.1, 0.2]])
    with pytest.raises(ValueError, match="two seeds"):
        judge([1e12, 2e12], [[0.1], [0.2]])
    law = power_law(COMPUTE, [3.0 * c**-0.05 for c in COMPUTE])
    assert law is not None and law[0] == pytest.approx(3.0) and law[1] == pytest.approx(0.05)


FLAGS = [
    "--lr", "3e-3", "--set", "model.context=32", "model.depth=1", "model.heads=2", "model.width=32", "batch=256",
    "tokens=5120", "warmup=512", "data.val_tokens=512", "--levels", "0.25", "1",
]  # fmt: skip


def test_the_command_goes_on_and_judges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--variant", "swiglu:model.activation=swiglu", "slow:eps=1e-3", *FLAGS, "--out", str(tmp_path)]
    assert ablate.main(flags) == 0
    rows = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert len(rows) == 3 * 2 * 2
    found = json.loads((tmp_path / "verdict.json").read_text())
    assert set(found) == {"swiglu", "slow"} and "worse" in found["slow"]["sentence"]
    assert (tmp_path / "report.html").read_text().count("<svg") == 2
    (tmp_path / "runs.jsonl").write_text("\n".join(rows[:-3]) + "\n")
    capsys.readouterr()
    assert ablate.main(flags) == 0
    losses = [json.loads(row)["loss"] for row in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert losses == [json.loads(row)["loss"] for row in rows]
    assert capsys.readouterr().out.count(" left\n") == 3


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = [*FLAGS, "--out", str(tmp_path)]
    for flags, match in [
        (["--variant", "swiglu", *out], "is not of the form NAME:KEY=VALUE"),
        (["--variant", "a:eps=1e-6", *out, "--seeds", "1"], "two or more --seeds"),
        (["--variant", "a:eps=1e-6", *out, "--budget-runs", "0.1"], "raise it"),
        (["--variant", "a:nothing=1", *out], "no field 'nothing'"),
    ]:
        with pytest.raises(UserError, match=match):
            ablate.main(flags)
    assert ablate.main(["--variant", "two:eps=1e-6,clip=0.5", *out, "--dry-run"]) == 0
    assert "confounded" in capsys.readouterr().out and not (tmp_path / "runs.jsonl").exists()
