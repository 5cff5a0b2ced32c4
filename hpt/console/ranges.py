"""Which numbers the commands' flags may have: one table by a flag's name, whatever the command."""

from __future__ import annotations

from collections.abc import Mapping

from trainer.ranges import COUNT, LARGE, POSITIVE, SEED, SHARE, TOKENS, Range

FEW = Range(1, 10_000, whole=True)
NONE_OR_MORE = Range(0, 10**9, whole=True)
FLAGS: Mapping[str, Range] = {
    # what is trained
    "lr": Range(0, 1e12, above=True),
    "lrs": Range(0, 1e6, above=True),
    "lr_range": Range(0, 1e6, above=True),
    "tokens": Range(1, LARGE),  # 2.5e9 is a number of tokens
    "batch": TOKENS,
    "widths": Range(1, 2**20, whole=True),
    "levels": Range(0, 1, above=True),
    "weights": Range(0, 1e9),
    "seed": SEED,
    "seeds": FEW,
    # money and time
    "budget_usd": POSITIVE,
    "budget_hours": POSITIVE,
    "budget_flops": Range(0, 1e40, above=True),
    "budget_runs": POSITIVE,
    "budgets": POSITIVE,
    "usd_per_hour": Range(0, 1e6),
    "stop_after_hours": POSITIVE,
    "stop_after_usd": POSITIVE,
    "save_minutes": POSITIVE,
    "minutes": POSITIVE,
    # how it is run
    "slots": FEW,
    "pack": FEW,
    "workers": FEW,
    "max_workers": FEW,
    "jobs": FEW,
    "members": FEW,
    "repeats": FEW,
    "evaluations": Range(1, 10**6, whole=True),
    "patience": COUNT,
    "keep": FEW,
    "start_step": NONE_OR_MORE,
    "shards": COUNT,
    "port": Range(0, 65535, whole=True),
    # text and scores
    "samples": Range(0, 10_000, whole=True),
    "max_tokens": Range(1, 10**7, whole=True),
    "temperature": Range(0, 1e6),
    "top_k": COUNT,
    "top_p": Range(0, 1, above=True),
    "limit": COUNT,
    "task_limit": COUNT,
    "noise": Range(0, 1e6),
    "loss_cap": POSITIVE,
    # fine-tuning
    "epochs": Range(0, 10_000, above=True),
    "length": Range(8, 2**20, whole=True),
    "beams": Range(1, 64, whole=True),
    "neurons": NONE_OR_MORE,
    "threads": FEW,
    # settings of strategies
    "reduction_factor": Range(2, 1000, whole=True),
    "units": COUNT,
    "max_resource": COUNT,
    "cooldown": SHARE,
    "focus": Range(0, 1e6),
    "start": Range(0, 1e6, above=True),
    "highest": Range(0, 1e6, above=True),
    "fractions": Range(0, 1, above=True),
    "fraction": Range(0, 1, above=True),
    "rounds": Range(0, 1000, whole=True),
    "ratio": Range(1, 1e6, above=True),
    "centre": Range(0, 1e6, above=True),
    "span": Range(1, 1e12, above=True),
    "steps": COUNT,
    "trials": NONE_OR_MORE,
    "extend": Range(0, 1000, whole=True),
    "horizons": Range(0, 1, above=True),
    "exchange": POSITIVE,
    "together": FEW,
    "max_trials": FEW,
}
