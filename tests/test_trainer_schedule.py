"""Schedules as functions of the step, and how groups of parameters scale."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.architecture.model import Transformer
from trainer.config import ModelConfig, RunConfig, from_dict, override, to_dict
from trainer.errors import UserError
from trainer.optimizer import make_optimizer, set_lr
from trainer.presets import PRESETS, preset
from trainer.schedule import decay_start, multiplier, warmup_steps

MODEL = ModelConfig(depth=2, width=32, heads=2, context=16, vocabulary=64)
RUN = RunConfig(model=MODEL, tokens=1600, batch=16, warmup=160)

runs = st.builds(
    lambda steps, warm, schedule, cooldown, final: RunConfig(
        model=MODEL, tokens=16 * steps, batch=16, warmup=16 * round(warm * steps), schedule=schedule,
        cooldown=cooldown, final_fraction=final,
    ),
    st.integers(1, 300), st.floats(0, 0.5), st.sampled_from(["cosine", "linear", "constant", "wsd"]),
    st.floats(0, 1), st.floats(0, 1),
)  # fmt: skip


@given(runs)
def test_rises_then_never_rises_again(run: RunConfig) -> None:
    values = [multiplier(run, step) for step in range(run.steps)]
    warm = min(warmup_steps(run), run.steps)
    assert all(0 < v <= 1 + 1e-12 for v in values[:warm])
    assert all(a <= b for a, b in zip(values[:warm], values[1:warm], strict=False))
    assert all(a >= b - 1e-12 for a, b in zip(values[warm:], values[warm + 1 :], strict=False))
    assert all(v >= min(run.final_fraction, 1) - 1e-12 for v in values[warm:])


def test_known_values() -> None:
    assert multiplier(RUN, 0) == pytest.approx(0.1) and multiplier(RUN, 9) == 1
    assert multiplier(RUN, 10 + 45) == pytest.approx(0.5)  # the middle of a cosine
    assert multiplier(RUN, 100) == 0  # it would reach 0 in the step after the last
    linear = replace(RUN, schedule="linear", final_fraction=0.1)
    assert multiplier(linear, 55) == pytest.approx(0.55)
    wsd = replace(RUN, schedule="wsd", cooldown=0.2)
    assert decay_start(wsd) == 80
    assert [multiplier(wsd, s) for s in (79, 80, 90)] == pytest.approx([1, 1, 0.5])


@given(runs, st.floats(1, 5))
def test_trunks_of_different_horizons_agree(run: RunConfig, longer: float) -> None:
    run = replace(run, schedule="wsd")
    more = replace(run, tokens=round(run.tokens * longer))
    shared = min(decay_start(run), decay_start(more))
    assert [multiplier(run, s) for s in range(shared)] == [multiplier(more, s) for s in range(shared)]


def test_decay_on_matrices_only_and_every_parameter_once() -> None:
    model = Transformer(RUN)
    optimizer = make_optimizer(model, RUN)
    seen = [id(p) for g in optimizer.param_groups for p in g["params"]]
    assert sorted(seen) == sorted(map(id, model.parameters()))
    for group in optimizer.param_groups:
        for p in group["params"]:
            assert (group["weight_decay"] > 0) == (p.dim() >= 2)


@pytest.mark.parametrize("kind", ["sp", "mup", "completep"])
def test_parametrisations_follow_the_table(kind: str) -> None:
    """arXiv 2505.01618 table 1 at twice the base width, four times the base depth."""
    wide = replace(RUN.shaped(8, 128, 2), parametrisation=kind, base_width=64, base_depth=2)
    model = Transformer(wide)
    optimizer = make_optimizer(model, wide)
    set_lr(optimizer, 1.0)
    group = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    hidden, embedding = model.blocks[0].attention.qkv.weight, model.embedding.weight
    bias = model.blocks[0].attention.qkv.bias
    expected = {"sp": (1.0, 0.1, 1e-8), "mup": (0.5, 0.1, 1e-8), "completep": (0.5, 0.2, 1e-8 / 8)}[kind]
    found = group[id(hidden)]
    assert (found["lr"], found["weight_decay"], found["eps"]) == pytest.approx(expected)
    assert group[id(embedding)]["lr"] == 1.0 and group[id(bias)]["lr"] == 1.0
    assert hidden.std().item() == pytest.approx(0.02 / (1 if kind == "sp" else math.sqrt(2)), rel=0.03)
    assert embedding.std().item() == pytest.approx(0.02, rel=0.03)
    scales = model.scales
    expected = {"sp": (1, 64**-0.5, 1), "mup": (1, 1 / 64, 0.5), "completep": (0.25, 1 / 64, 0.5)}[kind]
    assert (scales.residual, scales.attention, scales.logits) == pytest.approx(expected)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json_and_fit_themselves(name: str) -> None:
    run = preset(name)
    assert from_dict(RunConfig, to_dict(run)) == run
    assert run.lr is None and run.warmup < run.tokens


def test_override_sets_nested_fields_with_types() -> None:
    run = override(
        RUN,
        [
            "model.depth=4",
            "tokens=1.6e5",
            "betas=0.8,0.9",
            "loss_cap=none",
            "data.mask_documents=true",
        ],
    )
    assert (run.model.depth, run.tokens, run.betas) == (4, 160_000, (0.8, 0.9))
    assert run.loss_cap is None and run.data.mask_documents is True


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("model.depht=4", "has no field 'depht'"),
        ("model.depth=four", "'four' is not of type int"),
        ("schedule=cos", "choose from cosine, linear, constant, wsd"),
        ("depth", "not of the form KEY=VALUE"),
        ("batch=17", "not a multiple of the context of 16: use 16"),
        ("model.heads=5", "does not divide model.width=32"),
        ("warmup=99999", "must lie between 0 and tokens=1600"),
        ("tokens=0", "must be a whole number from 1"),
    ],
)
def test_bad_settings_are_one_sentence(assignment: str, sentence: str) -> None:
    with pytest.raises(UserError, match="(?s).") as error:
        override(RUN, [assignment])
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_near_names_are_suggested() -> None:
    with pytest.raises(UserError, match="did you mean gpt2-124m"):
        preset("gpt2-124")


def test_optimizer_is_adamw(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step against the formula of arXiv 1711.05101, decay scaled by the lr."""
    model = Transformer(RUN)
    optimizer = make_optimizer(model, RUN)
    set_lr(optimizer, 0.01)
    weight = model.embedding.weight
    before = weight.detach().clone()
    model.loss(torch.zeros(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.long)).backward()
    assert weight.grad is not None
    gradient = weight.grad.clone()
    optimizer.step()
    expected = before * (1 - 0.01 * 0.1) - 0.01 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(weight.detach(), expected, atol=1e-6, rtol=1e-4)
