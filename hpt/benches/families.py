"""An optimiser step of each family of models beside GPT-2's of the same shape: FLOPs a second, since FLOPs differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hpt.benches.common import Options, Row, in_time, seconds, shapes
from trainer.architecture.counts import flops_per_token, parameters
from trainer.config import RunConfig, override
from trainer.data.synthetic import random_data
from trainer.families import FAMILIES
from trainer.loop import Training
from trainer.presets import gpt2

REFERENCE = "gpt2"


def measure(options: Options) -> list[Row]:
    rows = []
    for name, run in in_time(sizes(options), options):
        # an id is left for the mask of those that have one
        with random_data(run.model.vocabulary - 1, 4 * run.batch + 1) as data:
            runs = {family: override(run, [f"family={family}"]) for family in wanted(options)}
            ways: dict[str, Callable[[], Any]] = {
                family: Training(one, data, options.device).train_step for family, one in runs.items()
            }
            taken = seconds(ways, options.repeats, options.device)
        rows += [{"shape": name, **_row(family, one, taken[family])} for family, one in runs.items()]
        reference = next(row for row in rows[-len(runs) :] if row["family"] == REFERENCE)
        for row in rows[-len(runs) :]:
            row["against_gpt2"] = row["gflops_per_second"] / reference["gflops_per_second"]
    return rows


def wanted(options: Options) -> list[str]:
    """GPT-2 first, always."""
    asked = FAMILIES if "all" in options.families else options.families
    return [REFERENCE, *(family for family in asked if family != REFERENCE)]


def sizes(options: Options) -> dict[str, RunConfig]:
    """Contexts in which GPT-Neo's windows are shorter than the context, and one where they are not worth it."""
    if options.quick:
        return shapes(options)
    if options.device.type == "cpu":
        small = replace(shapes(options)["0.4M"], precision="auto")
        course = gpt2(4, 512, 8)
        shape = replace(course.model, context=512, vocabulary=10_000, ffn=1024)
        nine = replace(course, model=shape, batch=2048, lr=1e-3)
        long = replace(nine, model=replace(shape, width=256, heads=4, context=2048))
        return {"2x64, context 128": small, "4x512, context 512": nine, "4x256, context 2048": long}
    large = replace(gpt2(12, 768, 12), batch=65536, lr=1e-3)
    long = replace(large, model=replace(large.model, context=4096), batch=65536)
    return {"12x768, context 1024": large, "12x768, context 4096": long}


def _row(family: str, run: RunConfig, time: float) -> Row:
    flops = flops_per_token(run.model, run.predicted) * run.batch
    return {
        "family": family,
        "parameters": parameters(run.model).total,
        "gflops": flops / 1e9,
        "ms": 1e3 * time,
        "tokens_per_second": run.batch / time,
        "gflops_per_second": flops / time / 1e9,
    }
