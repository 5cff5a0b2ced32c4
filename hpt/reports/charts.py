"""Which charts show a search and a final run; `search_charts` names them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from hpt.reports.chart import Chart
from hpt.reports.gather import Found
from hpt.reports.laws import Axis, Law, laws
from hpt.reports.numbers import short, written
from search.evidence.cells import Cell
from search.records import Trial
from trainer.architecture.counts import parameters

CURVES = 7  # cells and trials drawn in colours of their own
INTERVAL = 1.645


def u_curves(found: Found) -> Chart | None:
    """Loss against lr, a curve a cell; those at the longest horizons in colour, the rest in grey."""
    cells = sorted((c for c in found.cells if c.losses), key=lambda c: (c.horizon * c.n_non_embedding, c.horizon))
    if not cells:
        return None
    chart = Chart("peak learning rate", "validation loss (nats a token)")
    if found.interval90:
        chart.band(*found.interval90)
    for cell in cells[:-CURVES]:
        chart.line(_sorted(cell), "faint", thin=True)
    for i, cell in enumerate(cells[-CURVES:]):
        _valley(chart, cell, i)
    diverged = sorted({t.lr for t in found.trials if t.status == "diverged"})
    if diverged:
        chart.crosses(diverged, "diverged")
    if found.lr is not None:
        chart.vertical(found.lr, f"recommended {found.lr:.3g}")
    lows = [min(c.losses) for c in cells]
    spread = max(max(lows) - min(lows), 0.3)
    chart.y_range = (min(lows) - 0.05 * spread, max(lows) + max(0.5 * spread, 0.4))  # the walls are steep: show valleys
    lrs = [t.lr for t in found.trials if t.loss is not None and t.loss <= chart.y_range[1]] + diverged
    lrs += [*(found.interval90 or ()), *([found.lr] if found.lr else [])]
    chart.x_range = (min(lrs) / 1.3, max(lrs) * 1.3)
    chart.title = "Loss against learning rate for each size and number of tokens; dashed: the fitted valley"
    return chart


def _sorted(cell: Cell) -> list[tuple[float, float]]:
    return sorted(zip(cell.lrs, cell.losses, strict=True))


def _valley(chart: Chart, cell: Cell, colour: int) -> None:
    points = _sorted(cell)
    label = f"{short(cell.n_total)}, {short(cell.horizon)} tokens" + (", not annealed" if cell.cut_short else "")
    chart.line(points, colour, label)
    chart.dots(points, colour, [f"lr {lr:.3g}: {loss:.4f} ({label})" for lr, loss in points])
    optimum = cell.optimum()
    if optimum is not None and optimum.edge is None and optimum.curvature > 0:
        x = np.linspace(optimum.log_lr - 1.0, optimum.log_lr + 0.8, 40)
        chart.line(list(zip(np.exp(x), optimum.loss + optimum.excess(x), strict=True)), colour, dash=True, thin=True)


def best_lr(found: Found) -> dict[Axis, Chart]:
    """The optimum of each cell against N, D and B, where there is more than one of them; the target beside."""
    out: dict[Axis, Chart] = {}
    axes: tuple[tuple[Axis, str, Callable[[Cell], int], int], ...] = (
        ("N", "parameters without embeddings", lambda c: c.n_non_embedding, found.n_target),
        ("D", "training tokens", lambda c: c.horizon, found.target.tokens),
        ("B", "batch, tokens", lambda c: c.batch, found.target.batch),
    )
    optima = [(c, o) for c in found.cells if (o := c.optimum()) is not None]
    for axis, name, of, at in axes:
        known = [(c, o) for c, o in optima if o.edge is None]
        xs = [at, *(of(c) for c in found.cells)]
        drawn = laws(found, axis, min(xs), max(xs)) if len({of(c) for c in found.cells}) > 1 else []
        if len({of(c) for c, _ in known}) < 2 and not drawn:
            continue
        chart = Chart(name, "best learning rate", y_log=True, height=300)
        seen = [math.exp(o.log_lr) for _, o in optima] + list(found.interval90 or ())
        chart.y_range = (min(seen) / 3, max(seen) * 3)  # a rejected law may go anywhere
        _draw_laws(chart, drawn)
        chart.bars([(of(c), *_ends(o.log_lr, o.sd)) for c, o in known], 0)
        ends = [pair for pair in optima if pair[1].edge]
        kinds = (("proxies, 90 % interval", known, 0), ("best at an end of those tried", ends, "faint"))
        for label, which, colour in kinds:
            titles = [f"{short(c.n_total)}, {short(c.horizon)} tokens, batch {short(c.batch)}" for c, _ in which]
            points = [(of(c), math.exp(o.log_lr)) for c, o in which]
            chart.dots(points, colour, titles, label if which else "", r=4.5)
        if found.lr is not None:
            if found.interval90:
                chart.bars([(at, *found.interval90)], "accent")
            chart.dots([(at, found.lr)], "accent", ["the target"], "recommended for the target", r=6)
        chart.title = f"Best learning rate against {name}"
        out[axis] = chart
    return out


def _draw_laws(chart: Chart, drawn: list[Law]) -> None:
    for law in drawn:
        colour = "accent" if law.used else "faint"
        chart.line(law.line, colour, law.name if law.used else "rejected", dash=not law.used)
        if law.used:
            chart.line([(x, low) for x, low, _ in law.band], "accent", "one sd", dash=True, thin=True)
            chart.line([(x, high) for x, _, high in law.band], "accent", dash=True, thin=True)


def _ends(log_lr: float, sd: float) -> tuple[float, float]:
    return math.exp(log_lr - INTERVAL * sd), math.exp(log_lr + INTERVAL * sd)


def rungs(found: Found) -> Chart | None:
    """Who was promoted: each trial at its horizon and lr, joined to the one it continues."""
    by_id = {t.id: t for t in found.trials}
    children = [t for t in found.trials if t.parent in by_id]
    if not children:
        return None
    chart = Chart("tokens at which it was measured", "peak learning rate", y_log=True, height=320)
    brackets = list(dict.fromkeys(t.tags.get("bracket") for t in found.trials if "bracket" in t.tags))
    if not brackets:  # trunks shared for another reason
        return None
    for i, bracket in enumerate(brackets):
        mine = [t for t in found.trials if t.tags.get("bracket") == bracket]
        for t in mine:
            if t.parent in by_id:
                chart.line([(by_id[t.parent].horizon, t.lr), (t.horizon, t.lr)], i, thin=True)
        ended = [t for t in mine if t.loss is not None]
        titles = [f"lr {t.lr:.3g}, {short(t.horizon)} tokens: {t.loss:.4f}" for t in ended]
        chart.dots(
            [(t.horizon, t.lr) for t in ended], i, titles, f"bracket {bracket + 1}" if isinstance(bracket, int) else ""
        )
    if found.lr is not None:
        chart.line(
            [(min(t.horizon for t in found.trials), found.lr), (found.target.tokens, found.lr)], "accent", dash=True
        )
    chart.title = "Brackets and rungs: a line goes on to the right where a trial was promoted; dashed: recommended"
    return chart


def learning_curves(found: Found) -> Chart | None:
    """Validation loss on the way of the best trials of the longest horizons, with their minima."""
    having = [t for t in found.trials if len(t.curve) + len(t.train_curve) > 3 and t.loss is not None]
    chosen = sorted(having, key=lambda t: (-t.horizon, t.loss))[:CURVES]
    if not chosen:
        return None
    chart = Chart("training tokens", "loss (nats a token)", x_log=False)
    for i, t in enumerate(chosen):
        _curve(chart, t, i)
    lows = [t.loss for t in chosen if t.loss is not None]
    highs = [v for t in chosen for _, v in t.train_curve[len(t.train_curve) // 4 :]]
    chart.y_range = (min([*highs, *lows]) - 0.1, max([*highs, *lows]) + 0.1)
    chart.title = "Training loss of the best trials at the longest horizons; dots: validation loss"
    return chart


def _curve(chart: Chart, trial: Trial, colour: int) -> None:
    label = f"{short(parameters(trial.run.model).total)}, lr {trial.lr:.3g}, {short(trial.horizon)} tokens"
    chart.line(trial.train_curve, colour, label, thin=True)
    points = list(trial.curve) or [(trial.horizon, trial.loss or math.nan)]
    chart.dots(points, colour, [f"{label}: {v:.4f} at {short(at)} tokens" for at, v in points], r=3)
    at, low = min(points, key=lambda p: p[1])
    chart.dots([(at, low)], colour, [f"lowest of {label}: {low:.4f}"], r=5.5)


def final_run(result: dict, predicted: float | None = None) -> list[Chart]:
    """Loss (and what was predicted for its end), lr, gradient norm, zero-shot scores of a final run against tokens."""
    out, loss = [], Chart("training tokens", "loss (nats a token)", x_log=False)
    train, val = result.get("train_curve", []), result.get("curve", [])
    loss.line(train, 0, "training", thin=True)
    loss.dots(val, 1, [f"{v:.4f} at {written(t)} tokens" for t, v in val], "validation")
    if val:
        at, low = min(val, key=lambda p: p[1])
        loss.dots([(at, low)], 1, [f"lowest: {low:.4f}"], r=6)
        if predicted is not None:
            end = max(t for t, _ in [*train, *val])
            loss.dots([(end, predicted)], "accent", [f"predicted: {predicted:.4f}"], "predicted", r=5, hollow=True)
    late = [v for _, v in train[len(train) // 20 :]] + [v for _, v in val]
    late += [predicted] if val and predicted is not None else []
    if late:
        loss.y_range = (min(late) - 0.1, max(late) + 0.1)
        loss.title = "Loss of the final run; the large dot is the lowest validation loss"
        out.append(loss)
    for key, label in (("lr_curve", "learning rate"), ("grad_norm_curve", "gradient norm")):
        if points := result.get(key):
            chart = Chart("training tokens", label, x_log=False, height=220)
            chart.line(points, 2)
            chart.title = "Gradient norm before clipping" if key == "grad_norm_curve" else "Learning rate"
            out.append(chart)
    names = list(dict.fromkeys(name for _, scores in result.get("scores", []) for name in scores))
    if names:
        chart = Chart("training tokens", "accuracy", x_log=False, height=260)
        for i, name in enumerate(names):
            chart.line([(t, s[name]) for t, s in result["scores"] if name in s], i, name)
        chart.title = "Zero-shot scores on the way"
        out.append(chart)
    return out


def search_charts(found: Found) -> dict[str, Chart]:
    """Those that there is something to draw on, by the name of their file."""
    drawn = {"u_curves": u_curves(found), "learning_curves": learning_curves(found), "rungs": rungs(found)}
    drawn |= {f"best_lr_by_{axis}": chart for axis, chart in best_lr(found).items()}
    return {name: chart for name, chart in drawn.items() if chart is not None}
