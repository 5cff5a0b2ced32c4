"""Which runs an ablation makes: a baseline and its variants, by level of compute and seed, of one size where asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from search.shapes.ladder import scaled, warmup_within
from trainer.architecture.counts import flops_per_token, parameters
from trainer.config import RunConfig, override
from trainer.errors import UserError
from trainer.families import settings

Key = tuple[str, float, int]
Runs = dict[Key, RunConfig]
"""By variant, level and seed."""
Changes = Mapping[str, tuple[str, ...]]
"""Assignments of each variant; the baseline has none."""
Match = Literal["none", "parameters", "flops"]
BASELINE = "baseline"
LR_EXPONENT = -0.2
"""d ln lr* / d ln C where N and D grow alike: Step Law's N^-0.713 D^0.307 (arXiv 2503.04715)."""
CLOSE = 0.02
"""Within which two sizes count as equal."""
REFUSED = 0.1
"""Beyond which they are not equal at all."""
MOST = 4
"""Times as wide or deep as it was is looked at."""


def parse(text: str) -> tuple[str, tuple[str, ...]]:
    """NAME:KEY=VALUE,... -> (name, assignments). A comma that no KEY= follows belongs to the value before it."""
    name, colon, changes = text.partition(":")
    parts = list[str]()
    for part in changes.split(","):
        if "=" in part or not parts:
            parts.append(part)
        else:
            parts[-1] += f",{part}"
    if not colon or not name or name == BASELINE or not all("=" in part for part in parts):
        raise UserError(
            f"--variant {text!r} is not of the form NAME:KEY=VALUE, such as swiglu:model.activation=swiglu."
        )
    return name, tuple(parts)


def plan(
    base: RunConfig, variants: Changes, levels: Sequence[float], seeds: int, lr: float, match: Match = "none"
) -> Runs:
    """The run of each (variant, level, seed): those that stop at once first, so that an interruption leaves pairs."""
    runs: Runs = {}
    for level in sorted(levels):
        share = math.sqrt(level)
        shape = base if level == 1 else scaled(base, share)
        tokens = max(1, round(base.tokens * share / base.batch)) * base.batch
        sized = replace(shape, tokens=tokens, warmup=warmup_within(base, tokens), lr=lr * level**LR_EXPONENT)
        made = {name: override(sized, changes) for name, changes in variants.items()}
        if match != "none":
            made = {name: matched(run, sized, variants[name], match) for name, run in made.items()}
        for seed in range(base.seed, base.seed + seeds):
            for name, run in made.items():
                runs[name, level, seed] = replace(run, seed=seed)
    return runs


def matched(run: RunConfig, base: RunConfig, changes: Sequence[str], match: Match) -> RunConfig:
    """The run as large as `base`: of width, depth and width of the feed-forward part, the first that the variant does
    not itself set is changed. What else it sets stays."""
    measure: Callable[[RunConfig], float] = size_of if match == "parameters" else flops_of
    wanted, free = measure(base), [name for name in ("width", "depth", "ffn") if name not in named(changes)]
    if abs(measure(run) / wanted - 1) < 1e-3:
        return run
    if not free:
        raise UserError(
            "A variant that sets model.width, model.depth and model.ffn leaves nothing by which it could be made as "
            "large as the baseline: leave --match out, or one of them."
        )
    found = min(_resized(run, free[0]), key=lambda other: abs(math.log(measure(other) / wanted)))
    if abs(measure(found) / wanted - 1) > CLOSE and len(free) > 1:  # a layer is too much: the feed-forward part's width
        found = min(_resized(found, free[-1]), key=lambda other: abs(math.log(measure(other) / wanted)))
    if (off := measure(found) / wanted - 1) and abs(off) > REFUSED:
        raise UserError(
            f"A variant with {', '.join(changes)} cannot be made as large as the baseline: by its "
            f"{free[0]} it comes no nearer than {off:+.0%} {match}; leave --match out, or set less of its shape."
        )
    return found


def named(changes: Sequence[str]) -> set[str]:
    """Fields of the model that assignments set; those of a family that it does not share with GPT-2."""
    found = set[str]()
    for change in changes:
        key, _, value = change.partition("=")
        keys = [k for k, v in settings(value).items() if v != settings("gpt2")[k]] if key == "family" else [key]
        found |= {k.removeprefix("model.") for k in keys}
    return found


def _resized(run: RunConfig, name: str) -> list[RunConfig]:
    """The run in all sizes of one kind that are not far from its own."""
    model = run.model
    if name == "width":
        step = model.heads * (2 if model.positions == "rope" and model.qk_dim is None else 1)
        values: Sequence[int] = range(step, MOST * model.width + 1, step)
    elif name == "depth":
        values = range(1, MOST * model.depth + 1)
    else:
        values = range(1, MOST * model.hidden + 1)
    return [replace(run, model=replace(model, **{name: value})) for value in values]


def size_of(run: RunConfig) -> float:
    """Parameters without embedding, positions and head, by which scaling laws count."""
    return parameters(run.model).non_embedding


def flops_of(run: RunConfig) -> float:
    """Of training, a token."""
    return flops_per_token(run.model, run.predicted)


def adjusted(runs: Runs, variants: Changes, match: Match) -> list[str]:
    """What --match did to each variant at each level, and how near it came; a line each."""
    lines, seed = list[str](), min(seed for *_, seed in runs)
    measure = size_of if match == "parameters" else flops_of
    for (name, level, this), run in runs.items():
        if this != seed or name == BASELINE:
            continue
        base = runs[BASELINE, level, seed]
        plain = override(replace(base, lr=run.lr), variants[name])
        moved = [
            f"{field} {getattr(plain.model, field)} -> {getattr(run.model, field)}"
            for field in ("width", "depth", "ffn")
            if getattr(plain.model, field) != getattr(run.model, field)
        ]
        off = measure(run) / measure(base) - 1
        lines.append(f"{name}, level {level:.3g}: {', '.join(moved) or 'as it was'}; {off:+.1%} {match}")
    return lines


def comparable(run: RunConfig, base: RunConfig) -> bool:
    """Whether their losses are of one kind: of the same tokens, asked for in the same way."""
    asked = ("objective", "mask_rate", "mask_shares") if "masked" in (run.objective, base.objective) else ()
    same = all(getattr(run, name) == getattr(base, name) for name in asked)
    return same and (run.data.pack, run.data.tokenizer, run.data.corpus) == (
        base.data.pack,
        base.data.tokenizer,
        base.data.corpus,
    )
