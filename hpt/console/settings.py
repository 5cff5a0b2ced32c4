"""The search command's configuration, and what it resolves to."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from hpt.console import cli
from hpt.finetuning.text import TARGET, finetune_target
from search.budget import Budget, CostModel, Spending, Timing
from search.execution.store import SearchDir
from search.records import Problem
from search.strategies import load
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
from trainer.architecture.counts import run_flops
from trainer.config import RunConfig, from_dict, override
from trainer.data import Prepared
from trainer.devices import peak_speed, usable_cpus
from trainer.errors import UserError
from trainer.evals.suite import LIMIT, Suite
from trainer.presets import preset

RESERVE = 0.1
"""Of the caps on time and money, beyond what is planned: trials take longer than forecast, and the last ones count."""
BUDGETS = ("budget_usd", "budget_hours", "budget_flops", "budget_runs")
"""What may be raised when a search is resumed."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig(cli.Common):
    """Find the peak learning rate of a run that you can afford only once."""

    strategy: str = "hyperband"
    """How to search: a name of the table in the README, or module:Class for one of your own."""
    target: str = "laptop"
    """The run you want to make: a preset, or finetune:RUN, the fine-tuning of a run on --tasks (hpt.finetune)."""
    tokens: float | None = None
    """Training tokens of the target, such as 2.5e9; default: the preset's."""
    batch: int | None = None
    """Tokens an optimiser step of the target."""
    corpus: str | None = None
    """`python`, or a file, folder or glob of text, jsonl, parquet or llm.c token shards."""
    tokenizer: str | None = None
    """bpe:SIZE, gpt2, cl100k_base, o200k_base."""
    set: tuple[str, ...] = ()
    """Any other field of the target, as KEY=VALUE: model.depth=4 weight_decay=0.05 data.epochs=2."""
    budget_usd: float | None = None
    """Most dollars the search may cost; needs --usd-per-hour."""
    budget_hours: float | None = None
    """Most device-hours (a GPU; the whole machine where there is none)."""
    budget_flops: float | None = None
    """Most FLOPs."""
    budget_runs: float | None = None
    """Most FLOPs, in target runs. Without any budget: 1."""
    usd_per_hour: float = 0.0
    """Price of a device: a GPU, or the whole machine where there is none."""
    lr_range: tuple[float, float] = (1e-4, 1e-1)
    """Peak lrs to search between; widened where the optimum lies at an end."""
    guess: float | None = None
    """Your own guess of the best lr, such as 3e-4: --transfer.guess, the one strategy that has a use for it."""
    slots: int | None = None
    """Trials at a time; default: one a GPU, or one a core."""
    pack: int | None = None
    """Trials of one shape trained together on a device; default: on a GPU as many as make each cheaper, else one."""
    seed: int = 0
    """Of the strategy's draws, and of weights and data order, which all trials share."""
    name: str | None = None
    """The search directory's name, and MLflow's experiment; default: TARGET-STRATEGY."""
    out: Path = Path("searches")
    """Where search directories are."""
    resume: Path | None = None
    """Go on with the search in this directory, as it was configured."""
    tracking_uri: str | None = None
    """Of MLflow; default: MLFLOW_TRACKING_URI, else SQLite in the working directory."""
    dry_run: bool = False
    """Only say what would be done, for how long and how much."""
    tasks: tuple[str, ...] = ()
    """Score every finished trial on these, such as hellaswag blimp; their cost is part of each trial's. Of a target
    finetune:RUN the tasks that it is fine-tuned on."""
    data: tuple[str, ...] = ()
    """Of a target finetune:RUN, rows of its tasks, as TASK=PATH."""
    task_limit: int = LIMIT
    """Items of each task, spread evenly over its file."""
    grid: Grid = field(default_factory=Grid)
    hyperband: Hyperband = field(default_factory=Hyperband)
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    transfer: Transfer = field(default_factory=Transfer)
    greedy: Greedy = field(default_factory=Greedy)
    model_scaling: ModelScaling = field(default_factory=ModelScaling)
    data_scaling: DataScaling = field(default_factory=DataScaling)
    hybrid: Hybrid = field(default_factory=Hybrid)
    mutransfer: MuTransfer = field(default_factory=MuTransfer)
    literature: Literature = field(default_factory=Literature)

    def __post_init__(self) -> None:
        low, high = self.lr_range
        if not 0 < low < high:
            raise UserError(
                f"--lr-range {low:g} {high:g} must be two positive numbers, the lower first, such as 1e-4 1e-1."
            )
        names = (
            "budget_usd",
            "budget_hours",
            "budget_flops",
            "budget_runs",
            "tokens",
            "batch",
            "slots",
            "pack",
            "guess",
        )
        for name in names:
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"--{name.replace('_', '-')} {value:g} must be a positive number.")
        if self.budget_usd is not None and self.usd_per_hour <= 0:
            raise UserError("--budget-usd needs --usd-per-hour: the price of one device for an hour.")

    def build_strategy(self) -> Strategy:
        """The strategy with its settings from the command line."""
        nested = getattr(self, self.strategy.replace("-", "_"), None)
        strategy = nested if isinstance(nested, Strategy) else load(self.strategy)()
        if self.guess is None:
            return strategy
        if not isinstance(strategy, Transfer):
            raise UserError(f"--guess is a prior, and --strategy {self.strategy} has none: use --strategy transfer.")
        return replace(strategy, guess=self.guess)

    @property
    def finetunes(self) -> bool:
        return self.target.startswith(TARGET)

    def build_target(self) -> RunConfig:
        if self.finetunes:
            run = finetune_target(self.target, self.tasks, self.data, self.seed)
        else:
            run = preset(self.target)
        run = replace(override_data(run, self.corpus, self.tokenizer), seed=self.seed)
        if self.tokens is not None:  # warmup stays the same fraction of the run
            tokens = int(self.tokens)
            run = replace(run, tokens=tokens, warmup=round(run.warmup * tokens / run.tokens))
        if self.batch is not None:
            run = replace(run, batch=self.batch)
        run = override(run, self.set)
        return replace(run, lr=None)

    def build_budget(self, target: RunConfig, slots_per_device: int) -> Budget:
        """In the units of a slot: on a CPU a slot is a share of the machine."""
        flops = self.budget_flops
        runs = 1.0 if (self.budget_usd, self.budget_hours, flops) == (None, None, None) else None
        if (runs := self.budget_runs or runs) is not None:
            flops = min(flops or math.inf, runs * run_flops(target))
        hours = None if self.budget_hours is None else self.budget_hours * slots_per_device
        return Budget(usd=self.budget_usd, hours=hours, flops=flops)


