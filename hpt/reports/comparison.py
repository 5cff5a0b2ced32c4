"""Final runs beside each other: one table, and their curves of loss and tasks on one picture each."""

from __future__ import annotations

from collections.abc import Sequence

from hpt.reports.chart import Chart
from hpt.reports.gather import FinalFound
from hpt.reports.numbers import duration, short
from hpt.reports.text import tables_latex
from trainer.architecture.counts import parameters, run_flops
from trainer.errors import UserError
from trainer.evals.score import leading

Points = list[tuple[float, float]]
HEADERS = (
    "run", "loss", "lr", "parameters", "in blocks", "tokens", "samples seen", "FLOPs", "time", "tokens/s", "bits/byte",
)  # fmt: skip


def comparison(runs: Sequence[FinalFound]) -> tuple[tuple[str, ...], list[tuple[str, ...]], list[Chart]]:
    """(headers, rows, charts); UserError for fewer than two runs."""
    if len(runs) < 2:
        raise UserError("A comparison needs two final runs or more: --compare runs/A runs/B.")
    named = dict(zip(_names(runs), runs, strict=True))
    tasks = sorted({task for run in runs for task in final_scores(run)})
    rows = [_row(name, run, tasks) for name, run in named.items()]
    charts = [
        _chart(named, "tokens", "validation loss (nats a token)", losses, lambda run, tokens: tokens),
        _chart(named, "training FLOPs", "validation loss (nats a token)", losses, lambda run, t: run_flops(run.run, t)),
    ]
    for task in tasks:
        of = _of_task(task)
        if any(of(run) for run in runs):
            charts.append(_chart(named, "tokens", task, of, lambda run, tokens: tokens))
    return (*HEADERS, *tasks), rows, charts


def doubts(runs: Sequence[FinalFound]) -> list[str]:
    """Why losses of these runs may say nothing about each other."""
    said = list[str]()
    for what, values in (
        ("objectives", {run.run.objective for run in runs}),
        ("tokenizers", {run.run.data.tokenizer for run in runs}),
        ("corpora", {run.run.data.corpus for run in runs}),
        ("packings of documents", {run.run.data.pack for run in runs}),
        ("shares of masked tokens", {run.run.mask_rate for run in runs if run.run.objective == "masked"}),
    ):
        if len(values) > 1:
            shown = ", ".join(sorted(map(str, values)))
            said.append(f"They have other {what} ({shown}): their losses are not of the same thing; compare tasks.")
    return said


def latex(runs: Sequence[FinalFound]) -> str:
    headers, rows, _ = comparison(runs)
    return tables_latex(headers, rows, "Final runs.")


def losses(run: FinalFound) -> Points:
    return [(float(tokens), float(loss)) for tokens, loss in run.result.get("curve", ())]


def _of_task(task: str):  # noqa: ANN202
    def of(run: FinalFound) -> Points:
        """The task's leading score over time."""
        found = [(float(t), leading(scores).get(task)) for t, scores in run.result.get("scores", ())]
        return [(tokens, value) for tokens, value in found if value is not None]

    return of


def final_scores(run: FinalFound) -> dict[str, float]:
    """By task, its leading score: of hpt.evaluate, else the last that training measured."""
    found = dict[str, float]()
    for _, scores in run.result.get("scores", ()):
        found |= leading(scores)
    for task, entry in run.evaluations.items():
        if task != "val":
            found |= leading({f"{task}/{score['name']}": score["value"] for score in entry["scores"]})
    return found


def _row(name: str, found: FinalFound, tasks: Sequence[str]) -> tuple[str, ...]:
    run, result, scores = found.run, found.result, final_scores(found)
    size, tokens, seconds = parameters(run.model), result.get("tokens", 0), result.get("seconds", 0.0)
    loss, bits = result.get("loss"), result.get("bits_per_byte")
    return (
        name, result["status"] if loss is None else f"{loss:.4f}", "" if run.lr is None else f"{run.lr:.3g}",
        short(size.total), short(size.blocks), short(tokens), f"{tokens // run.model.context:,}",
        f"{run_flops(run, tokens):.3g}", duration(seconds), short(tokens / seconds) if seconds else "",
        "" if bits is None else f"{bits:.4f}", *(f"{scores[task]:.4g}" if task in scores else "" for task in tasks),
    )  # fmt: skip


def _chart(named: dict[str, FinalFound], x_label: str, y_label: str, of, place) -> Chart:  # noqa: ANN001
    chart = Chart(x_label, y_label, f"{y_label} against {x_label}", x_log=False)
    for colour, (name, run) in enumerate(named.items()):
        if points := [(place(run, tokens), value) for tokens, value in of(run)]:
            chart.line(points, colour, name)
            chart.dots(points, colour, [f"{name}: {value:.4f}" for _, value in points])
    return chart


def _names(runs: Sequence[FinalFound]) -> list[str]:
    """The last part of each run's directory, or all of it where that is not its own."""
    last = [run.path.name for run in runs]
    return [name if last.count(name) == 1 else str(run.path) for name, run in zip(last, runs, strict=True)]
