"""The peer: the same trials as a user of Ray Tune writes them, a function trainable in a process of its own each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ray import tune

from search.records import Trial
from trainer.data import Prepared
from trainer.loop import Training


def run_plain(trials: Sequence[Trial], data: Prepared, *, gpu: bool, threads: int, scratch: str) -> list[float | None]:
    """Final validation loss of every trial, trained from its start to its horizon; None where it diverged.

    Tune's own defaults but for printing; whatever search.execution.tune sets for its sake (no loggers,
    say) is the peer's gain.
    """

    def objective(config: dict[str, Any]) -> None:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)
        trial = trials[config["number"]]
        *_, last = Training(trial.run, data).reports(trial.horizon)
        tune.report({"loss": float("nan") if last.val_loss is None else last.val_loss})

    tuner = tune.Tuner(
        tune.with_resources(objective, {"CPU": 1, "GPU": 1} if gpu else {"CPU": 1}),
        param_space={"number": tune.grid_search(list(range(len(trials))))},
        run_config=tune.RunConfig(storage_path=scratch, verbose=0),
    )
    losses: list[float | None] = [None] * len(trials)
    for result in tuner.fit():
        if result.config and result.metrics and (loss := result.metrics.get("loss")) == loss:
            losses[result.config["number"]] = loss
    return losses
