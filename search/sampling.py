"""Peak learning rates to try next, by Optuna's samplers. Pure: the study is rebuilt at every call."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:  # imported where lrs are drawn: 0.3 s, that no --help needs
    import optuna
    from optuna.distributions import BaseDistribution

Sampler = Literal["random", "qmc", "tpe", "gp"]
STARTUP = 3  # observations from which tpe and gp start to model; until then they would draw at random


def sample_lrs(
    count: int,
    lr_range: tuple[float, float],
    sampler: Sampler,
    seed: Sequence[int],
    observed: Sequence[tuple[float, float | None]] = (),
) -> list[float]:
    """`count` peak lrs, log-uniform over `lr_range` or where `observed` makes a good one likely.

    observed: (lr, loss) at ONE fidelity, so that losses compare; None is a diverged run. A model needs some value
    for it: as far above the worst finite loss as that is above the best, so that it repels and never wins.
    Without STARTUP observations, tpe and gp fall back on qmc.
    """
    if sampler in ("tpe", "gp") and sum(loss is not None for _, loss in observed) < STARTUP:
        sampler = "qmc"
    if sampler in ("random", "qmc"):
        observed = ()
    return list(_sample(count, lr_range, sampler, tuple(seed), tuple(observed)))


@functools.lru_cache(maxsize=1024)  # strategies ask again for the same lrs at every decision
def _sample(
    count: int,
    lr_range: tuple[float, float],
    sampler: Sampler,
    seed: tuple[int, ...],
    observed: tuple[tuple[float, float | None], ...],
) -> tuple[float, ...]:
    import optuna
    from optuna.distributions import FloatDistribution
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    low, high = lr_range
    space: dict[str, BaseDistribution] = {"lr": FloatDistribution(low, high, log=True)}
    study = optuna.create_study(sampler=_make(sampler, _mix(seed)))
    finite = [loss for _, loss in observed if loss is not None]
    for lr, loss in observed:
        value = loss if loss is not None else 2 * max(finite) - min(finite) + 0.1
        lr = min(max(lr, low), high)
        study.add_trial(create_trial(params={"lr": lr}, distributions=space, value=value))
    lrs = []
    for _ in range(count):
        trial = study.ask(space)
        lrs.append(trial.params["lr"])
        if sampler == "qmc":  # it counts completed trials only, and never looks at their values
            study.tell(trial, state=TrialState.COMPLETE, values=0.0)
    return tuple(lrs)


def _make(sampler: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match sampler:
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
            case "qmc":
                return optuna.samplers.QMCSampler(scramble=True, seed=seed, warn_independent_sampling=False)
            case "tpe":
                return optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP)


def _mix(seed: tuple[int, ...]) -> int:
    """One 32-bit seed from several numbers."""
    return int(np.random.SeedSequence(list(seed)).generate_state(1)[0])
