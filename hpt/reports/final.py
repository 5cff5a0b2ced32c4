"""The words of a final run's page: how it ended in one sentence, and its facts."""

from __future__ import annotations

import math
import shlex

from hpt.reports.gather import FinalFound
from hpt.reports.numbers import duration, short
from trainer.architecture.counts import parameters

Rows = list[tuple[str, ...]]


def final_headline(found: FinalFound) -> str:
    """Loss, beside what its search predicted, dollars, time."""
    result, loss = found.result, found.result.get("loss")
    ended = {"finished": "", "diverged": "Diverged", "stopped": "Stopped"}.get(result["status"], result["status"])
    if ended:
        at = f" at step {result['step']:,} of {found.run.steps:,}" if result.get("step") is not None else ""
        ended = f"{ended}{at}" + (f": {result['reason']}" if result.get("reason") else "")
    parts = []
    if loss is not None:
        parts.append(f"{loss:.4f} nats a token")
        predicted = predicted_loss(found)
        if predicted is not None and result["status"] == "finished":
            way = "better" if loss < predicted else "worse"
            parts[0] += f", {abs(loss - predicted):.3f} {way} than predicted"
    if result.get("usd") is not None:
        parts.append(f"${result['usd']:.2f}")
    if "seconds" in result:
        parts.append(duration(result["seconds"]))
    return ". ".join(filter(None, (ended, "; ".join(parts)))) + "."


def predicted_loss(found: FinalFound) -> float | None:
    """The loss at this run's lr by the valley that its search measured at the same size, tokens and batch; None where
    it measured none there, whole and from both sides: a loss is not extrapolated."""
    search, run = found.predicted, found.run
    if search is None or run.lr is None:
        return None
    for cell in search.cells:
        alike = cell.run.model == run.model and cell.run.batch == run.batch and cell.run.data == run.data
        if alike and cell.horizon == run.tokens and not cell.cut_short:
            optimum = cell.optimum()
            if optimum is not None and optimum.edge is None:
                return optimum.loss + float(optimum.excess(math.log(run.lr)))
    return None


def final_rows(found: FinalFound) -> Rows:
    result, run = found.result, found.run
    rows = [
        ("model", f"{short(parameters(run.model).total)} parameters, {run.steps:,} steps of {run.batch:,} tokens"),
        ("learning rate", f"{run.lr:.3g}, {run.schedule}"),
        ("status", result["status"] + (f": {result['reason']}" if result.get("reason") else "")),
    ]
    bits = result.get("bits_per_byte")
    if result.get("loss") is not None:
        more = "" if bits is None else f", {bits:.4f} bits a byte"
        rows.append(("validation loss", f"{result['loss']:.4f} nats a token{more}"))
    if (predicted := predicted_loss(found)) is not None:
        rows.append(("predicted loss", f"{predicted:.4f} nats a token, by the search's runs of this size and length"))
    search = found.predicted
    if search is not None and search.interval90:
        low, high = search.interval90
        rows.append(
            ("predicted lr", f"best lr {search.lr:.3g}, between {low:.3g} and {high:.3g} (90 %), by {search.path.name}")
        )
    if (best := _best_proxy(found)) is not None and result.get("loss") is not None:
        rows.append(("best proxy", f"{best:.4f} nats a token; this run {result['loss'] - best:+.4f}"))
    if "seconds" in result:
        saving = f", {result.get('saving_seconds', 0):.2f} s of it held by saving"
        rows.append(("time", f"{duration(result['seconds'])}{saving}"))
    if result.get("usd") is not None:
        rows.append(("dollars", f"{result['usd']:.2f}"))
    return [*rows, ("checkpoint", result.get("checkpoint", ""))]


def _best_proxy(found: FinalFound) -> float | None:
    losses = [t.loss for t in found.predicted.trials if t.loss is not None] if found.predicted else []
    return min(losses, default=None)


def score_rows(found: FinalFound) -> tuple[tuple[str, ...], Rows]:
    rows: Rows = []
    for task, entry in found.evaluations.items():
        for score in entry["scores"][:12]:
            error = score["standard_error"]
            shown = "" if error is None or math.isnan(error) else f"{error:.4f}"
            rows.append((task, score["name"], f"{score['value']:.4f}", shown, f"{score['count']:,}"))
    return ("task", "metric", "value", "±", "items"), rows


def final_commands(found: FinalFound) -> list[str]:
    """What one does with it next."""
    path = shlex.quote(str(found.path))
    lines = [f"python -m hpt.evaluate {path}   # zero-shot tasks and held-out text"]
    if found.run.model.causal:
        lines.insert(0, f"python -m hpt.generate {path} --prompt 'Once'")
    return [*lines, f"python -m hpt.ui {path}         # its curves in MLflow"]
