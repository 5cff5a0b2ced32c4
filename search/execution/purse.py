"""The money of a search: spent, held for what runs, free. Pure arithmetic; the one place that says no.

Always: spent + held <= the caps. A hold is made before its trial starts and is the most that the trial may cost; who
needs more asks while it runs, and is stopped when there is no more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from search.budget import Budget, Spending


@dataclass
class Purse:
    budget: Budget
    """The caps themselves."""
    usd_per_hour: float = 0.0
    """Of a slot."""
    spent: Spending = Spending()
    """By trials that have ended and attempts that were cut off."""
    holds: dict[str, Spending] = field(default_factory=dict[str, Spending])
    """By proposal that runs or is about to."""
    lost: dict[str, Spending] = field(default_factory=dict[str, Spending])
    """By proposal, what attempts of it cost whose worker died; it is in no record before the proposal ends."""

    @property
    def committed(self) -> Spending:
        return sum((*self.holds.values(), *self.lost.values()), self.spent)

    def bill(self, seconds: float, flops: float = 0.0) -> Spending:
        """A slot's time in money."""
        return Spending(seconds, flops, seconds / 3600 * self.usd_per_hour)

    def hold(self, name: str, cost: Spending) -> bool:
        """Put `cost` aside for a proposal; False: there is not as much."""
        if not self.budget.allows(self.committed + cost):
            return False
        self.holds[name] = cost
        return True

    def free_seconds(self) -> float:
        return max(0.0, self.budget.seconds_left(self.committed, self.usd_per_hour))

    def extend(self, name: str, seconds: float) -> None:
        """As much of these seconds as is free, for one that runs."""
        more = min(seconds, self.free_seconds())
        if more > 0 and math.isfinite(more):
            self.holds[name] += self.bill(more)

    def pool(self, one: str, others: list[str], seconds: float) -> None:
        """Let `one` hold as many seconds, from what those who share its slot hold too much: they share its time."""
        for other in others:
            needed = seconds - self.holds[one].seconds
            if needed <= 0:
                return
            more = min(needed, self.holds[other].seconds)
            self.holds[one] += self.bill(more)
            self.holds[other] += self.bill(-more)

    def lose(self, name: str, cost: Spending) -> None:
        """An attempt of a proposal came to nothing; its hold is given back."""
        self.holds.pop(name, None)
        self.lost[name] = self.lost.get(name, Spending()) + cost

    def pay(self, name: str, cost: Spending) -> None:
        """A proposal has ended: `cost` is all that it took, lost attempts included."""
        self.holds.pop(name, None)
        self.lost.pop(name, None)
        self.spent += cost
