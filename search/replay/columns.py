"""Which column of somebody's table holds what: by flags, else by the usual names, of sweeps, W&B and MLflow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import UserError

PER_DEVICE = ("per_device_train_batch_size", "per_device_batch_size", "per_device_batch", "device_batch_size",
              "micro_batch_size", "microbatch_size", "batch_size_per_gpu")  # fmt: skip
"""Names of a batch that is one device's share of one pass."""
ALIASES = {
    "active": ("na", "n_active", "active", "active_params", "active_parameters", "activated_params"),
    "total": ("n_total", "total", "total_params", "total_parameters"),
    "n": ("n", "params", "parameters", "n_params", "num_params", "non_embedding", "n_non_embedding", "model_size"),
    "d": ("d", "tokens", "train_tokens", "n_tokens", "num_tokens", "total_tokens", "tokens_seen"),
    "flops": ("c", "flops", "compute", "train_flops", "total_flops", "training_flops", "model_flops"),
    "ratio": ("d_n", "tokens_per_parameter", "tokens_per_param", "tpp", "token_ratio"),
    "steps": ("ti", "steps", "train_steps", "num_steps", "total_steps", "max_steps", "iterations"),
    "lr": ("lr", "learning_rate", "peak_lr", "max_lr", "optimizer_lr"),
    "batch": ("bs", "b", "batch", "batch_tokens", "tokens_per_step", "tokens_per_iter", "batch_in_tokens",
              "global_batch_size", "batch_size", "train_batch_size", *PER_DEVICE),
    "context": ("context", "context_length", "seq_len", "seq_length", "sequence_length", "block_size", "max_seq_len",
                "max_seq_length", "max_sequence_length"),
    "accumulation": ("gradient_accumulation_steps", "grad_accum_steps", "grad_accum", "gradient_accumulation",
                     "accumulate_grad_batches"),
    "workers": ("world_size", "num_gpus", "n_gpus", "num_devices", "data_parallel_size", "dp_size"),
    "loss": ("smooth_loss", "final_val_loss", "val_loss", "valid_loss", "validation_loss", "eval_loss", "final_loss",
             "loss", "value", "objective", "objective_value", "train_loss", "val_ppl", "val_perplexity",
             "eval_perplexity", "eval_ppl", "perplexity", "ppl"),
    "diverged": ("diverged", "is_diverged", "has_diverged"),
    "status": ("status", "state"),
    "seed": ("seed", "random_seed"),
    "run": ("run", "run_id", "exp_name", "run_name", "name", "id"),
    "curve": ("curve", "loss_curve"),
    "depth": ("numl", "depth", "layers", "n_layer", "n_layers", "num_layers"),
    "width": ("h", "width", "d_model", "n_embd", "hidden_size"),
    "heads": ("numh", "heads", "n_head", "n_heads", "num_heads"),
    "ffn": ("ffnh", "ffn", "d_ff", "intermediate_size"),
}  # fmt: skip
PREFIX = re.compile(r"^(params|metrics|tags|config|summary|hparams)[./]")

LOGGED = ("metrics.", "summary.", "summary/")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column holds what, or the one number that all runs have; None: found by its usual names, also under
    params., metrics., config. and the like, and with a unit behind them (params_m, tokens_billions)."""

    n: str | None = None
    """Parameters (non-embedding); without it, 12 x depth x width^2."""
    active: str | None = None
    """Those that a token meets in a mixture of experts; where there is such a column, it is N."""
    total: str | None = None
    """All parameters of a mixture of experts, beside the active ones; n serves too where active is given."""
    d: str | None = None
    """Training tokens."""
    ratio: str | None = None
    """Training tokens to each of N, where there is no column of tokens."""
    steps: str | None = None
    """Optimiser steps, where there are neither tokens nor a ratio: D = steps x batch."""
    flops: str | None = None
    """Training FLOPs, where there is nothing else to count tokens by: D = FLOPs / 6 N."""
    lr: str | None = None
    """Peak learning rate."""
    batch: str | None = None
    """Batch, in tokens or (with --context, or where it is smaller than the column `context`) in sequences; a device's
    share where it is called so (per_device_train_batch_size), times `accumulation` and `workers`."""
    context: str | None = None
    """Tokens of a sequence."""
    accumulation: str | None = None
    """Passes that make a step."""
    workers: str | None = None
    """Devices that share a step."""
    loss: str | None = None
    """Final loss, nats a token; NaN or infinite: the run diverged. Of a perplexity, its logarithm."""
    diverged: str | None = None
    """Whether a run diverged: 1, true or yes."""
    status: str | None = None
    """How a run ended: `diverged` counts as that; crashed, failed, killed and running ones are left out."""
    seed: str | None = None
    """Tells repeated runs from contradictions."""
    run: str | None = None
    """The run's name in --curves."""
    curve: str | None = None
    """The run's losses on the way: [[tokens, loss], ...], as JSON."""
    depth: str | None = None
    width: str | None = None
    heads: str | None = None
    ffn: str | None = None