@dataclass(frozen=True, kw_only=True)
class Slots:
    """How trials share the hardware."""

    count: int
    gpu: bool
    threads: int
    per_device: int

    @staticmethod
    def of(config: SearchConfig) -> Slots:
        if torch.cuda.is_available():
            return Slots(count=config.slots or torch.cuda.device_count(), gpu=True, threads=1, per_device=1)
        cpus = usable_cpus()
        count = config.slots or cpus
        return Slots(count=count, gpu=False, threads=max(1, cpus // count), per_device=count)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A search made ready: everything that is decided before the first trial."""

    config: SearchConfig
    slots: Slots
    strategy: Strategy
    target: RunConfig
    data: Prepared
    directory: SearchDir
    resumed: bool
    suite: Suite | None = None
    """Tasks that trials are scored on."""
    begun: SearchConfig | None = None
    """Its configuration before it was topped up."""

    @property
    def cap(self) -> Budget:
        """What may be spent."""
        return self.config.build_budget(self.target, self.slots.per_device)


def override_data(run: RunConfig, corpus: str | None, tokenizer: str | None) -> RunConfig:
    """The run on another corpus or with another tokenizer, where given."""
    given = {k: v for k, v in (("corpus", corpus), ("tokenizer", tokenizer)) if v is not None}
    return replace(run, data=replace(run.data, **given))


def make_problem(setup: Setup, timings: dict[str, Timing], launch: float = 0.0) -> Problem:
    """What the strategy is asked. launch: seconds that one worker takes to start."""
    config, slots = setup.config, setup.slots
    planned = config if setup.strategy.grows else setup.begun or config
    return Problem(
        target=setup.target,
        budget=plans_with(planned, setup.target, slots, launch),
        cost=CostModel(
            usd_per_hour=config.usd_per_hour / slots.per_device,
            flops_per_second=0.0 if timings else peak_speed(setup.target) / slots.per_device,
            timings=timings,
            task_tokens=setup.suite.tokens(setup.target) if setup.suite else 0,
        ),
        lr_range=config.lr_range,
        seed=config.seed,
    )


def plans_with(config: SearchConfig, target: RunConfig, slots: Slots, launch: float) -> Budget:
    """The budget less what no plan may use."""
    budget, seconds = config.build_budget(target, slots.per_device), launch * slots.count
    held = Spending(seconds, 0.0, seconds / 3600 * config.usd_per_hour / slots.per_device)
    return replace(budget, reserve=RESERVE, held=held)


def to_json(config: SearchConfig) -> dict[str, Any]:
    """What decides a search: not where its files are, nor how it is shown."""
    values = dataclasses.asdict(config)
    for name in ("name", "out", "resume", "dry_run", "tracking_uri", "json", "quiet"):
        values.pop(name)
    return values


def from_json(values: dict[str, Any], directory: Path) -> SearchConfig:
    config = from_dict(SearchConfig, values)
    return replace(config, name=directory.name, out=directory.parent, resume=directory)


def changed(given: SearchConfig, saved: SearchConfig) -> list[str]:
    """Flags whose values differ, as a person would type them; a budget may."""
    old, new = to_json(saved), to_json(given)
    return [_flag(key) for key in old if old[key] != new[key] and key not in BUDGETS]


def budgets(config: SearchConfig) -> dict[str, float | None]:
    return {name: getattr(config, name) for name in BUDGETS}


def check_top_up(given: SearchConfig, saved: SearchConfig) -> None:
    """UserError where a budget is not raised but lowered, or one of another kind is added."""
    target = saved.build_target()
    if not given.build_budget(target, 1).holds(saved.build_budget(target, 1)):
        flags = " ".join(f"{_flag(k)} {v:g}" for k, v in budgets(saved).items() if v is not None) or "--budget-runs 1"
        raise UserError(
            f"A search that is resumed can be given more, not less or a cap of another kind: it has {flags}, and is to "
            "have at least as much."
        )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
