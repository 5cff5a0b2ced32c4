"""A job under way and its bill. No clock: whoever asks says what time it is."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

from search.budget import Spending
from search.execution.contract import Progress
from search.records import Proposal

START_SECONDS = 60.0  # longer is not waited for a process that starts: its node may be gone


@dataclass
class Pack:
    """Proposals that one worker process trains together: they share its slot's time."""

    proposals: dict[str, Proposal]
    """Those that have not ended."""
    began: float
    since: float
    """Up to when time has been shared out."""
    warm: bool = False
    """Its process is up."""
    stopped: bool = False
    """Its process was told to end, whatever it was doing: that is no fault of its trials."""
    newest: dict[str, Progress] = field(default_factory=dict[str, Progress])
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict[str, float](float))

    def starting(self, now: float) -> bool:
        return not self.warm and now - self.began < START_SECONDS

    def bill(self, now: float) -> None:
        """Share out the time since the last call."""
        for name in self.proposals:
            self.seconds[name] += max(0.0, now - self.since) / len(self.proposals)
        self.since = max(self.since, now)

    def elapsed(self, now: float) -> float:
        """Slot time of those that have not ended; it is in no record yet."""
        if not self.proposals:
            return 0.0
        return sum(self.seconds[name] for name in self.proposals) + max(0.0, now - self.since)

    def flops(self, name: str, now: float, forecast: Spending) -> float:
        """The most that a proposal may have computed by now: its last report, and what it can have done since at twice
        its speed."""
        newest = self.newest.get(name, Progress())
        if newest.train_seconds:
            rate = newest.flops / newest.train_seconds
        elif forecast.seconds:
            rate = forecast.flops / forecast.seconds
        else:
            return forecast.flops
        silent = max(0.0, now - self.since) / len(self.proposals)
        return min(forecast.flops, newest.flops + 2 * rate * silent)

    def remaining(self, name: str) -> float:
        """Seconds of its own share that a proposal still needs at its own speed; 0 while too little is known."""
        newest, proposal = self.newest.get(name), self.proposals[name]
        if newest is None:
            return 0.0
        done = (newest.tokens - proposal.start) / max(1, proposal.train_tokens)
        return newest.train_seconds * (1 / done - 1) if 0.1 <= done <= 1 else 0.0

    def needed(self) -> float:
        """Seconds of the slot until all its proposals have trained."""
        return math.fsum(self.remaining(name) for name in self.proposals)
