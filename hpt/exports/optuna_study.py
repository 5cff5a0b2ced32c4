"""A study for optuna-dashboard and Optuna's own plots."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpt.reports.gather import Found
from hpt.tracking.row import real, row_of
from search.records import Trial
from trainer.addresses import masked
from trainer.errors import UserError

STATES = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
"""A diverged trial is a failed one: it has no loss, and must not be taken for a good one."""


def to_optuna(found: Found, address: str) -> int:
    """address: of an Optuna storage, such as sqlite:///optuna.db; the study is called like the search's directory."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    name, trials = found.path.resolve().name, real(found.trials)
    try:
        study = optuna.create_study(study_name=name, storage=address, direction="minimize")
    except optuna.exceptions.DuplicatedStudyError:
        raise UserError(f"{masked(address)} has a study {name} already: give another --out.") from None
    except Exception as error:  # of the many databases, no common class
        reason = str(error).splitlines()[0][:120]
        raise UserError(f"Optuna cannot use {masked(address)} ({reason}): give sqlite:///FILE.") from None
    study.set_user_attr("recommended lr", found.lr)
    study.set_user_attr("interval90", found.interval90)
    study.add_trials([_frozen(trial, _range(trials)) for trial in trials])
    return len(trials)


def _range(trials: list[Trial]) -> FloatDistribution:
    lrs = [t.lr for t in trials]
    return FloatDistribution(min(lrs), max(lrs), log=True)


def _frozen(trial: Trial, lrs: FloatDistribution) -> FrozenTrial:
    told: dict[str, Any] = {key: value for key, value in row_of(trial).items() if key not in ("lr", "loss")}
    return create_trial(
        state=STATES.get(trial.status, TrialState.FAIL),
        params={"lr": trial.lr},
        distributions={"lr": lrs},
        user_attrs=told,
        value=trial.loss if trial.status == "finished" else None,
        intermediate_values={tokens: loss for tokens, loss in trial.curve},
    )
