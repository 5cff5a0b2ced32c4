from search.strategies.hyperband import Hyperband
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EarlyStopping(Hyperband):
    pass
