"""Directories of searches and final runs as hpt leaves them, made without training."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

from search.budget import Timing, shape_key
from search.execution.store import SearchDir
from search.records import Recommendation, Trial
from trainer.architecture.counts import parameters
from trainer.config import override, to_dict
from trainer.presets import preset

TARGET = preset("laptop")


def search(path: Path, trials: list[Trial], answer: Recommendation | None) -> Path:
    directory = SearchDir(path)
    timing = {shape_key(TARGET): to_dict(Timing(step_seconds=0.1))}
    about = {"strategy": "hyperband", "target": "laptop"}
    directory.write_config({"id": "x", "search": about, "target": to_dict(TARGET), "timings": timing})
    for trial in trials:
        directory.append(trial)
    if answer is not None:
        directory.write_recommendation(answer, {})
    return path


def trials(count: int) -> list[Trial]:
    """Valleys at three horizons, some promoted, some diverged."""
    found = []
    for i in range(count):
        horizon, lr = TARGET.batch * (6, 60, 600)[i % 3], 10 ** (-4 + 3 * (i * 7 % count) / count)
        loss = 4 + 2 / (1 + i % 3) + 0.3 * (math.log(lr) + 5.5) ** 2
        wild = lr > 0.05
        found.append(
            Trial(
                id=f"t{i:04d}", run=replace(TARGET, lr=lr), horizon=horizon, status="diverged" if wild else "finished",
                loss=None if wild else loss, parent=f"t{i - 1:04d}" if i % 3 else None, seconds=3.0, flops=1e10,
                usd=0.01,
                curve=((horizon, loss),), train_curve=tuple((horizon * k // 9, loss + 3 / k) for k in range(1, 10)),
                tags={"bracket": i % 2, "stage": f"bracket {i % 2}"},
            )
        )  # fmt: skip
    return found


ANSWER = Recommendation(
    lr=4e-3, interval50=(3e-3, 5e-3), interval90=(2e-3, 8e-3), max_stable_lr=0.05,
    expected_regret=0.01, worst_regret=0.04, law="power law in D",
    rejected=(("linear in D", "a <slope> & a doubt"),), reasons=("measured <b>short</b>",),
)  # fmt: skip


def planted(path: Path, law: str) -> Path:
    """Whole runs at three sizes with the best lr falling as N^-0.5, and a plan of more than was made."""
    made = []
    for depth, width in ((1, 16), (1, 32), (2, 32)):
        shape = TARGET.shaped(depth, width, 1)
        best = 3e-3 * (parameters(shape.model).non_embedding / 1e5) ** -0.5
        for k in range(-2, 3):
            run = replace(shape, lr=best * 2.0**k)
            made.append(Trial(id=f"{depth}x{width}-{k}", run=run, horizon=run.tokens, status="finished", seconds=4.0,
                              loss=4 + 0.1 * k * k, flops=1e10, tags={"stage": f"{depth}x{width}"}))  # fmt: skip
    folder = search(path, made, replace(ANSWER, law=law))
    config = json.loads((folder / "config.json").read_text())
    cost = {"seconds": 20.0, "flops": 7.5e10, "usd": 0.0}
    config["plan"] = [{"name": n, "trials": 6, "tokens": 1.0, "cost": cost} for n in ("1x16", "never")]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def finished(folder: Path, *changes: str, **result: object) -> Path:
    """A final run as hpt.train leaves it."""
    run = override(replace(preset("laptop"), lr=1e-3), changes)
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(to_dict(run)))
    curve = [(409_600 * i, 5.0 - 0.3 * i) for i in (1, 2, 3)]
    scores = [(t, {"blimp/acc": 0.5 + t / 1e7, "blimp/acc_macro": 0.5}) for t, _ in curve]
    values = {"status": "finished", "reason": "", "loss": 4.1, "bits_per_byte": 2.0, "step": 300, "tokens": 1_228_800,
              "seconds": 60.0, "curve": curve, "scores": scores, "checkpoint": "x"} | result  # fmt: skip
    (folder / "result.json").write_text(json.dumps(values))
    return folder
