"""`python -m hpt.ablate`: is a change of architecture, data or optimiser better, and does it stay so with scale?"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from hpt.console import cli
from hpt.console.tables import Fitting
from hpt.studies.training import FURTHER, Row, Trainer, sweep, tuned
from hpt.studies.variants import BASELINE, Changes, Match, Runs, adjusted, comparable, named, parse, plan
from hpt.studies.verdicts import LOSS, Verdicts, metrics_of, page, summary, table, verdict_of
from scaling.ablation import Verdict
from trainer.architecture.counts import run_flops
from trainer.config import RunConfig, override
from trainer.data import prepare
from trainer.errors import UserError
from trainer.evals.score import LIMIT
from trainer.files import write_atomic
from trainer.presets import preset


@dataclass(frozen=True, kw_only=True)
class AblateConfig(cli.Common):
    """Train a baseline and its variants at several levels of compute, same seeds and data, and judge the gaps."""

    variant: Annotated[tuple[str, ...], tyro.conf.arg(name="variant")]
    """NAME:KEY=VALUE, or NAME:KEY=VALUE,KEY=VALUE for several changes at once (which helped is then confounded)."""
    target: str = "laptop"
    """A preset: the baseline at the highest level."""
    lr: float
    """Peak lr of the baseline at the highest level; lower levels take it times C^-0.2."""
    set: tuple[str, ...] = ()
    """Any field of the baseline, as KEY=VALUE."""
    levels: tuple[float, ...] = (1 / 16, 1 / 4, 1.0)
    """Shares of the target's compute: parameters and tokens shrink alike. They should span 10x."""
    seeds: int = 2
    """Runs of each variant at each level."""
    budget_runs: float | None = None
    """Most FLOPs in all, in runs of the target; refused before anything is trained where the plan needs more."""
    out: Path = Path("ablations")
    """Holds runs.jsonl (what is there is not trained again), verdict.json and report.html."""
    match: Match = "none"
    """parameters (without embeddings) or flops (a token): variants are made as large as the baseline by their width,
    depth or feed-forward part, the first that the variant does not set itself."""
    tune_lr: int = 0
    """So many lrs a factor of 2 apart are tried for every variant at the lowest level, and each gets its own best one
    at all levels; 0: all train at --lr, which one comparison cannot tell from the variant itself."""
    tasks: tuple[str, ...] = ()
    """Score every run on these as well, such as hellaswag blimp."""
    task_limit: int = LIMIT
    """Items of each task, spread evenly over its file."""
    dry_run: bool = False
    """Only say what would be done, and for how much."""


def main(argv: Sequence[str]) -> int:
    config = cli.parse(AblateConfig, argv, "hpt.ablate")
    console = config.console()
    base = override(preset(config.target), config.set)
    variants = {BASELINE: (), **dict(map(parse, config.variant))}
    check(config)
    runs = plan(base, variants, config.levels, config.seeds, config.lr, config.match)
    cost = say_plan(config, base, runs, variants, console)
    if config.dry_run:
        config.answer({"runs": len(runs), "target_runs": cost}, f"{len(runs)} runs, {cost:.2f} target runs")
        return 0
    if config.tasks:  # a missing file is told before anything is trained
        from trainer.evals.suite import Suite

        Suite.of(config.tasks, prepare(base.data, vocabulary=base.model.vocabulary), config.task_limit)
    trainer = Trainer(config.out / "runs.jsonl", console, config.tasks, config.task_limit)
    sweeps = [run for runs in sweep(runs, config.tune_lr).values() for _, run in runs] if config.tune_lr else []
    trainer.left_flops = sum(run_flops(run) for run in (*runs.values(), *sweeps) if trainer.known(run) is None)
    factors = dict[str, float]()
    if config.tune_lr:
        runs, factors = tuned(trainer, runs, config.tune_lr)
        for name, factor in factors.items():
            console.print(f"{name}: its own best lr is {factor:.2f} x the one given, by {config.tune_lr} runs or more")
    conclude(config, [trainer.row(key, run) for key, run in runs.items()], runs, factors, console)
    return 0


def check(config: AblateConfig) -> None:
    """UserError for what makes no ablation."""
    if config.seeds < 2 or len(set(config.levels)) < 2 or not all(0 < level <= 1 for level in config.levels):
        raise UserError("An ablation needs two or more --seeds, and two or more --levels in (0, 1].")
    if config.tune_lr and config.tune_lr < 3:
        raise UserError(f"--tune-lr {config.tune_lr} lrs show no lowest loss between others: give 3 or more, or 0.")
    if not 0 < config.lr < math.inf:
        raise UserError(f"--lr {config.lr:g} must be a positive number.")


