"""What further trials would tell, as sentences and as commands that can be pasted."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from typing import Any

from hpt.reports.gather import Found
from hpt.reports.numbers import duration, short
from search.transfer.outlook import MORE, Outlook, outlook, untried
from trainer.architecture.counts import run_flops
from trainer.config import RunConfig, to_dict, written
from trainer.presets import PRESETS, preset

CAPS = ("budget_usd", "budget_hours", "budget_flops", "budget_runs")


def outlook_lines(found: Found, more: Outlook | None = None) -> list[str]:
    """What a quarter of a target run more would buy, and what all trials had alike."""
    lines, more = [], more or outlook(found.history)
    if more is not None:
        count = sum(len(lrs) for _, lrs in more.runs)
        price = f", ${more.cost.usd:.2f}" if more.cost.usd else ""
        time = f", {duration(more.cost.seconds)} of training" if more.cost.seconds else ""
        share = 100 * more.cost.flops / run_flops(found.target)
        lines.append(
            f"{count} more trials ({share:.0f} % of a target run{time}{price}) would narrow the law's doubt about the "
            f"best lr from a factor of {math.exp(more.now):.2f} to {math.exp(more.after):.2f} (one sd). They are: "
            + "; ".join(
                f"{run.model.depth}x{run.model.width} on {short(run.tokens)} tokens"
                + (f" in batches of {run.batch:,}" if run.batch != found.target.batch else "")
                + " at lr "
                + ", ".join(f"{lr:.2g}" for lr in sorted(lrs))
                for run, lrs in more.runs
            )
            + "."
        )
    if held := untried(found.history):
        lines.append(f"All trials had the same {', '.join(held)}: of others this search says nothing.")
    return lines


def further_commands(found: Found, more: Outlook | None) -> list[str]:
    """Of `transfer`, which chooses such trials itself, more budget; else a grid for each run, and the answer of all
    trials together. None for somebody else's trainer, for a fine-tuning, and where the target's own
    file is gone."""
    if more is None or found.search.get("trainer", "hpt") != "hpt":
        return []
    if found.search.get("strategy") == "transfer":
        return [f"python -m hpt.search --resume {shlex.quote(str(found.path))} {' '.join(_raised(found))}"]
    base = _base(found)
    if base is None:
        return []
    name, target = found.path.name, shlex.quote(base)
    lines = [
        f"python -m hpt.search --strategy grid --target {target} {flags} --name {name}-more-{i}"
        for i, (run, lrs) in enumerate(more.runs, start=1)
        for flags in [" ".join((*_grid(sorted(lrs)), *_different(run, preset(base))))]
    ]
    files = shlex.quote(str(found.path / "trials.jsonl"))
    return [
        *lines,
        f"cat {files} searches/{name}-more-*/trials.jsonl > all.jsonl",
        f"python -m hpt.advise --table all.jsonl --target {target}",
    ]


def _raised(found: Found) -> Iterator[str]:
    """The caps that the search has, for a quarter of a target run more."""
    spent = found.history.spent.flops / run_flops(found.target)
    caps = {name: float(value) for name in CAPS if (value := found.search.get(name)) is not None} or {"budget_runs": 1}
    for name, value in caps.items():
        yield f"--{name.replace('_', '-')} {_up(value * (1 + MORE / max(spent, MORE)))}"


def _up(value: float) -> str:
    """With three digits, rounded up."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.ceil(value / unit - 1e-9) * unit:.3g}"


def _base(found: Found) -> str | None:
    """The target as --target takes it: a preset, or the copy of its file that the search keeps."""
    name = str(found.search.get("target", ""))
    if name.endswith(".toml"):
        copy = found.path / "target.toml"
        return str(copy) if copy.is_file() else None
    return name if name in PRESETS else None


def _grid(lrs: list[float]) -> Iterator[str]:
    """These lrs, or as many between the same ends."""
    low, high = lrs[0], lrs[-1] if len(lrs) > 1 else lrs[0] * 1.01
    low, high = float(f"{low:.3g}"), float(f"{high:.4g}")
    ratio = (high / low) ** (1 / (len(lrs) - 1)) if len(lrs) > 1 else 2.0
    yield f"--lr-range {low:g} {high:g} --grid.ratio {math.floor(ratio * 1e3) / 1e3:g} --grid.seeds 1"
    yield f"--budget-runs {len(lrs) + 1}"


def _different(run: RunConfig, base: RunConfig) -> Iterator[str]:
    """--set of what the run has otherwise than the target that is named."""
    changes = [*_changes(to_dict(run), to_dict(base))]
    if changes:
        yield "--set " + " ".join(map(shlex.quote, changes))


def _changes(mine: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in mine.items():
        if isinstance(value, dict):
            yield from _changes(value, theirs.get(name) or {}, f"{prefix}{name}.")
        elif value != theirs.get(name) and name not in ("lr", "micro_batch"):
            yield f"{prefix}{name}={written(tuple(value) if isinstance(value, list) else value)}"
