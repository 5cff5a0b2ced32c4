"""Pictures of a search, by matplotlib, for files and MLflow."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

from hpt.console.screen import short  # noqa: E402
from search.records import History, Recommendation  # noqa: E402
from trainer.architecture.counts import parameters  # noqa: E402


def u_curves(history: History, answer: Recommendation, path: Path) -> None:
    """Loss against lr, a curve for each (N, D); diverged runs as crosses at the upper edge."""
    figure, axes = pyplot.subplots(figsize=(7, 4.5), constrained_layout=True)
    groups: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for trial in history.finished:
        assert trial.loss is not None
        key = parameters(trial.run.model).total, trial.horizon
        groups.setdefault(key, []).append((trial.lr, trial.loss))
    colours = pyplot.get_cmap("viridis")
    for i, ((size, tokens), points) in enumerate(sorted(groups.items())):
        lrs, losses = zip(*sorted(points), strict=True)
        colour = colours(i / max(1, len(groups) - 1) * 0.9)
        axes.plot(
            lrs,
            losses,
            "o-",
            ms=4,
            lw=1,
            color=colour,
            label=f"{short(size)}, {short(tokens)} tokens",
        )
    diverged = [t.lr for t in history if t.status == "diverged"]
    if diverged:
        axes.plot(
            diverged,
            [1.0] * len(diverged),
            "rx",
            transform=axes.get_xaxis_transform(),
            clip_on=False,
            label="diverged",
        )
    if answer.lr is not None:
        axes.axvline(answer.lr, color="black", lw=1, ls="--", label=f"recommended {answer.lr:.3g}")
    if answer.interval90 is not None:
        axes.axvspan(*answer.interval90, color="black", alpha=0.07, label="90 % interval")
    losses = [loss for points in groups.values() for _, loss in points]
    if losses:  # the walls are steep: show the valleys
        low, high = min(losses), max(min(loss for _, loss in points) for points in groups.values())
        top = high + max(0.6 * (high - low), 0.5)
        axes.set_ylim(low - 0.05 * (high - low) - 0.01, top)
        shown = [lr for points in groups.values() for lr, loss in points if loss <= top]
        shown += [*diverged, *(answer.interval90 or ())]
        axes.set_xlim(min(shown) / 1.3, max(shown) * 1.3)
    axes.set(xscale="log", xlabel="peak learning rate", ylabel="validation loss (nats a token)")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
