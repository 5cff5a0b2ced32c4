"""The coordinate check passes what transfers and fails what does not, planted mistakes included."""

from __future__ import annotations

from dataclasses import replace

import pytest

import trainer.architecture.model
import trainer.optimizer
from trainer.architecture.parametrisation import forward_scale, scale
from trainer.config import ModelConfig, RunConfig
from trainer.coordcheck import Movement, coordinate_check
from trainer.errors import UserError

MODEL = ModelConfig(depth=2, width=64, heads=2, context=32, vocabulary=256)
WIDTHS, DEPTHS = (128, 256, 512), (2, 4, 8)


def run(kind: str) -> RunConfig:
    return RunConfig(model=MODEL, tokens=3200, batch=32, parametrisation=kind)  # type: ignore[arg-type]


def failing(movements: list[Movement]) -> set[str]:
    return {m.name for m in movements if not m.passes}


@pytest.mark.parametrize("kind", ["mup", "completep"])
def test_width_transfers(kind: str) -> None:
    assert not failing(coordinate_check(run(kind), widths=WIDTHS))


def test_depth_transfers_in_completep_only() -> None:
    assert not failing(coordinate_check(run("completep"), depths=DEPTHS))
    assert "residual" in failing(coordinate_check(run("mup"), depths=DEPTHS))


def test_the_standard_parametrisation_fails() -> None:
    assert {"attention", "feed_forward", "residual"} <= failing(coordinate_check(run("sp"), widths=WIDTHS))


def test_a_forgotten_learning_rate_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.optimizer, "scale", lambda run, role: replace(scale(run, role), lr=1.0))
    assert "feed_forward" in failing(coordinate_check(run("mup"), widths=WIDTHS))


def test_a_forgotten_residual_multiplier_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        trainer.architecture.model, "forward_scale", lambda run: replace(forward_scale(run), residual=1.0)
    )
    assert "residual" in failing(coordinate_check(run("completep"), depths=DEPTHS))


def test_one_size_cannot_be_compared() -> None:
    with pytest.raises(UserError, match="two or more widths"):
        coordinate_check(run("mup"), widths=(64,))
