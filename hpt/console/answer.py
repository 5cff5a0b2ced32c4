"""How a search ends: the recommendation written, mirrored and shown, with the bill."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from rich.console import Console

from hpt.console.progress import doing
from hpt.console.screen import answer_panel
from hpt.console.setup import Setup
from hpt.console.trainers import command_line
from hpt.reports.files import write_report
from hpt.reports.numbers import duration, of_given
from hpt.tracking.mirror import Mirror
from hpt.tracking.server import tracking_uri, ui_command
from hpt.tracking.told import SearchRun
from search.execution.session import Session
from search.records import History, Recommendation
from trainer.architecture.counts import parameters, run_flops
from trainer.config import to_dict


def conclude(setup: Setup, session: Session, mirror: Mirror, console: Console, began: float) -> None:
    """Recommend, write, mirror, show."""

    directory, history = setup.directory, session.history
    with doing(console, "fitting what was measured"):
        answer = setup.strategy.recommend(history)
        bill = make_bill(setup, history)
        directory.write_recommendation(answer, bill)
        warning = write_report(directory.path)
    names = ("config.json", "recommendation.json", "trials.jsonl", "u_curves.svg", "report.html")
    files = [path for name in names if (path := directory.path / name).exists()]
    mirrored = mirror.close(to_dict(answer), note(setup, answer, bill), files)
    lacking = f"{mirror.lacking} lacks a part: --resume completes it"
    lines = [
        ("trials", bill["trials"]),
        ("cost", bill["cost"]),
        ("wall time", duration(time.monotonic() - began)),
        ("report", warning or f"{directory.path / 'report.html'}"),
        ("files", f"{directory.path}/ (trials.jsonl, recommendation.json, u_curves.svg)"),
        ("review", ui_command(mirror.run.uri, directory.path) if mirrored else lacking),
        ("final run", final_command(setup, answer)),
    ]
    if session.over.startswith("the budget") or "in a row failed" in session.over:
        lines.insert(0, ("ended because", session.over))
    console.print(answer_panel(answer, [line for line in lines if line[1]]))
    result = {**to_dict(answer), "bill": bill, "ended": session.over, "directory": directory.path}
    setup.config.answer(result, "no recommendation" if answer.lr is None else f"{answer.lr:.4g}")


def make_bill(setup: Setup, history: History) -> dict[str, Any]:
    spent = history.spent
    statuses = [t.status for t in history if not t.aside]
    counts = ", ".join(f"{n} {s}" for s in dict.fromkeys(statuses) if (n := statuses.count(s)))
    share = spent.flops / run_flops(setup.target)
    added = " (trials side by side added up)" if setup.slots.count > 1 else ""
    cost = f"{share:.0%} of the target run: {spent.flops:.3g} FLOPs, {duration(spent.seconds)} of training{added}"
    if setup.config.usd_per_hour:
        cost += f", {of_given(spent.usd, setup.cap.usd)}"
    return {
        "trials": f"{len(statuses)} ({counts})",
        "cost": cost,
        "seconds": spent.seconds,
        "flops": spent.flops,
        "usd": spent.usd,
        "share_of_target": share,
    }


def final_command(setup: Setup, answer: Recommendation) -> str:
    if answer.lr is not None and setup.trainer is not None:
        run = replace(setup.target, lr=float(f"{answer.lr:.4g}"), batch=answer.batch or setup.target.batch)
        return command_line(setup.trainer, run)
    return "" if answer.lr is None else f"python -m hpt.train --from {setup.directory.path}"


def search_run(setup: Setup, search_id: str) -> SearchRun:
    return SearchRun(
        id=search_id,
        name=setup.directory.path.name,
        uri=tracking_uri(setup.config.tracking_uri),
        folder=setup.directory.path,
        log=setup.config.log,
        tags={"hpt.strategy": setup.config.strategy, "hpt.target": setup.config.target},
        params={"strategy": setup.config.strategy, "target": setup.config.target, "tokens": setup.target.tokens,
                "N_total": parameters(setup.target.model).total, "batch": setup.target.batch},
    )  # fmt: skip


def note(setup: Setup, answer: Recommendation, bill: dict[str, Any]) -> str:
    """Markdown for the parent run."""
    lines = [f"# lr {answer.lr:.3g}" if answer.lr else "# No recommendation"]
    if answer.interval90:
        lines.append(f"90 % interval {answer.interval90[0]:.3g} to {answer.interval90[1]:.3g}.")
    lines += [f"- {reason}" for reason in answer.reasons]
    lines += [f"\nHow it is found: {answer.law}."] if answer.law else []
    lines += [
        f"\nTrials: {bill['trials']}. Cost: {bill['cost']}.",
        "\nHow to read this page: the runs below this one are the trials. In the charts, `final_val_loss` against "
        "`log10_lr` is the U-curve, one for each size and number of tokens; `report.html` (artefacts) has more.",
        f"\n```\n{final_command(setup, answer) or f'python -m hpt.search --resume {setup.directory.path}'}\n```",
    ]
    return "\n".join(lines)
