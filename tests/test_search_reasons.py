"""What `transfer` says of a given history: an answer, what it doubts, and where nobody could know."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from hpt.console.screen import answer_panel
from scaling.batchlaw import prior
from search.budget import Budget, CostModel
from search.execution.session import Session
from search.records import History, Problem, Recommendation, Trial, point
from search.shapes.ladder import model_of, size_of
from search.strategies.transfer import Transfer
from search.strategy import Done
from search.transfer.belief import Belief
from search.transfer.choosing import Chooser
from trainer.architecture.counts import run_flops
from trainer.config import DataConfig, RunConfig
from trainer.errors import UserError
from trainer.presets import preset

LRS = tuple(np.exp(np.arange(math.log(5e-4), math.log(0.07), math.log(2))))
N, D, B = 4_000_000, 80_000_000, 32768
Loss = Callable[[float, RunConfig], float | None]


def shape(n: float = 1.0, d: float = 1.0, b: float = 1.0) -> RunConfig:
    """Shares of the target's N, D and batch."""
    batch = round(b * B)
    tokens = max(1, round(d * D / batch)) * batch
    return RunConfig(model=model_of(round(n * N)), data=DataConfig(val_tokens=1), tokens=tokens, batch=batch)


MENU = tuple(shape(n, d) for n in (1 / 16, 1 / 4) for d in (1 / 4, 1.0))


def valley(slope: float = -0.3, level: float = 4e-3, h: float = 0.02, noise: float = 5e-4, cliff: float = 9.0) -> Loss:
    def loss(lr: float, run: RunConfig) -> float | None:
        z = math.log(lr / (level * (size_of(run) / N) ** slope))
        chance = np.random.default_rng([round(1e6 * lr), size_of(run), run.tokens, run.seed]).standard_normal()
        return None if z > cliff else 3 * (1 + h * z * z + noise * chance)

    return loss


def recorded(loss: Loss, runs: Iterable[RunConfig] = MENU, lrs: Iterable[float] = LRS, **settings: object) -> History:
    runs, lrs = tuple(runs), tuple(lrs)
    target = shape()
    trials = [_trial(f"{i}-{j}", replace(run, lr=lr), loss) for i, run in enumerate(runs) for j, lr in enumerate(lrs)]
    posed = Problem(target=target, budget=Budget(flops=run_flops(target)), cost=CostModel(), proxies=runs)
    return History(problem=posed, trials=tuple(trials))


def _trial(name: str, run: RunConfig, loss: Loss) -> Trial:
    found = loss(run.lr or 0.0, run)
    return Trial(
        id=name, run=run, horizon=run.tokens, status="diverged" if found is None else "finished", loss=found, flops=1.0
    )


def said(answer: Recommendation) -> str:
    return " ".join(answer.reasons)


def test_a_table_with_valleys_is_answered_without_a_doubt_but_the_batch() -> None:
    answer = Transfer().recommend(recorded(valley(), (*MENU, shape(1 / 4, 1 / 4, 1 / 4))))
    assert answer.lr is not None and abs(math.log(answer.lr / 4e-3)) < 0.25
    assert all(r.startswith("Not simply") for r in answer.reasons)


@pytest.mark.parametrize("noise", [0.0007, 0.01])
@pytest.mark.parametrize("seed", range(3))
def test_noise_is_no_valley(noise: float, seed: int) -> None:
    flat = valley(h=0.0, noise=noise)
    history = recorded(lambda lr, run: flat(lr * (1 + 0.01 * seed), run))
    answer = Transfer().recommend(history)
    assert answer.lr is None and answer.interval90 is None and "No valley is seen" in said(answer)
    assert "More seeds" in said(answer)


def test_a_valley_in_much_noise_is_seen_by_many_runs() -> None:
    lrs = sorted([*LRS, *(1.1 * np.array(LRS)), *(1.2 * np.array(LRS)), *(1.3 * np.array(LRS))])
    assert Transfer().recommend(recorded(valley(h=0.02, noise=0.012), lrs=lrs)).lr is not None


