"""Who races in `hpt.compare`: hpt's strategies, with the sizes and horizons that there are, peers, and free rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from scaling.published import LR_LAWS
from search.records import History, Problem
from search.replay.peers import AtTarget, CopySmallest, Fixed, Formula, Halving
from search.shapes.ladder import scaled, size_of
from search.strategies import load
from search.strategies.data_scaling import DataScaling
from search.strategies.early_stopping import EarlyStopping
from search.strategies.greedy import Greedy
from search.strategies.hybrid import Hybrid
from search.strategies.hyperband import Hyperband
from search.strategies.literature import Literature
from search.strategies.model_scaling import ModelScaling
from search.strategies.transfer import Transfer
from search.strategy import Strategy
from trainer.errors import UserError

Where = Literal["proxies", "target"]
Make = Callable[[Problem, float], Strategy]
"""Of the problem, and the share of a run at which its loss is first known (0: at any)."""
Needs = Literal["whole runs", "curves", "any run"]


@dataclass(frozen=True)
class Contender:
    """A strategy in the race."""

    make: Make
    """The strategy as one who knows the problem would set it up: with sizes that exist and can be paid."""
    where: Where = "proxies"
    """Whether it trains proxies, or the target itself and its shorter horizons."""
    needs: Needs = "whole runs"
    """Of the world: `curves`, it stops runs early; `any run`, also horizons that no table has."""
    knows: bool = False
    """Believes something of the level of lrs: it is given the usual range of lrs, and never that of the table."""


def _plain(kind: Callable[[], Strategy]) -> Make:
    return lambda problem, first: kind()


def _fitting(problem: Problem, options: Iterable[Strategy]) -> Strategy:
    """The first whose plan the budget holds, else the last."""
    last: Strategy | None = None
    for last in options:
        try:
            last.plan(History(problem=problem))
        except UserError:
            continue
        return last
    if last is None:
        raise UserError("There is nothing smaller than the target.")
    return last


def _spread(values: list, count: int) -> list:
    """`count` of them, evenly by rank, both ends included."""
    if len(values) <= count:
        return values
    return [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]


def _sizes(problem: Problem) -> list[tuple[tuple[int, int, int], ...]]:
    """Three (depth, width, heads) smaller than the target, and the smaller two of them."""
    whole = size_of(problem.target)
    menu = problem.proxies or [scaled(problem.target, share) for share in (1 / 64, 1 / 16, 1 / 4)]
    models = {size_of(run): run.model for run in menu if size_of(run) < whole}
    shapes = [(m.depth, m.width, m.heads) for _, m in sorted(models.items())]
    three = _spread(shapes, 3)
    return [tuple(three[:count]) for count in (3, 2) if len(three) >= 2] or [tuple(three)]


def _model_scaling(problem: Problem, first: float) -> Strategy:
    return _fitting(problem, (ModelScaling(sizes=sizes) for sizes in _sizes(problem) if sizes))


def _hybrid(problem: Problem, first: float) -> Strategy:
    return _fitting(problem, (Hybrid(sizes=s, each=_hyperband(problem, first)) for s in _sizes(problem) if s))


def _hyperband(problem: Problem, first: float) -> Hyperband:
    """On recorded curves: the target's own schedule cut short, at no fewer tokens than they tell."""
    return Hyperband(cooldown=0.0, units=max(1, min(100, int(0.98 / first)))) if first else Hyperband()


def _early_stopping(problem: Problem, first: float) -> Strategy:
    """Over the whole range: its usual centre is that of large models."""
    low, high = problem.lr_range
    usual = EarlyStopping()
    return replace(
        usual,
        fraction=min(1.0, max(usual.fraction, 1.02 * first)),
        centre=(low * high) ** 0.5,
        span=(high / low) ** 0.5,
    )


def _data_scaling(problem: Problem, first: float) -> Strategy:
    """On a menu with its horizons, three or the shorter two; else as it comes."""
    if problem.proxies is None:
        return DataScaling()
    target = problem.target
    steps = sorted({run.tokens // target.batch for run in problem.proxies if run.tokens < target.tokens})
    three = _spread(steps, 3)
    options = [tuple(three[:count]) for count in (3, 2, 1) if len(three) >= count]
    return _fitting(problem, (DataScaling(steps=some) for some in options))


CONTENDERS: dict[str, Contender] = {
    "transfer": Contender(_plain(Transfer), knows=True),
    "hyperband": Contender(_hyperband, "target", "curves"),
    "early-stopping": Contender(_early_stopping, "target", "curves"),
    "greedy": Contender(_plain(Greedy), "target", "any run"),
    "hybrid": Contender(_hybrid, needs="curves"),
    "model-scaling": Contender(_model_scaling),
    "data-scaling": Contender(_data_scaling, "target"),
    "literature": Contender(_plain(Literature), knows=True),
    "copy-smallest": Contender(_plain(CopySmallest)),
    "random": Contender(_plain(AtTarget), "target"),
    "tpe": Contender(_plain(partial(AtTarget, sampler="tpe")), "target"),
    "halving": Contender(_plain(Halving), "target"),
    "lr 3e-3": Contender(_plain(partial(Fixed, lr=3e-3))),
    **{f"law: {law.name}": Contender(_plain(partial(Formula, law=law))) for law in LR_LAWS},
}
FREE = ("lr 3e-3", "law: Step Law")
"""Rules that cost nothing: in every table, for what a search costs must beat them."""


def contender(name: str) -> Contender:
    """The one called so, or a user's own strategy as `module:Class`."""
    if name in CONTENDERS:
        return CONTENDERS[name]
    if ":" in name and not name.startswith("law:"):
        return Contender(_plain(load(name)), knows=True)
    raise UserError(f"There is no strategy {name} to compare: choose from {', '.join(CONTENDERS)}, or module:Class.")


def entered(names: Iterable[str], needs: Iterable[Needs]) -> list[str]:
    """Those to run in a world that serves `needs`: the named ones, or all, and always the free rules."""
    served = set(needs)
    wanted = list(dict.fromkeys(names)) or [n for n, c in CONTENDERS.items() if c.needs in served]
    if unserved := [n for n in wanted if contender(n).needs not in served]:
        raise UserError(
            f"{', '.join(unserved)} stops runs early, and this table has only whole runs: add their loss curves "
            "(--curves, or a column that --columns.curve names), or leave it out."
        )
    return list(dict.fromkeys([*wanted, *FREE]))


def searching_batch(strategy: Strategy) -> Strategy:
    """The same where it can seek the batch too."""
    return replace(strategy, search="lr,batch") if isinstance(strategy, Transfer) else strategy