def say_plan(config: AblateConfig, base: RunConfig, runs: Runs, variants: Changes, console: Console) -> float:
    """Its cost in target runs; UserError where that is more than --budget-runs."""
    cost = sum(run_flops(run) for run in runs.values()) / run_flops(base)
    counts = f"{len(variants)} variants x {len(config.levels)} levels x {config.seeds} seeds"
    if config.tune_lr:
        swept = [(run, len(planned)) for planned in sweep(runs, config.tune_lr).values() for _, run in planned]
        ends = FURTHER / config.tune_lr  # where every sweep has to be taken further
        extra = sum(run_flops(run) for run, _ in swept) * (1 + ends) / run_flops(base)
        cost += extra
        counts += f", and sweeps of {config.tune_lr} lrs a variant for {extra:.2f} at most"
    console.print(f"{len(runs)} runs: {counts}, {cost:.2f} target runs")
    for name, changes in variants.items():
        if (count := len(named(changes))) > 1:
            console.print(f"{name} changes {count} things at once: which of them matters is confounded", style="yellow")
    if config.match != "none":
        for line in adjusted(runs, variants, config.match):
            console.print(line)
    if not config.tune_lr:
        console.print(
            "all variants train at the baseline's lr: a gap may be one of lrs (confounded); --tune-lr 3 gives each its "
            "own",
            style="yellow",
        )
    if config.budget_runs is not None and cost > config.budget_runs:
        raise UserError(
            f"The ablation costs {cost:.2f} target runs and --budget-runs is {config.budget_runs:g}: raise it, or use "
            "fewer --seeds, --levels or variants."
        )
    level, seed = max(config.levels), base.seed
    odd = [name for name in variants if not comparable(runs[name, level, seed], runs[BASELINE, level, seed])]
    if odd and not config.tasks:
        raise UserError(
            f"The losses of {', '.join(odd)} and the baseline are of other tokens (another objective, tokenizer or "
            "packing) and cannot be compared: compare scores, with --tasks."
        )
    return cost


def conclude(config: AblateConfig, rows: list[Row], runs: Runs, factors: dict[str, float], console: Console) -> None:
    """Verdicts on the screen and in files."""
    level, seed = max(config.levels), min(seed for *_, seed in runs)
    verdicts: Verdicts = {}
    for name in dict.fromkeys(name for name, *_ in runs if name != BASELINE):
        same = comparable(runs[name, level, seed], runs[BASELINE, level, seed])
        metrics = [metric for metric in metrics_of(rows) if same or metric != LOSS]
        verdicts[name] = {metric: verdict_of(rows, name, metric) for metric in metrics}
    shown = table(rows, verdicts)
    shares = [str(column.header) for column in shown.columns if "of the compute" in str(column.header)]
    console.print(Fitting(shown, ("C^-a", *shares[:-1])))
    content = {name: _content(mine, factors.get(name)) for name, mine in verdicts.items()}
    sentences = {name: _sentence(mine) for name, mine in verdicts.items()}
    write_atomic(config.out / "verdict.json", json.dumps(content, indent=2).encode())
    write_atomic(config.out / "report.html", page(rows, verdicts, sentences).encode())
    for name, sentence in sentences.items():
        console.print(f"[bold]{name}[/bold]: {sentence}")
    console.print(f"written: {config.out}/runs.jsonl, verdict.json, report.html")
    config.answer(content, "\n".join(f"{name}: {sentence}" for name, sentence in sentences.items()))


def _content(verdicts: dict[str, Verdict], factor: float | None) -> dict[str, Any]:
    metrics = {
        metric: {"sentence": v.sentence(), "gap": v.gap, "error": v.error, "gaps": v.gaps}
        for metric, v in verdicts.items()
    }
    first = metrics.get(LOSS, {"sentence": summary(verdicts)})
    more = {"tasks": {k: v for k, v in metrics.items() if k != LOSS}, "summary": summary(verdicts)}
    return {**first, **(more if more["tasks"] else {}), **({} if factor is None else {"lr_factor": factor})}


def _sentence(verdicts: dict[str, Verdict]) -> str:
    if list(verdicts) == [LOSS]:
        return verdicts[LOSS].sentence()
    each = "; ".join(f"{metric} {verdict.sentence()}" for metric, verdict in verdicts.items())
    return f"{summary(verdicts)} ({each})"


if __name__ == "__main__":
    cli.run(main)
