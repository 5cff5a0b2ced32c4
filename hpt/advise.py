"""`python -m hpt.advise`: the lr that runs somebody made anyway speak for: a table in, the answer of a search out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from hpt.console import cli
from hpt.console.screen import answer_panel
from hpt.console.tables import Fitting
from hpt.reports.numbers import short
from search.records import Proposal
from search.replay.advice import Advice, advise_on, meanings, point_of, run_of
from search.replay.columns import Columns
from trainer.architecture.counts import run_flops
from trainer.config import RunConfig, to_dict
from trainer.errors import UserError
from trainer.presets import preset


@dataclass(frozen=True, kw_only=True)
class AdviseConfig(cli.Common):
    """Recommend a peak lr from a table of runs: a W&B, MLflow or Optuna export, a sheet, or hpt's own trials.jsonl."""

    table: Path | None = None
    """Runs, one a row: .csv, .csv.gz, .tsv, .json, .jsonl or .parquet."""
    n: float | None = None
    """Parameters of the run that you want to make, counted as the table counts them (124e6)."""
    d: float | None = None
    """Its training tokens (2.5e9)."""
    b: float | None = None
    """Its batch, in tokens (524288)."""
    target: str | None = None
    """Instead of these three, or of some: a preset or a .toml file; N is then its non-embedding parameters."""
    columns: Columns = field(default_factory=Columns)
    """Which column holds what; what is not given is guessed, and shown."""
    context: int | None = None
    """Tokens of a sequence, where the table counts batches in sequences."""
    loss_cap: float | None = None
    """A run that ended above this loss diverged; None: above 1.5 times the lowest of its cell, at an lr above its."""
    guess: float | None = None
    """Your own guess of the best lr, such as 3e-4: a prior within a factor of 2, which data overrule."""
    next: int = 0
    """Propose so many further runs: those that would narrow the answer most for their cost."""


def target_of(config: AdviseConfig) -> RunConfig:
    """The run that is asked about."""
    known = (None, None, None) if config.target is None else point_of(preset(config.target))
    wanted = [given or found for given, found in zip((config.n, config.d, config.b), known, strict=True)]
    if missing := [flag for flag, value in zip(("--n", "--d", "--b"), wanted, strict=True) if value is None]:
        raise UserError(f"Say which run you want to make: {', '.join(missing)} is missing (or give --target NAME).")
    n, d, b = (float(value) for value in wanted if value is not None)
    if b > d:
        raise UserError(f"--b {b:g} is in tokens, and more than all --d {d:g} of them.")
    return run_of(n, d, b)


def main(argv: Sequence[str]) -> int:
    config = cli.parse(AdviseConfig, argv, "hpt.advise")
    console = config.console()
    if config.table is None:
        raise UserError("Give the runs that you made, one a row: --table runs.csv.")
    target = target_of(config)
    with console.status("fitting"):
        advice = advise_on(
            config.table,
            target,
            config.columns,
            context=config.context,
            loss_cap=config.loss_cap,
            guess=config.guess,
            more=config.next,
        )
    shown(advice, target, console)
    answer = advice.answer
    result = {
        **to_dict(answer),
        "target": dict(zip(("n", "d", "b"), point_of(target), strict=True)),
        "runs": len(advice.history),
        "columns": advice.columns,
        "notes": advice.notes,
        "next": [proposed(p) for p in advice.next],
    }
    config.answer(result, "no recommendation" if answer.lr is None else f"{answer.lr:.4g}")
    return 0


def proposed(proposal: Proposal) -> dict[str, float]:
    n, d, b = point_of(proposal.run)
    return {"n": round(n), "d": round(d), "b": round(b), "lr": proposal.lr, "steps": proposal.run.steps,
            "flops": run_flops(proposal.run, d)}  # fmt: skip


def shown(advice: Advice, target: RunConfig, console: Console) -> None:
    """The guesses, the notes, the panel, what to run next."""
    n, d, b = point_of(target)
    console.print(f"target: N {short(n)}, D {short(d)}, batch {b:,.0f} tokens ({target.steps:,} steps)")
    console.print(f"taken for: {', '.join(meanings(advice.columns))}" if advice.columns else "hpt's own trials")
    for note in advice.notes:
        console.print(f"note: {note}")
    cells = {(t.run.model, t.run.tokens, t.run.batch) for t in advice.history}
    finished = len(advice.history.finished)
    runs = f"{finished} finished, {len(advice.history) - finished} diverged, in {len(cells)} cells (N, D, batch)"
    console.print(answer_panel(advice.answer, [("runs", runs)]))
    if advice.next:
        table = Table(title="What to run next", title_justify="left", box=SIMPLE)
        for header in ("N", "D", "batch", "steps", "lr", "FLOPs"):
            table.add_column(header, justify="right")
        for p in map(proposed, advice.next):
            table.add_row(short(p["n"]), short(p["d"]), f"{p['b']:,}", f"{p['steps']:,}", f"{p['lr']:.3g}",
                          f"{p['flops']:.3g}")  # fmt: skip
        console.print(Fitting(table, ("FLOPs", "steps")))


if __name__ == "__main__":
    cli.run(main)
