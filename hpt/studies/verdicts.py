"""What the rows of an ablation say of each variant: of its loss and of every task, in terms of noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.box import SIMPLE
from rich.table import Table

from hpt.reports.chart import Chart
from hpt.studies.training import Row
from hpt.studies.variants import BASELINE
from scaling.ablation import Verdict, judge, power_law
from trainer.errors import UserError
from trainer.evals.score import leading

LOSS = "loss"
Verdicts = dict[str, dict[str, Verdict]]
"""By variant, by metric."""


def metrics_of(rows: Sequence[Row]) -> list[str]:
    """The loss, and each task that was scored."""
    return [LOSS, *sorted({task for row in rows for task in leading(row.get("scores", {}))})]


def value_of(row: Row, metric: str) -> float | None:
    return row["loss"] if metric == LOSS else leading(row.get("scores", {})).get(metric)


def verdict_of(rows: list[Row], name: str, metric: str = LOSS) -> Verdict:
    """Paired by level and seed; a diverged run of either has no pair."""
    found = {(r["variant"], r["level"], r["seed"]): value_of(r, metric) for r in rows}
    compute, differences = [], []
    for level in sorted({r["level"] for r in rows}):
        seeds = sorted({r["seed"] for r in rows})
        pairs = [(found[name, level, s], found[BASELINE, level, s]) for s in seeds]
        if whole := [a - b for a, b in pairs if a is not None and b is not None]:
            compute.append(next(r["flops"] for r in rows if r["level"] == level and r["variant"] == BASELINE))
            differences.append(whole)
    try:
        if metric == LOSS:
            return judge(compute, differences)
        falls = any(f"{metric}/{lower}" in row.get("scores", {}) for row in rows for lower in ("perplexity", LOSS))
        rises = any(f"{metric}/acc" in row.get("scores", {}) for row in rows)
        return judge(compute, differences, unit="", higher=rises or not falls)
    except ValueError as error:
        raise UserError(f"{name}: too many runs diverged for a verdict. {error} Lower --lr.") from None


def summary(verdicts: dict[str, Verdict]) -> str:
    """Which metrics got better, which worse, which cannot be told from noise."""
    groups: dict[str, list[str]] = {"better": [], "worse": [], "cannot be told from noise": []}
    for metric, verdict in verdicts.items():
        groups[verdict.word or "cannot be told from noise"].append(metric)
    return "; ".join(f"{group}: {', '.join(metrics)}" for group, metrics in groups.items() if metrics)


def table(rows: list[Row], verdicts: Verdicts) -> Table:
    levels = levels_of(rows)
    out = Table(box=SIMPLE, title="mean validation loss, nats a token", title_justify="left")
    tasks = metrics_of(rows)[1:]
    shares = (f"{level:.3g} of the compute" for level in levels)
    for header in ("variant", *shares, "gap", "C^-a", *(f"{task}, largest" for task in tasks)):
        out.add_column(header, justify="left" if header == "variant" else "right")
    for name in dict.fromkeys(r["variant"] for r in rows):
        compute, means = curve(rows, name, "flops")
        law = power_law(compute, means)
        mine = verdicts.get(name, {})
        gap = f"{mine[LOSS].gap:+.4f}" if LOSS in mine else ""
        by_level = {level: mean(rows, name, level, lambda row: row["loss"]) for level in levels}
        losses = ("diverged" if loss is None else f"{loss:.4f}" for loss in by_level.values())
        scores = (mean(rows, name, levels[-1], lambda row, task=task: value_of(row, task)) for task in tasks)
        shown = ("" if score is None else f"{score:.4g}" for score in scores)
        out.add_row(name, *losses, gap, f"{law[1]:.3f}" if law else "", *shown)
    return out


def mean(rows: list[Row], name: str, level: float, of: Callable[[Row], float | None]) -> float | None:
    """Over the seeds of a variant at a level; None where no run has it."""
    values = [of(row) for row in rows if (row["variant"], row["level"]) == (name, level)]
    whole = [value for value in values if value is not None]
    return sum(whole) / len(whole) if whole else None


def curve(rows: list[Row], name: str, of: str, metric: str = LOSS) -> tuple[list[float], list[float]]:
    """(mean of `of`, mean of the metric) by level; diverged runs left out."""
    xs, ys = [], []
    for level in sorted({r["level"] for r in rows}):
        here = [r for r in rows if (r["variant"], r["level"]) == (name, level)]
        mine = [(r[of], value) for r in here if (value := value_of(r, metric)) is not None]
        if mine:
            xs.append(sum(x for x, _ in mine) / len(mine))
            ys.append(sum(y for _, y in mine) / len(mine))
    return xs, ys


def page(rows: list[Row], verdicts: Verdicts, sentences: dict[str, str]) -> str:
    from hpt.reports.page import ablation_page

    headers = ("variant", "metric", "gap", "95 %", *(f"at {level:.3g} of the compute" for level in levels_of(rows)))
    body = [
        (name, metric, f"{v.gap:+.4f}", f"± {v.factor * v.error:.4f}",
         *(f"{gap:+.4f} ± {v.factor * error:.4f}" for gap, error in zip(v.gaps, v.errors, strict=True)))
        for name, mine in verdicts.items() for metric, v in mine.items()
    ]  # fmt: skip
    return ablation_page(sentences, (headers, body), charts(rows, verdicts))


def levels_of(rows: list[Row]) -> list[float]:
    return sorted({r["level"] for r in rows})


def charts(rows: list[Row], verdicts: Verdicts) -> list[Chart]:
    """Gaps to the baseline with their intervals, losses against FLOPs and seconds, and every task."""
    of = (("flops", "training FLOPs"), ("seconds", "seconds of this device"))
    drawn = [_chart(rows, key, LOSS, label) for key, label in of]
    drawn += [_chart(rows, "flops", task, "training FLOPs") for task in metrics_of(rows)[1:]]
    compared = {name: mine[LOSS] for name, mine in verdicts.items() if LOSS in mine}
    return [_gaps(rows, compared), *drawn] if compared else drawn


def _gaps(rows: list[Row], verdicts: dict[str, Verdict]) -> Chart:
    chart = Chart("training FLOPs of the baseline", "gap to the baseline (nats a token)")
    compute = curve(rows, BASELINE, "flops")[0]
    chart.line([(compute[0] / 1.2, 0), (compute[-1] * 1.2, 0)], "fg", BASELINE, thin=True)
    names = list(dict.fromkeys(r["variant"] for r in rows))
    for name, v in verdicts.items():
        i = names.index(name)
        xs = [c * 1.08 ** (i - len(names) / 2) for c in compute]  # side by side: no bar hides another
        points = list(zip(xs, v.gaps, strict=True))
        half = [v.factor * error for error in v.errors]
        chart.bars([(x, gap - h, gap + h) for (x, gap), h in zip(points, half, strict=True)], i)
        chart.line(points, i, name)
        chart.dots(points, i, [f"{name}: {gap:+.4f} ± {h:.4f}" for (_, gap), h in zip(points, half, strict=True)])
    chart.title = "Gap to the baseline at each level of compute, with its 95 % interval; below 0 is better"
    return chart


def _chart(rows: list[Row], of: str, metric: str, label: str) -> Chart:
    what = ("validation loss (nats a token)", "Loss") if metric == LOSS else (metric, metric)
    chart = Chart(label, what[0], f"{what[1]} against {label}, a dot a seed")
    for i, name in enumerate(dict.fromkeys(r["variant"] for r in rows)):
        chart.line(list(zip(*curve(rows, name, of, metric), strict=True)), i, name)
        mine = [(r[of], value) for r in rows if r["variant"] == name and (value := value_of(r, metric)) is not None]
        chart.dots(mine, i, [f"{name}: {value:.4f}" for _, value in mine])
    return chart
