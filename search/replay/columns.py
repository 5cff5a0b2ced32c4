"""Which column of somebody's table holds what: by flags, else by the usual names, of sweeps, W&B and MLflow."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import UserError

ALIASES = {
    "active": ("na", "n_active", "active", "active_params", "active_parameters", "activated_params"),
    "total": ("n_total", "total", "total_params", "total_parameters"),
    "n": ("n", "params", "parameters", "n_params", "num_params", "non_embedding", "n_non_embedding", "model_size"),
    "d": ("d", "tokens", "train_tokens", "n_tokens", "num_tokens", "total_tokens", "tokens_seen"),
    "ratio": ("d_n", "tokens_per_parameter", "tokens_per_param", "tpp", "token_ratio"),
    "steps": ("ti", "steps", "train_steps", "num_steps", "total_steps", "max_steps", "iterations"),
    "lr": ("lr", "learning_rate", "peak_lr", "max_lr", "optimizer_lr"),
    "batch": ("bs", "b", "batch", "batch_size", "batch_tokens", "global_batch_size", "train_batch_size"),
    "loss": ("smooth_loss", "final_val_loss", "val_loss", "valid_loss", "validation_loss", "eval_loss", "final_loss",
             "loss", "train_loss"),
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
    """Which column holds what; None: found by its usual names, also under params., metrics., config. and the like."""

    n: str | None = None
    """Parameters (non-embedding)."""
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
    lr: str | None = None
    """Peak learning rate."""
    batch: str | None = None
    """Batch, in tokens or (with --context) in sequences."""
    loss: str | None = None
    """Final loss, nats a token; NaN or infinite: the run diverged."""
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


def find(path: Path, columns: Columns, there: list[str]) -> dict[str, str | None]:
    """By what is meant, the name in the file; None: it has none. UserError where a named one is missing."""
    exact = {name.strip().lower(): name for name in there}
    usual: dict[str, str] = {}
    for name in sorted(there, key=lambda name: name.lower().startswith(LOGGED)):  # their lr is that of the last step
        usual.setdefault(plain(name), name)
    found: dict[str, str | None] = {}
    for key, aliases in ALIASES.items():
        given = getattr(columns, key)
        if given is not None and given.strip().lower() not in exact:
            raise UserError(f"{path} has no column {given!r} (for {key}): it has {', '.join(there)}.")
        known = next((usual[alias] for alias in aliases if alias in usual), None)
        found[key] = known if given is None else exact[given.strip().lower()]
    _settle(found, columns)
    missing = [key for key in ("n", "d", "lr", "batch", "loss") if found[key] is None]
    if "d" in missing and (found["ratio"] or found["steps"]):
        missing.remove("d")
    if missing:
        raise UserError(
            f"{path} has no column for {', '.join(missing)}: it has {', '.join(there)}; "
            f"name them, such as --columns.{missing[0]} NAME."
        )
    return found


def _settle(found: dict[str, str | None], columns: Columns) -> None:
    """Where two columns could be N, or D: the active parameters are N, and a name given beats one guessed."""
    if found["active"]:
        found["total"] = found["total"] or found["n"]
        found["n"] = found["active"]
    elif found["total"] and not found["n"]:
        found["n"], found["total"] = found["total"], None
    if columns.d is None and (columns.ratio or columns.steps):
        found["d"] = None
    if found["d"] or (columns.steps and not columns.ratio):
        found["ratio"] = None
