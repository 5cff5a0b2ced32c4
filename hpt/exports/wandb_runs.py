"""Runs for Weights & Biases, written offline: `wandb sync FOLDER/wandb/offline-run-*` sends them."""

from __future__ import annotations

from hpt.exports.row import row_of, trials_of
from hpt.reports.gather import Found
from trainer.errors import UserError


def to_wandb(found: Found, address: str) -> int:
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("wandb is not installed: pip install 'hpt[logs]'.") from None
    from pathlib import Path

    Path(address).mkdir(parents=True, exist_ok=True)
    name, trials = found.path.resolve().name, trials_of(found)
    quiet = wandb.Settings(console="off", silent=True, x_disable_stats=True)
    for trial in trials:
        run = wandb.init(
            project="hpt", group=name, name=f"{name}/{trial.id}", dir=address, mode="offline", config=row_of(trial),
            settings=quiet, reinit="finish_previous",
        )  # fmt: skip
        run.define_metric("*", step_metric="tokens")
        for key, curve in (("train_loss", trial.train_curve), ("val_loss", trial.curve)):
            for tokens, loss in curve:
                run.log({"tokens": tokens, key: loss})
        run.summary.update({"final_val_loss": trial.loss, "status": trial.status})
        run.finish()
    return len(trials)
