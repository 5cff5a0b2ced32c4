"""`python -m hpt.ablate`: is a change of architecture, data or optimiser better, and does it stay so with scale?"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from hpt.console import cli
from hpt.reports.chart import Chart
from hpt.reports.numbers import duration, short
from scaling.ablation import Verdict, judge, power_law
from search.shapes.ladder import scaled
from trainer.architecture.counts import parameters, run_flops
from trainer.config import RunConfig, override, to_dict
from trainer.data import check_enough, prepare
from trainer.errors import UserError
from trainer.files import read_json_lines, write_atomic
from trainer.loop import train
from trainer.presets import preset

Runs = dict[tuple[str, float, int], RunConfig]
"""By variant, level and seed."""
LR_EXPONENT = -0.2
"""d ln lr* / d ln C where N and D grow alike: Step Law's N^-0.713 D^0.307 (arXiv 2503.04715). The same for every
variant: where a variant wants another lr, that is part of what is compared."""


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
    dry_run: bool = False
    """Only say what would be done, and for how much."""


def main(argv: Sequence[str]) -> int:
    config = cli.parse(AblateConfig, argv, "hpt.ablate")
    console = config.console()
    base = override(preset(config.target), config.set)
    variants = {"baseline": (), **dict(map(parse, config.variant))}
    runs = plan(config, base, variants)
    cost = sum(run_flops(run) for run in runs.values()) / run_flops(base)
    counts = f"{len(variants)} variants x {len(config.levels)} levels x {config.seeds} seeds"
    console.print(f"{len(runs)} runs: {counts}, {cost:.2f} target runs")
    for name, changes in variants.items():
        if len(changes) > 1:
            console.print(
                f"{name} changes {len(changes)} things at once: which of them matters is confounded", style="yellow"
            )
    if config.budget_runs is not None and cost > config.budget_runs:
        raise UserError(
            f"The ablation costs {cost:.2f} target runs and --budget-runs is {config.budget_runs:g}: raise it, or use "
            "fewer --seeds, --levels or variants."
        )
    if config.dry_run:
        config.answer({"runs": len(runs), "target_runs": cost}, f"{len(runs)} runs, {cost:.2f} target runs")
        return 0
    rows = execute(config, runs, console)
    verdicts = {name: verdict_of(rows, name) for name in variants if name != "baseline"}
    console.print(table(rows, verdicts))
    content = {
        n: {"sentence": v.sentence(), "gap": v.gap, "error": v.error, "gaps": v.gaps} for n, v in verdicts.items()
    }
    write_atomic(config.out / "verdict.json", json.dumps(content, indent=2).encode())
    write_atomic(config.out / "report.html", page(rows, verdicts).encode())
    for name, verdict in verdicts.items():
        console.print(f"[bold]{name}[/bold]: {verdict.sentence()}")
    console.print(f"written: {config.out}/runs.jsonl, verdict.json, report.html")
    config.answer(content, "\n".join(f"{name}: {verdict['sentence']}" for name, verdict in content.items()))
    return 0


def parse(text: str) -> tuple[str, tuple[str, ...]]:
    """NAME:KEY=VALUE,... -> (name, assignments)."""
    name, colon, changes = text.partition(":")
    if not colon or not name or name == "baseline" or not all("=" in c for c in changes.split(",")):
        raise UserError(
            f"--variant {text!r} is not of the form NAME:KEY=VALUE, such as swiglu:model.activation=swiglu."
        )
    return name, tuple(changes.split(","))


def plan(
    config: AblateConfig, base: RunConfig, variants: dict[str, tuple[str, ...]]
) -> dict[tuple[str, float, int], RunConfig]:
    """The run of each (variant, level, seed): those that stop at once first, so that an interruption leaves pairs."""
    if config.seeds < 2 or len(set(config.levels)) < 2 or not all(0 < level <= 1 for level in config.levels):
        raise UserError("An ablation needs two or more --seeds, and two or more --levels in (0, 1].")
    runs = {}
    for level in sorted(config.levels):
        share = math.sqrt(level)
        shape = base if level == 1 else scaled(base, share)
        tokens = max(1, round(base.tokens * share / base.batch)) * base.batch
        lr, warmup = config.lr * level**LR_EXPONENT, round(base.warmup * tokens / base.tokens)
        sized = replace(shape, tokens=tokens, warmup=warmup, lr=lr)
        for seed in range(base.seed, base.seed + config.seeds):
            for name, changes in variants.items():
                runs[name, level, seed] = replace(override(sized, changes), seed=seed)
    return runs


def execute(config: AblateConfig, runs: Runs, console: Console) -> list[dict]:
    """One row a run, kept as they end."""
    path, done = config.out / "runs.jsonl", dict[str, dict]()
    if path.exists():
        done = {json.dumps(row.get("run")): row for row in read_json_lines(path)}
    config.out.mkdir(parents=True, exist_ok=True)
    began, flops, all_flops = time.monotonic(), 0.0, sum(
        run_flops(r) for r in runs.values() if json.dumps(json.loads(json.dumps(to_dict(r)))) not in done
    )  # fmt: skip
    rows = []
    for (name, level, seed), run in runs.items():
        key = json.dumps(json.loads(json.dumps(to_dict(run))))
        if key not in done:
            with console.status(f"{name}, level {level:g}, seed {seed}"):
                data = prepare(run.data, vocabulary=run.model.vocabulary)
                check_enough(data, run.data, run.tokens)
                *_, last = train(run, data)
            flops += run_flops(run)
            done[key] = {"variant": name, "level": level, "seed": seed, "flops": run_flops(run), "loss": last.val_loss,
                         "seconds": last.seconds, "status": last.status, "run": json.loads(key)}  # fmt: skip
            with path.open("a") as file:
                file.write(json.dumps(done[key]) + "\n")
            left = (time.monotonic() - began) * (all_flops / flops - 1)
            result = f"{last.val_loss:.4f}" if last.val_loss is not None else last.reason
            console.print(f"{name}, {short(parameters(run.model).total)}, seed {seed}: {result}; {duration(left)} left")
        rows.append({**done[key], "variant": name, "level": level})
    return rows


def verdict_of(rows: list[dict], name: str) -> Verdict:
    """Paired by level and seed; a diverged run of either has no pair."""
    loss = {(r["variant"], r["level"], r["seed"]): r["loss"] for r in rows}
    compute, differences = [], []
    for level in sorted({r["level"] for r in rows}):
        seeds = sorted({r["seed"] for r in rows})
        pairs = [(loss[name, level, s], loss["baseline", level, s]) for s in seeds]
        if whole := [a - b for a, b in pairs if a is not None and b is not None]:
            compute.append(next(r["flops"] for r in rows if r["level"] == level and r["variant"] == "baseline"))
            differences.append(whole)
    try:
        return judge(compute, differences)
    except ValueError as error:
        raise UserError(f"{name}: too many runs diverged for a verdict. {error} Lower --lr.") from None


def table(rows: list[dict], verdicts: dict[str, Verdict]) -> Table:
    levels = sorted({r["level"] for r in rows})
    out = Table(box=SIMPLE, title="mean validation loss, nats a token", title_justify="left")
    for header in ("variant", *(f"{level:.3g} of the compute" for level in levels), "gap", "C^-a"):
        out.add_column(header, justify="left" if header == "variant" else "right")
    for name in dict.fromkeys(r["variant"] for r in rows):
        compute, means = curve(rows, name, "flops")
        law = power_law(compute, means)
        gap = f"{verdicts[name].gap:+.4f}" if name in verdicts else ""
        out.add_row(name, *(f"{m:.4f}" for m in means), gap, f"{law[1]:.3f}" if law else "")
    return out


def curve(rows: list[dict], name: str, of: str) -> tuple[list[float], list[float]]:
    """(mean of `of`, mean loss) by level; diverged runs left out."""
    xs, ys = [], []
    for level in sorted({r["level"] for r in rows}):
        mine = [r for r in rows if (r["variant"], r["level"]) == (name, level) and r["loss"] is not None]
        if mine:
            xs.append(sum(r[of] for r in mine) / len(mine))
            ys.append(sum(r["loss"] for r in mine) / len(mine))
    return xs, ys


def page(rows: list[dict], verdicts: dict[str, Verdict]) -> str:
    from hpt.reports.page import ablation_page

    charts = []
    for of, label in (("flops", "training FLOPs"), ("seconds", "seconds of this device")):
        chart = Chart(label, "validation loss (nats a token)", f"Loss against {label}, a dot a seed")
        for i, name in enumerate(dict.fromkeys(r["variant"] for r in rows)):
            chart.line(list(zip(*curve(rows, name, of), strict=True)), i, name)
            points = [(r[of], r["loss"]) for r in rows if r["variant"] == name and r["loss"] is not None]
            chart.dots(points, i, [f"{name}: {loss:.4f}" for _, loss in points])
        charts.append(chart)
    return ablation_page({name: v.sentence() for name, v in verdicts.items()}, charts)


if __name__ == "__main__":
    cli.run(main)
