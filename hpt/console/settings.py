"""The search command's configuration, and what it resolves to."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from hpt.console import cli
from hpt.console.assumed import Assumed
from hpt.console.trainers import OWN, TrainerOptions
from hpt.tracking.mirror import Logger
from scaling.compute_optimal import LAW
from search.budget import Budget
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
from trainer.architecture.counts import parameters, run_flops
from trainer.config import RunConfig, from_dict, override
from trainer.errors import UserError
from trainer.evals.score import LIMIT
from trainer.presets import preset

if TYPE_CHECKING:  # torch takes 1.5 s to import, and whoever asks for --help needs none of it
    pass

FINETUNE = "finetune:"
"""What a target begins with that is the fine-tuning of a run."""
TARGET_FILE = "target.toml"
"""In a search's directory, where its target was a file: a copy."""
NOT_SAVED = ("name", "out", "resume", "dry_run", "ask_only", "save_target", "device", "mfu", "tracking_uri", "log",
             "json", "quiet")  # fmt: skip
"""What does not decide a search."""
BUDGETS = ("budget_usd", "budget_hours", "budget_flops", "budget_runs")
"""What may be raised when a search is resumed."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig(cli.Common):
    """Find the peak learning rate of a run that you can afford only once."""

    strategy: str = "hyperband"
    """How to search: a name of the table in docs/strategies.md, or module:Class for one of your own."""
    target: str = "laptop"
    """The run you want to make: a preset, a .toml file that names one and the fields that differ, or finetune:RUN, the
    fine-tuning of a run on --tasks (hpt.finetune)."""
    tokens: float | str | None = None
    """Training tokens of the target: 2.5e9, 20x (so many times its parameters, embeddings included), or optimal (by the
    law that is then named); default: the preset's."""
    batch: int | None = None
    """Tokens an optimiser step of the target."""
    corpus: str | None = None
    """`python`, or a file, folder or glob of text, jsonl, parquet or llm.c token shards."""
    tokenizer: str | None = None
    """bpe:SIZE, gpt2, cl100k_base, o200k_base."""
    trainer: str = OWN
    """What trains: hpt, a trainer that hpt knows (nanogpt, llmc, hf, litgpt, torchtitan), a command with placeholders,
    'python train.py --lr {lr} --steps {steps}', or a Python function, module:function."""
    trainer_options: Annotated[TrainerOptions, tyro.conf.arg(name="trainer")] = field(default_factory=TrainerOptions)
    """Of somebody else's trainer."""
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
    checkpoints: str | None = None
    """Where checkpoints of trials that may go on are kept: on a cluster a folder or store (s3://...) that all nodes
    see; default: in the search directory."""
    resume: Path | None = None
    """Go on with the search in this directory, as it was configured."""
    tracking_uri: str | None = None
    """Of MLflow; default: MLFLOW_TRACKING_URI, else SQLite in the working directory."""
    log: tuple[Logger, ...] = ()
    """Beside MLflow: tensorboard, wandb; in the search's directory."""
    save_target: Path | None = None
    """Write the target, as all flags have made it, to this .toml file."""
    ask_only: bool = False
    """Begin the search without running anything: hpt.ask gives out its trials, hpt.tell takes their losses."""
    dry_run: bool = False
    """Only say what would be done, for how long and how much."""
    device: str | None = None
    """With --dry-run: plan for this device of hpt's table (h100, h200, b200, a100, a10g, l4, t4, rtx4090, rtx3090,
    mi300x ..., or cpu, this machine's) with what is assumed of it, without data, network or Ray."""
    mfu: float | None = None
    """With --device: the share of its peak that a step reaches; default: typical of the model's size."""
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
        if isinstance(self.tokens, str) and self.tokens != "optimal" and not times(self.tokens):
            raise UserError(
                f"--tokens {self.tokens!r} is no number of tokens: give one such as 2.5e9, 20x (so many times the "
                "target's parameters), or optimal."
            )
        for name in ("budget_usd", "budget_hours", "budget_flops", "budget_runs", "batch", "slots", "pack", "guess"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"--{name.replace('_', '-')} {value:g} must be a positive number.")
        if self.log and self.ask_only:
            raise UserError("--log follows a search that hpt runs: hpt.export --to writes what hpt.tell was told.")
        if self.device is not None:
            if not self.dry_run:
                raise UserError(
                    "--device plans for another machine: give --dry-run too. A search times its own device."
                )
            object.__setattr__(self, "usd_per_hour", self.assumed.price)
        elif self.mfu is not None:
            raise UserError("--mfu is assumed of a --device: name one, such as --device h100.")
        if self.budget_usd is not None and self.usd_per_hour <= 0:
            why = "" if self.device is None else f" (hpt's table has none of {self.device})"
            raise UserError(f"--budget-usd needs --usd-per-hour: the price of one device for an hour{why}.")

    @property
    def assumed(self) -> Assumed:
        """Of --device."""
        assert self.device is not None
        return Assumed.of(self.device, self.usd_per_hour, self.mfu)

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
        return self.target.startswith(FINETUNE)

    def build_target(self) -> RunConfig:
        if self.finetunes:
            from hpt.finetuning.text import finetune_target  # torch: not for --help

            run = finetune_target(self.target.removeprefix(FINETUNE), self.tasks, self.data, self.seed)
        else:
            run = preset(self.target)
        run = replace(override_data(run, self.corpus, self.tokenizer), seed=self.seed)
        if isinstance(self.tokens, float | int):
            run = lengthened(run, int(self.tokens))
        if self.batch is not None:
            run = replace(run, batch=self.batch)
        run = override(run, self.set)
        if isinstance(self.tokens, str):  # of the model and the batch that the other flags have made
            n = parameters(run.model).total
            wanted = LAW.tokens(n) if self.tokens == "optimal" else times(self.tokens) * n
            run = lengthened(run, max(1, round(wanted / run.batch)) * run.batch)
        return replace(run, lr=None)

    @property
    def counted(self) -> str:
        """How --tokens was read, where it is no number; empty: it is one."""
        if not isinstance(self.tokens, str):
            return ""
        whole = "in whole steps; N: all parameters, embeddings included"
        return f"tokens: {LAW.source}, {whole}" if self.tokens == "optimal" else f"tokens: {self.tokens} N, {whole}"

    def build_budget(self, target: RunConfig, slots_per_device: float) -> Budget:
        """In the units of a slot: on a CPU a slot is a share of the machine."""
        flops = self.budget_flops
        runs = 1.0 if (self.budget_usd, self.budget_hours, flops) == (None, None, None) else None
        if (runs := self.budget_runs or runs) is not None:
            flops = min(flops or math.inf, runs * run_flops(target))
        hours = None if self.budget_hours is None else self.budget_hours * slots_per_device
        return Budget(usd=self.budget_usd, hours=hours, flops=flops)