@pytest.mark.parametrize(("level", "way"), [(0.6, "above"), (1e-5, "below")])
def test_all_optima_at_one_edge_are_refused(level: float, way: str) -> None:
    answer = Transfer().recommend(recorded(valley(level=level), lrs=LRS[1:6]))
    end = LRS[5] if way == "above" else LRS[1]
    assert answer.lr is None and f"lr* is {way} {end:.2g}" in said(answer) and "--lr-range" in said(answer)


def test_a_single_point_and_one_lr_a_cell_are_refused() -> None:
    for runs in (MENU[:1], MENU):
        answer = Transfer().recommend(recorded(valley(), runs, lrs=LRS[3:4]))
        assert answer.lr is None and "two lrs" in said(answer)


@pytest.mark.parametrize("slope", [0.6, -1.2])
def test_a_slope_against_all_evidence_is_said_first(slope: float) -> None:
    runs = tuple(shape(n, d) for n in (1 / 64, 1 / 16, 1 / 4) for d in (1 / 4, 1.0))
    answer = Transfer().recommend(recorded(valley(slope=slope), runs, lrs=np.geomspace(1e-5, 0.5, 18)))
    assert answer.lr is not None and abs(math.log(answer.lr / 4e-3)) < 0.5
    assert answer.reasons[0].startswith("AGAINST ALL EVIDENCE") and ("rises" in answer.reasons[0]) == (slope > 0)


@pytest.mark.parametrize(
    ("runs", "doubt"),
    [
        ([shape(1 / 4, d) for d in (1 / 4, 1.0)], "Only one size was run: how lr* moves with N"),
        ([shape(n, 1 / 4) for n in (1 / 16, 1 / 4)], "Only one horizon was run: how lr* moves with D"),
        ([shape(n, d, 1 / 4) for n in (1 / 16, 1 / 4) for d in (1 / 4, 1)], "Only one batch was run"),
        ([shape(n) for n in (1 / 256, 1 / 64)], "times the parameters of the nearest run"),
        ([shape(n, 1 / 32) for n in (1 / 16, 1 / 4)], "times the tokens of the nearest run"),
    ],
)
def test_what_was_not_varied_and_what_is_far_is_doubted(runs: list[RunConfig], doubt: str) -> None:
    answer = Transfer().recommend(recorded(valley(), runs, lrs=np.geomspace(1e-4, 0.3, 12)))
    assert answer.lr is not None and doubt in said(answer)
    assert not any(doubt in r for r in Transfer().recommend(recorded(valley(), MENU)).reasons)


def test_no_answer_outside_what_was_tried_on_few_valleys() -> None:
    """Two sizes, three lrs each, the smaller's best below its lowest: the law would go on falling."""
    steep = valley(slope=-1.0, level=1e-3)
    history = recorded(steep, [shape(1 / 4, 1.0)], lrs=LRS[3:6])
    answer = Transfer().recommend(history)
    assert answer.lr is None or min(t.lr for t in history) <= answer.lr <= max(t.lr for t in history)
    two = recorded(valley(slope=-0.7, level=2.2e-3), [shape(1 / 16, 1.0), shape(1 / 4, 1.0)], lrs=LRS[3:6])
    answer = Transfer().recommend(two)
    assert answer.lr is not None and min(t.lr for t in two) <= answer.lr
    assert "held up to what was tried" in said(answer)


