"""The table of strategies: one file each."""

from __future__ import annotations

import difflib
import importlib

from search.strategies.data_scaling import DataScaling
from search.strategies.early_stopping import EarlyStopping
from search.strategies.greedy import Greedy
from search.strategies.grid import Grid
from search.strategies.hybrid import Hybrid
from search.strategies.hyperband import Hyperband
from search.strategies.literature import Literature
from search.strategies.model_scaling import ModelScaling
from search.strategies.mutransfer import MuTransfer
from search.strategies.transfer import Transfer
from search.strategy import Strategy
from trainer.errors import UserError

STRATEGIES: dict[str, type[Strategy]] = {
    "data-scaling": DataScaling,
    "early-stopping": EarlyStopping,
    "greedy": Greedy,
    "grid": Grid,
    "hybrid": Hybrid,
    "hyperband": Hyperband,
    "transfer": Transfer,
    "literature": Literature,
    "model-scaling": ModelScaling,
    "mutransfer": MuTransfer,
}


def load(name: str) -> type[Strategy]:
    """The strategy called `name`, or a user's own as `module:Class`."""
    if name in STRATEGIES:
        return STRATEGIES[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        near = difflib.get_close_matches(name, STRATEGIES, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(STRATEGIES)}."
        raise UserError(f"There is no strategy called {name!r}: {hint}")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"--strategy {name} cannot be loaded ({error}).") from None
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise UserError(f"--strategy {name} is not a subclass of search.strategy.Strategy.")
    return found