def times(text: str) -> float:
    """20 of "20x"; 0: it is not of that form."""
    number = text.removesuffix("x")
    try:
        value = float(number) if number != text else 0.0
    except ValueError:
        return 0.0
    return value if 0 < value < 1e9 else 0.0


def lengthened(run: RunConfig, tokens: int) -> RunConfig:
    """The run on so many tokens; its warmup stays the same fraction of it."""
    return replace(run, tokens=tokens, warmup=round(run.warmup * tokens / run.tokens))


def override_data(run: RunConfig, corpus: str | None, tokenizer: str | None) -> RunConfig:
    """The run on another corpus or with another tokenizer, where given."""
    given = {k: v for k, v in (("corpus", corpus), ("tokenizer", tokenizer)) if v is not None}
    return replace(run, data=replace(run.data, **given))


def to_json(config: SearchConfig) -> dict[str, Any]:
    """What decides a search: not where its files are, nor how it is shown."""
    values = dataclasses.asdict(config)
    options = values["trainer_options"]
    options |= {k: str(v) for k, v in options.items() if isinstance(v, Path)}
    for name in NOT_SAVED:
        values.pop(name)
    return values


def from_json(values: dict[str, Any], directory: Path) -> SearchConfig:
    options = values.get("trainer_options", {})
    for name in ("dir", "template"):
        if isinstance(options.get(name), str):
            options = {**options, name: Path(options[name])}
    config = from_dict(SearchConfig, {**values, "trainer_options": options})
    if config.target.endswith(".toml"):  # as it was then, whatever has become of the file
        config = replace(config, target=str(directory / TARGET_FILE))
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