def test_two_lrs_at_two_sizes_with_the_loss_falling_to_the_lower_is_no_answer_above_them() -> None:
    """The search that gave 0.0124 where both best points were lower, and the truth below 4e-3."""
    target = replace(preset("laptop"), tokens=800_000, lr=None)
    shapes = [replace(target.shaped(*s), tokens=199_680, batch=1024) for s in ((1, 32, 1), (2, 64, 2))]
    pairs = [(0.011, 6.42), (0.044, 6.75), (0.0078, 6.31), (0.031, 6.7)]
    trials = tuple(
        Trial(id=f"{i}", run=replace(shapes[i // 2], lr=lr), horizon=199_680, status="finished", loss=loss)
        for i, (lr, loss) in enumerate(pairs)
    )
    posed = Problem(target=target, budget=Budget(flops=run_flops(target)), cost=CostModel())
    answer = Transfer().recommend(History(problem=posed, trials=trials))
    if answer.lr is None:
        assert "lr* is below" in said(answer)
    else:
        assert answer.lr <= 0.0078 and answer.reasons


@pytest.mark.parametrize("best", [1.2e-3, 3e-3, 1e-2])
def test_a_search_for_a_tiny_target_goes_on_to_where_the_loss_is_lower(best: float) -> None:
    target = replace(preset("laptop"), tokens=800_000, warmup=16_384, lr=None)
    posed = Problem(target=target, budget=Budget(flops=run_flops(target)), cost=CostModel())
    session = Session(strategy=Transfer(), problem=posed)
    while not isinstance(asked := session.next(2), Done):
        for p in asked:
            z = math.log(p.lr / best)
            loss = 6 * (1 + 0.05 * (z * z if z < 0 else min(z * z, 1.5 + 0.2 * z)))
            bill = posed.cost.forecast(p.run, p.train_tokens).flops
            session.finish(session.billed(p, {"status": "finished", "loss": loss, "flops": bill}, 0.0))
    answer = session.strategy.recommend(session.history)
    assert answer.lr is not None and abs(math.log(answer.lr / best)) < 0.65
    assert answer.interval90 is not None and answer.interval90[0] < best < answer.interval90[1]


def test_why_it_is_not_the_best_tried() -> None:
    answer = Transfer().recommend(recorded(valley(slope=-0.6)))
    (why,) = [r for r in answer.reasons if r.startswith("Not simply")]
    assert "the law moves it by a factor of 0." in why and "too high an lr costs more" in why


@pytest.mark.parametrize(("cliff", "stable"), [(9.0, False), (1.0, True)])
def test_the_largest_stable_lr_needs_a_larger_one_that_diverged(cliff: float, stable: bool) -> None:
    history = recorded(valley(cliff=cliff))
    answer = Transfer().recommend(history)
    finished, diverged = ([t.lr for t in history if t.status == s] for s in ("finished", "diverged"))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(answer_panel(answer, []))
    text = console.export_text()
    if stable:
        assert answer.max_stable_lr == max(lr for lr in finished if lr < min(diverged))
        assert answer.undiverged_lr is None and "largest stable lr" in text
    else:
        assert answer.max_stable_lr is None and answer.undiverged_lr == max(finished)
        assert "none diverged up to" in text and "largest stable" not in text


def test_a_guess_narrows_what_is_believed_and_data_overrule_it() -> None:
    none, guessed = (prior(N, D, B, "sp", guess) for guess in (None, 3e-4))
    assert guessed.mean[1] == pytest.approx(math.log(3e-4)) and guessed.sd[1] < none.sd[1]
    history = recorded(valley())
    for guess in (4e-3, 1e-4, 0.2):
        answer = Transfer(guess=guess).recommend(history)
        assert answer.lr is not None and abs(math.log(answer.lr / 4e-3)) < 0.3
    first = [Chooser(Belief(Transfer(guess=g), replace(history, trials=()))) for g in (1e-4, 1e-2)]
    low, high = (np.mean(next(c.choices(1)).log_lr) for c in first)
    assert high - low > 2
    with pytest.raises(UserError, match="positive lr"):
        Transfer(guess=-1.0)


def test_a_second_seed_comes_before_a_third_lr_where_noise_drowns_the_valley() -> None:
    run = MENU[0]
    near = [3e-3, 6e-3]
    for loss, again in ((valley(h=1e-4, noise=0.01), True), (valley(h=0.05, noise=1e-4), False)):
        shallow = recorded(loss, [run], lrs=near)
        shallow = replace(shallow, problem=replace(shallow.problem, proxies=MENU))
        # Enough is known of noise and curvature from other cells.
        other = recorded(loss, MENU[1:], lrs=np.repeat(LRS[2:6], 3) * np.tile([1, 1.03, 0.97], 4))
        history = replace(shallow, trials=(*shallow.trials, *(replace(t, id=f"o{t.id}") for t in other)))
        offered = Chooser(Belief(Transfer(), history)).again
        place = next(i for i, r in enumerate(MENU) if point(r) == point(run))
        assert (place in offered) == again
        if again:
            assert offered[place] == pytest.approx([math.log(v) for v in near])
