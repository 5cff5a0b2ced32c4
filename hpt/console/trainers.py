"""--trainer: hpt's own, a preset, a command or module:function."""

from __future__ import annotations

import difflib
import shlex
import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from search.execution.contract import EVERYTHING, Can, check_needs
from search.execution.external.command import Command
from search.execution.external.function import function, named
from search.execution.external.losses import source
from search.execution.external.template import split
from search.records import Proposal
from search.strategies import STRATEGIES
from search.strategy import Strategy
from trainer.config import RunConfig
from trainer.errors import UserError

OWN = "hpt"
PRESETS = Path(__file__).resolve().parents[1] / "trainers"


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """Of --trainer, where it is not hpt's own."""

    loss: str | None = None
    """Where the validation loss is: an expression with a group, 'val loss (\\S+)', or a file and a key,
    '{out}/results.json:eval_loss'. Without it: lines such as hpt {"step": 100, "loss": 3.21}."""
    extra: str = ""
    """More words behind those of a trainer that hpt knows, --trainer.extra='--dataset=mine --device=cpu'."""
    dir: Path | None = None
    """Where it is run; default: here."""
    template: Path | None = None
    """A file whose placeholders are filled for each trial; {config} is the filled one."""
    diverged: str | None = None
    """An expression: what matches it in the output says that the run diverged."""
    unit: Literal["nats", "bits", "bpb", "ppl"] = "nats"
    """Of its loss."""
    micro: int | None = None
    """Sequences a device and pass, {micro}; default: the most up to 16 that divide the batch."""
    devices: int = 1
    """Devices of one trial, {devices}."""
    env: bool = False
    """It reads HPT_LR, HPT_STEPS and the like from the environment, instead of placeholders."""
    keep: Literal["none", "all"] = "none"
    """Files above 1 MB in {out} when a trial has ended."""
    silence: float = 1800.0
    """Seconds without a line after which it hangs."""
    grace: float = 10.0
    """Seconds from SIGTERM to SIGKILL when it is stopped."""
    calibrate: tuple[int, int] = (20, 60)
    """Steps of two runs that are timed before a budget in hours or dollars is planned with."""
    check: bool = False
    """Only run ten steps at two lrs and two seeds, and say what was seen."""


def presets() -> dict[str, dict[str, Any]]:
    """The table of trainers that hpt knows: hpt/trainers/*.toml."""
    return {path.stem: tomllib.loads(path.read_text("utf-8")) for path in sorted(PRESETS.glob("*.toml"))}


def build(trainer: str, options: TrainerOptions, directory: Path) -> Command | None:
    """The trainer, checked; None: hpt's own. directory: of the search."""
    if trainer == OWN:
        if options != TrainerOptions():
            raise UserError(
                "--trainer.* are settings of somebody else's trainer: name it, --trainer 'COMMAND {lr} ...'."
            )
        return None
    known = presets().get(trainer, {})
    folder = options.dir.expanduser() if options.dir is not None else Path.cwd()
    settings: dict[str, Any] = {
        "folder": str(folder.absolute()),
        "trials": str((directory / "trials").absolute()),
        "source": source(options.loss or known.get("loss")),
        "diverged": options.diverged if options.diverged is not None else known.get("diverged", ""),
        "unit": options.unit if options.unit != "nats" else known.get("unit", "nats"),
        "template": "" if options.template is None else str(options.template.absolute()),
        "micro": options.micro,
        "devices": options.devices,
        "keep": options.keep,
        "silence": options.silence,
        "grace": options.grace,
    }
    if known:
        words = split(known["command"])
        found = Command(words=(*words, *(split(options.extra) if options.extra else ())), **settings)
    elif named(trainer):
        found = function(trainer, **settings)
    else:
        words = split(trainer)
        if len(words) == 1 and not options.env:
            near = difflib.get_close_matches(trainer, [*presets(), OWN], n=2)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join([OWN, *presets()])}."
            raise UserError(
                f"--trainer {trainer!r} is no command with {{lr}} in it, and no trainer that hpt knows: {hint}"
            )
        found = Command(words=words, environment=options.env, **settings)
    if options.extra and not known:
        raise UserError("--trainer.extra adds words to a trainer that hpt knows: put them into your command itself.")
    if options.dir is None and known.get("dir"):
        raise UserError(f"--trainer {trainer} is run in {known['dir']}: give it, --trainer.dir PATH.")
    return found


def notes_of(trainer: str, found: Command) -> list[str]:
    """Doubts about it, those that its preset knows included."""
    return [*found.check(), *presets().get(trainer, {}).get("notes", ())]


def check_strategy(name: str, strategy: Strategy, trainer: str, found: Command | None) -> None:
    """UserError where the strategy needs what the trainer cannot do."""
    can: Can = EVERYTHING if found is None else found.can
    others = {known: kind() for known, kind in STRATEGIES.items()}
    check_needs(name, strategy, f"--trainer {shlex.quote(trainer)}", can, others)


def command_line(found: Command, run: RunConfig, name: str = "final") -> str:
    """What would be typed for a run (with its lr), in the folder that it is run in; of a function, what it is given."""
    if found.environment:
        what = shlex.join(found.words[-1:]) if found.words[0] == sys.executable else shlex.join(found.words)
        shape = f"{run.model.depth}x{run.model.width}, {run.steps:,} steps of {run.batch:,} tokens"
        return f"{what} at lr {run.lr:.4g}, {shape}, seed {run.seed}"
    proposal = Proposal(id=name, run=run, horizon=run.tokens)
    return shlex.join(replace(found, trials=str(Path(found.trials).parent)).filled(proposal)[0])
