"""What a user may set of `transfer`; read by all its parts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from trainer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TransferSettings:
    """The flags `--transfer.*`."""

    search: Literal["lr", "lr,batch", "lr,weight_decay", "lr,warmup"] = "lr"
    """What is sought: the lr at the target's batch, or the batch, the weight decay or the warmup as well."""
    guess: float | None = None
    """Your own guess of the target's best lr, such as 3e-4: a prior within a factor of 2, which data overrule."""
    sizes: tuple[float, ...] = (1 / 64, 1 / 16, 1 / 4, 1.0)
    """Shares of the target's parameters that proxies may have, where the problem has no menu."""
    horizons: tuple[float, ...] = (1 / 16, 1 / 4, 1.0)
    """Shares of the target's tokens, likewise; below a quarter as much more as the target's warmup needs."""
    exchange: float = 0.05
    """Loss that more compute brings, as a fraction of the loss per e-fold of compute: a gap of
    delta at the target is worth delta / exchange of its cost. Compute-optimal ladders show 0.05
    near 2.5 nats (the loss falls by 0.13 per e-fold)."""
    uses: float = 100.0
    """Runs as large as the target that the answer will serve, other data and seeds included. The
    search stops when the next trials cost more than `uses` times what they are expected to save;
    infinity: when the budget is spent. The budget is what may be spent, so this is generous: 1 stops
    at a few percent of a target run, where 0.1 % of the loss is still open."""
    together: int = 4
    """Trials chosen at a time: more keep more devices busy, fewer learn more from each."""
    max_trials: int = 200
    trunks: bool = True
    """Where the target's schedule is wsd, a run goes on from the trunk of a shorter one at nearly its lr (NEAR), and
    trains only what is new; it has that one's lr."""

    def __post_init__(self) -> None:
        if self.guess is not None and not 0 < self.guess < math.inf:
            raise UserError(f"--transfer.guess {self.guess:g} must be a positive lr, such as 3e-4.")
