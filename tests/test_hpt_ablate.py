"""Ablations: verdicts on planted gaps, and the command with real runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import pytest

from hpt import ablate
from hpt.studies.training import Row, Trainer, minimum, tuned
from hpt.studies.variants import Key, adjusted, flops_of, parse, plan, size_of
from hpt.studies.verdicts import summary
from scaling.ablation import judge, power_law
from trainer.config import RunConfig, override
from trainer.errors import UserError
from trainer.presets import preset

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
    assert (tmp_path / "report.html").read_text().count("<figure>") == 3
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


def test_variants_are_made_as_large_as_the_baseline() -> None:
    base = override(preset("laptop"), ["model.depth=3"])
    variants = {
        "baseline": (), "deep": ("model.depth=6",), "narrow": ("model.width=48",), "gated": ("model.activation=geglu",),
        "fa": ("model.layout=aff",), "qk": ("model.qk_dim=8",), "neo": ("family=gptneo", "model.windows=0,32"),
    }  # fmt: skip
    both = {"baseline": (), "both": ("model.depth=2", "model.width=96")}
    large = plan(base, both, (1.0,), 1, 1e-3, "parameters")["both", 1.0, 0].model
    assert (large.depth, large.width) == (2, 96) and large.hidden < 4 * 96
    with pytest.raises(UserError, match="by its ffn it comes no nearer than .13% flops"):
        plan(base, both, (1.0,), 1, 1e-3, "flops")  # the head alone costs more
    for match, measure in (("parameters", size_of), ("flops", flops_of)):
        runs = plan(base, variants, (0.25, 1.0), 2, 1e-3, match)  # type: ignore[arg-type]
        for (name, level, seed), run in runs.items():
            assert measure(run) == pytest.approx(measure(runs["baseline", level, seed]), rel=0.04), name
        largest = {name: runs[name, 1.0, 0].model for name in variants}
        assert largest["deep"].depth == 6 and largest["deep"].width < 64  # the knob stays, the width gives way
        assert largest["narrow"].width == 48 and largest["narrow"].depth > 3
        lines = adjusted(runs, variants, match)  # type: ignore[arg-type]
        assert any(line.startswith("deep, level 1: width 64 -> ") and line.endswith(match) for line in lines)
    with pytest.raises(UserError, match="leaves nothing by which"):
        plan(
            base, {"baseline": (), "x": ("model.width=32", "model.depth=1", "model.ffn=9")}, (0.5, 1), 2, 1e-3, "flops"
        )


def test_losses_of_other_tokens_are_not_compared(tmp_path: Path) -> None:
    flags = [
        "--variant",
        "bert:family=bert",
        *FLAGS,
        "--set",
        *FLAGS[3:10],
        "model.vocabulary=4097",
        "--out",
        str(tmp_path),
    ]
    with pytest.raises(UserError, match="losses of bert and the baseline are of other tokens"):
        ablate.main(flags)
    assert parse("neo:family=gptneo,model.windows=0,32") == ("neo", ("family=gptneo", "model.windows=0,32"))


def test_a_sweep_finds_the_lr_and_goes_on_at_its_end() -> None:
    """On planted parabolas, without training."""

    class Planted:
        asked: ClassVar[list[float]] = []

        def row(self, key: Key, run: RunConfig, stage: str = "") -> Row:
            assert run.lr is not None and stage == "tune"
            self.asked.append(run.lr)
            best = {"baseline": 1e-3, "high": 5e-3}[key[0]]
            return {"loss": None if run.lr > 1.5e-2 else 3 + 0.1 * math.log(run.lr / best) ** 2}

    base = override(preset("laptop"), FLAGS[3:10])
    runs = plan(base, {"baseline": (), "high": ("model.qk_dim=8",)}, (0.25, 1.0), 2, 1e-3 / 0.25**-0.2)
    found, factors = tuned(cast(Trainer, Planted()), runs, 3)
    assert factors["baseline"] == pytest.approx(1.0) and factors["high"] == pytest.approx(5.0)
    assert found["high", 1.0, 1].lr == pytest.approx(5.0 * (runs["high", 1.0, 1].lr or 0))
    assert len(Planted.asked) == 3 + 5  # two beyond the end
    assert minimum({1e-3: 3.0, 2e-3: 2.9, 4e-3: None}) == 2e-3  # beside one that diverged


def test_tasks_and_own_lrs_of_real_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        {"sentence_good": f"return the value of {x}", "sentence_bad": f"the {x} of return value"} for x in range(40)
    ]
    monkeypatch.setattr("trainer.evals.suite.locate", lambda task, *_, **__: tmp_path / f"{task}.jsonl")
    (tmp_path / "blimp.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    small = [f"data.corpus={Path(__file__).parents[1] / 'README.md'}", "data.tokenizer=bpe:300", "model.vocabulary=300"]
    small += ["tokens=1280", "data.val_tokens=256", "data.epochs=9", "model.width=16"]
    flags = [
        "--variant",
        "slow:eps=1e-3",
        *FLAGS,
        "--set",
        *FLAGS[3:10],
        *small,
        "--tasks",
        "blimp",
        "--tune-lr",
        "3",
        "--out",
        str(tmp_path / "out"),
    ]
    assert ablate.main(flags) == 0
    rows = [json.loads(row) for row in (tmp_path / "out" / "runs.jsonl").read_text().splitlines()]
    assert {row.get("stage") for row in rows} == {"tune", None} and len(rows) >= 6 + 2 * 2 * 2
    assert all(0 <= row["scores"]["blimp/acc"] <= 1 for row in rows)
    found = json.loads((tmp_path / "out" / "verdict.json").read_text())["slow"]
    assert set(found["tasks"]) == {"blimp"} and found["lr_factor"] > 0 and "blimp" in found["summary"]
    assert (tmp_path / "out" / "report.html").read_text().count("<figure>") == 4


def test_a_verdict_knows_which_way_is_better() -> None:
    rises = differences([0.05] * 3, 0.005)
    accuracy, loss = judge(COMPUTE, rises, unit="", higher=True), judge(COMPUTE, rises)
    assert (accuracy.word, loss.word) == ("better", "worse")
    assert accuracy.sentence().startswith("better by 0.0") and "nats" not in accuracy.sentence()
    noise = judge(COMPUTE, differences([0.0] * 3, 0.05))
    assert summary({"blimp": accuracy, "loss": loss, "x": noise}) == (
        "better: blimp; worse: loss; cannot be told from noise: x"
    )