def plain(name: str) -> str:
    """A column's name as aliases have it: `config.optimizer.lr` is `optimizer_lr`, `val/loss` is `val_loss`."""
    return re.sub(r"[^a-z0-9]+", "_", PREFIX.sub("", name.strip().lower())).strip("_")


def stripped(name: str) -> str:
    """The last part of a column's name, without what tools put before it: `params_lr`, `config.optim.lr` are `lr`."""
    return TOOLS.sub("", plain(re.split(r"[./]", name)[-1]))


UNITS = {"k": 1e3, "thousand": 1e3, "thousands": 1e3, "m": 1e6, "million": 1e6, "millions": 1e6, "b": 1e9, "g": 1e9,
         "billion": 1e9, "billions": 1e9, "t": 1e12, "trillion": 1e12, "trillions": 1e12}  # fmt: skip
COUNTED = ("n", "active", "total", "d", "batch", "flops", "steps")
"""What may be in thousands, millions ..."""
TOOLS = re.compile(r"^(params|user_attrs|system_attrs|config|hparams|metrics|summary)_(?=.)")
"""What Optuna and others put before a name, without a dot."""


def unit_of(name: str | None, key: str) -> float:
    """1e6 of `params_m` and `tokens (millions)`; 1 where the name has no unit."""
    words = plain(name or "")
    if name is None or key not in COUNTED or words in ALIASES[key]:
        return 1.0
    return UNITS.get(words.rpartition("_")[2], 1.0)


def usual_names(there: list[str]) -> dict[str, str]:
    """Columns by every name under which an alias may find them, the plainest first."""
    usual: dict[str, str] = {}
    for name in sorted(there, key=lambda name: name.lower().startswith(LOGGED)):  # a setting before what was logged
        usual.setdefault(plain(name), name)
    for words, name in list(usual.items()):
        logged = name.lower().startswith(LOGGED)
        last = stripped(name)  # config.model.n_params
        for bare in (words, TOOLS.sub("", words), "" if logged else last):
            usual.setdefault(bare, name)
            stem, _, unit = bare.rpartition("_")
            if unit in UNITS and any(stem in ALIASES[key] for key in COUNTED):
                usual.setdefault(stem, name)
    return usual


def find(
    path: Path, columns: Columns, there: list[str], fallback: Mapping[str, str] | None = None
) -> dict[str, str | None]:
    """The column of each meaning, or the number (as text) that all runs have; `fallback`: numbers for what is not
    found. UserError for a column that is not there, and for what cannot be told."""
    exact = {name.strip().lower(): name for name in there}
    usual, found = usual_names(there), dict[str, str | None]()
    for key, aliases in ALIASES.items():
        given = getattr(columns, key)
        if given is not None and given.strip().lower() not in exact and not _is_number(given):
            raise UserError(f"{path} has no column {given!r} (for {key}): it has {', '.join(there)}.")
        known = next((usual[alias] for alias in aliases if alias in usual), None)
        found[key] = known if given is None else exact.get(given.strip().lower(), given)
    _settle(found, columns)
    sources = ("ratio", "steps", "flops")
    told = {"d": any(found[s] for s in sources), "n": bool(found["depth"] and found["width"])}
    for key, number in (fallback or {}).items():
        if found[key] is None and not told.get(key):
            found[key] = number
    missing = [key for key in ("n", "d", "lr", "batch", "loss") if found[key] is None and not told.get(key)]
    if missing:
        raise UserError(
            f"{path} has no column for {', '.join(missing)}: it has {', '.join(there)}; "
            f"name them, such as --columns.{missing[0]} NAME."
        )
    return found


def _is_number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


def _settle(found: dict[str, str | None], columns: Columns) -> None:
    """Where two columns could be N, or D: the active parameters are N, and a name given beats one guessed."""
    if found["active"]:
        found["total"] = found["total"] or found["n"]
        found["n"] = found["active"]
    elif found["total"] and not found["n"]:
        found["n"], found["total"] = found["total"], None
    if columns.d is None and (columns.ratio or columns.steps or columns.flops):
        found["d"] = None
    if found["d"] or ((columns.steps or columns.flops) and not columns.ratio):
        found["ratio"] = None
    if columns.flops and not columns.steps:
        found["steps"] = None
