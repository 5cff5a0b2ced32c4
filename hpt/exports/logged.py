"""What `--log` would have written, of a search that was made without it."""

from __future__ import annotations

from pathlib import Path

from hpt.reports.gather import Found
from hpt.tracking.mirror import check_loggers
from trainer.errors import UserError


def to_tensorboard(found: Found, address: str) -> int:
    check_loggers(["tensorboard"], "--to")
    from hpt.tracking.tensorboard_runs import Runs

    if Path(address).exists():
        raise UserError(f"{address} exists, and TensorBoard would show both: remove it, or give another --out.")
    return Runs(Path(address)).add(found.trials)


def to_wandb(found: Found, address: str) -> int:
    """Offline, whatever is configured."""
    check_loggers(["wandb"], "--to")
    from hpt.tracking.wandb_runs import Runs

    return Runs(Path(address), found.path.resolve().name, offline=True).add(found.trials)
