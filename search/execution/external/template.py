"""A command with placeholders: split into words first, filled then, so no value is ever split or seen by a shell."""

from __future__ import annotations

import ast
import difflib
import math
import operator
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from search.records import Proposal
from trainer.architecture.counts import flops_per_token, parameters
from trainer.errors import UserError

Value = int | float | str
BRACES = re.compile(r"\{([^{}]*)\}")
OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.USub: operator.neg, ast.UAdd: operator.pos,
}  # fmt: skip
NAMES = (
    "lr", "min_lr", "final_fraction", "weight_decay", "beta1", "beta2", "eps", "clip", "schedule", "seed",
    "tokens", "steps", "warmup", "warmup_steps", "warmup_fraction", "decay_steps", "decay_fraction",
    "batch", "sequences", "micro", "accumulation", "devices",
    "depth", "width", "heads", "kv_heads", "head_dim", "ffn", "context", "vocabulary", "parameters", "flops",
    "out", "name", "config",
)  # fmt: skip
"""All placeholders there are; the same in capitals behind HPT_ in the environment."""


def split(command: str) -> tuple[str, ...]:
    """The words of a command. UserError where quotes are not closed or nothing is there."""
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise UserError(f"--trainer {command!r} cannot be split into words ({error}).") from None
    if not words:
        raise UserError("--trainer is empty: give a command such as 'python train.py --lr {lr} --steps {steps}'.")
    return words


def names_in(texts: tuple[str, ...]) -> set[str]:
    """The placeholders that are used. UserError for one that there is not, with those it is like."""
    found = set[str]()
    for text in texts:
        for inner in BRACES.findall(text):
            if (tree := _expression(inner)) is None:
                continue
            for name in _names(tree):
                if name not in NAMES:
                    near = difflib.get_close_matches(name, NAMES, n=2) or difflib.get_close_matches(
                        name.split("_")[-1], NAMES, n=2
                    )
                    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(NAMES)}."
                    raise UserError(f"--trainer: there is no placeholder {{{name}}}: {hint}")
                found.add(name)
    return found


def fill(text: str, values: Mapping[str, Value]) -> str:
    """Every `{expression}` of placeholders replaced; other braces, those of JSON say, stay."""

    def put(match: re.Match[str]) -> str:
        tree = _expression(match[1])
        if tree is None or not _names(tree):
            return match[0]
        try:
            return written(_value(tree, values))
        except (ZeroDivisionError, OverflowError, TypeError) as error:
            raise UserError(f"--trainer: {match[0]} cannot be computed ({error}).") from None

    return BRACES.sub(put, text)


def written(value: Value) -> str:
    """Whole numbers as such, others with a point or an exponent: some trainers tell types apart by it."""
    if isinstance(value, float):
        return repr(float(f"{value:.12g}"))
    return str(value)


def _expression(inner: str) -> ast.expr | None:
    """Names, numbers, + - * / // ( ) and round(); None: the braces hold something else."""
    try:
        tree = ast.parse(inner.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree if _allowed(tree) else None


def _allowed(tree: ast.expr) -> bool:
    if isinstance(tree, ast.Name):
        return tree.id != "round"
    if isinstance(tree, ast.Constant):
        return type(tree.value) in (int, float)
    if isinstance(tree, ast.UnaryOp):
        return type(tree.op) in OPERATORS and _allowed(tree.operand)
    if isinstance(tree, ast.BinOp):
        return type(tree.op) in OPERATORS and _allowed(tree.left) and _allowed(tree.right)
    return _is_round(tree)


def _is_round(tree: ast.expr) -> bool:
    named = isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id == "round"
    return named and not tree.keywords and 1 <= len(tree.args) <= 2 and all(map(_allowed, tree.args))  # type: ignore[union-attr]


def _names(tree: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - {"round"}


def _value(tree: ast.expr, values: Mapping[str, Value]) -> Any:
    match tree:
        case ast.Name(id=name):
            return values[name]
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=op, operand=operand):
            return OPERATORS[type(op)](_value(operand, values))
        case ast.BinOp(left=left, op=op, right=right):
            return OPERATORS[type(op)](_value(left, values), _value(right, values))
        case ast.Call(args=args):
            return round(*(_value(arg, values) for arg in args))
        case _:
            raise AssertionError(tree)


def values_of(
    proposal: Proposal, *, out: str = "", config: str = "", micro: int | None = None, devices: int = 1
) -> dict[str, Value]:
    """What each placeholder stands for. micro: sequences a device and pass; None: the most that divide the batch, up
    to 16."""
    run, model, lr = proposal.run, proposal.run.model, proposal.lr
    sequences = max(1, run.batch // model.context)
    each = max(1, sequences // devices)
    micro = micro or run.micro_batch or max(k for k in range(1, min(16, each) + 1) if each % k == 0)
    return {
        "lr": float(lr),
        "min_lr": float(lr * run.final_fraction),
        "final_fraction": float(run.final_fraction),
        "weight_decay": float(run.weight_decay),
        "beta1": float(run.betas[0]),
        "beta2": float(run.betas[1]),
        "eps": float(run.eps),
        "clip": float(run.clip),
        "schedule": run.schedule,
        "seed": run.seed,
        "tokens": run.tokens,
        "steps": run.steps,
        "warmup": run.warmup,
        "warmup_steps": round(run.warmup / run.batch),
        "warmup_fraction": run.warmup / run.tokens,
        "decay_steps": round(run.cooldown * run.steps) if run.schedule == "wsd" else run.steps,
        "decay_fraction": float(run.cooldown if run.schedule == "wsd" else 1.0),
        "batch": run.batch,
        "sequences": sequences,
        "micro": micro,
        "accumulation": max(1, math.ceil(sequences / (micro * devices))),
        "devices": devices,
        "depth": model.depth,
        "width": model.width,
        "heads": model.heads,
        "kv_heads": model.n_kv_heads,
        "head_dim": model.head_dim,
        "ffn": model.hidden,
        "context": model.context,
        "vocabulary": model.vocabulary,
        "parameters": parameters(model).non_embedding,
        "flops": float(flops_per_token(model)) * run.tokens,
        "out": out,
        "name": proposal.id,
        "config": config,
    }
