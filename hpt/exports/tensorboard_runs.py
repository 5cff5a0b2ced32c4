"""Curves and hyperparameters for TensorBoard, a run a trial; x is tokens."""

from __future__ import annotations

from pathlib import Path

from hpt.exports.row import row_of, trials_of
from hpt.reports.gather import Found
from trainer.errors import UserError


def to_tensorboard(found: Found, address: str) -> int:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("TensorBoard is not installed: pip install 'hpt[logs]'.") from None
    if Path(address).exists():
        raise UserError(f"{address} exists, and TensorBoard would show both: remove it, or give another --out.")
    for trial in trials_of(found):
        with SummaryWriter(f"{address}/{trial.id}") as writer:
            for name, curve in (("val_loss", trial.curve), ("train_loss", trial.train_curve)):
                for tokens, loss in curve:
                    writer.add_scalar(name, loss, tokens)
            told = {k: v for k, v in row_of(trial).items() if isinstance(v, int | float | str) and k != "loss"}
            loss = trial.loss if trial.loss is not None else float("nan")
            writer.add_hparams(told, {"final_val_loss": loss}, run_name=".")
    return len(trials_of(found))
