"""What runs that were made anyway say about a target: every row a trial, the answer `transfer`'s."""

from __future__ import annotations

import math
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from search.budget import Budget, CostModel
from search.records import History, Problem, Proposal, Recommendation, Trial, point
from search.replay.checks import check
from search.replay.columns import ALIASES, LOGGED, Columns, plain
from search.replay.files import number
from search.replay.rows import Row, Rows, read
from search.shapes.ladder import MIN_STEPS, ladder, model_of
from search.strategies.transfer import Transfer
from search.strategy import Done
from trainer.architecture.counts import run_flops
from trainer.config import DataConfig, RunConfig
from trainer.errors import UserError

MOST_CELLS = 150
"""(N, D, batch) that the fit takes in seconds; beyond, cells with one lr, which say least, are left out first."""
SHARE = 1.0
"""Of a target run: the budget within which further runs are proposed."""
RESULTS = re.compile(
    r"loss|ppl|perplex|acc|bpb|bits|score|metric|runtime|time|duration|seconds|hours|date|created|updated|usd|cost|flops|"
    r"grad|norm|throughput|per_sec|mfu|memory|gpu|host|user|notes|tags|path|dir|url|sha|hash|commit|version|node|slurm|"
    r"number|epoch|^step$|^_|^unnamed|^index$|^$"
)
"""Names of what a run gives, and of what only names it: no settings."""
COUNTS = {name for key in ("n", "total", "d", "ratio", "steps", "batch") for name in ALIASES[key]}
"""Other ways to say N, D and the batch."""
WITH_SIZE = re.compile(r"depth|width|layer|head|dim|hidden|ffn|ff$|embd|param|size|step|iter|token|warm|batch|accum")
"""Settings that may well move with N, D or the batch."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The answer, and what it was made from."""

    answer: Recommendation
    history: History
    columns: dict[str, str]
    """What was taken for what."""
    notes: tuple[str, ...]
    """What was left out or merged, and what varies and is not used, one sentence each."""
    next: tuple[Proposal, ...] = ()
    """Runs that would say most about the target."""


def run_of(n: float, d: float, b: float) -> RunConfig:
    """A target of so many parameters, training tokens and tokens a step."""
    return RunConfig(model=model_of(round(n)), data=DataConfig(val_tokens=1), tokens=round(d), batch=round(b))


def advise_on(
    path: Path,
    target: RunConfig,
    columns: Columns | None = None,
    *,
    context: int | None = None,
    loss_cap: float | None = None,
    guess: float | None = None,
    more: int = 0,
) -> Advice:
    """UserError where the table cannot be what it is taken for. more: how many further runs to propose."""
    n, d, b = point_of(target)
    fallback = {"n": f"{n:.10g}", "d": f"{d:.10g}", "batch": f"{b:.10g}"}
    found = read(path, columns or Columns(), context, fallback=fallback)
    check(path, found, loss_cap)
    there = set(found.records[0]) if found.records else set()
    taken = {key: name for key, name in found.names.items() if name is not None}
    for key, what in (("n", "N"), ("d", "D"), ("batch", "batch")):
        if key in taken and taken[key] == fallback[key] and taken[key] not in there:
            found.notes.append(f"no column says the {what} of a run: all are taken to have the target's, {taken[key]}.")
    found.notes += unused(found)
    rows = _thinned(found, _once(found))
    if not rows:
        raise UserError(f"{path}: no run in it can be used.")
    trials = tuple(_trial(row, found, i) for i, row in enumerate(rows))
    spent = sum(t.flops for t in trials)
    problem = Problem(
        target=target,
        budget=Budget(flops=spent + SHARE * run_flops(target, target.tokens)),
        cost=CostModel(evaluations=0),
        lr_range=(min(t.lr for t in trials) / 2, max(t.lr for t in trials) * 2),
        proxies=_menu(target, trials),
    )
    history, strategy = (
        History(problem=problem, trials=trials),
        Transfer(guess=guess, together=max(1, more), uses=math.inf, max_trials=len(trials) + more + 1),
    )
    asked = strategy.ask(history, more) if more else []
    return Advice(
        answer=strategy.recommend(history),
        history=history,
        columns=taken,
        notes=tuple(found.notes),
        next=() if isinstance(asked, Done) else tuple(asked),
    )


def point_of(run: RunConfig) -> tuple[float, float, float]:
    """(N, D, batch) of a run."""
    n, d, b = (math.exp(x) for x in point(run))
    return n, d, b


def _once(found: Rows) -> list[Row]:
    """Rows without those that are there twice, with the same loss and seed."""
    kept = {(r.n, r.d, r.b, r.lr, r.loss, r.seed): r for r in reversed(found.rows)}
    found.note(len(found.rows) - len(kept), "are in the table twice, with the same loss: counted once.")
    return sorted(kept.values(), key=lambda row: row.line)


def _thinned(found: Rows, rows: list[Row]) -> list[Row]:
    cells: dict[tuple[int, int, int], set[float]] = defaultdict(set)
    for row in rows:
        cells[row.n, row.d, row.b].add(round(math.log(row.lr), 2))
    if len(cells) <= MOST_CELLS:
        return rows
    order = sorted(cells, key=lambda cell: (-len(cells[cell]), -cell[0] * cell[1]))
    kept = set(order[:MOST_CELLS])
    left = [row for row in rows if (row.n, row.d, row.b) in kept]
    found.note(
        len(rows) - len(left),
        f"in {len(cells) - MOST_CELLS} of {len(cells)} cells (N, D, batch), those with the fewest lrs, were left out: "
        "no more can be fitted in reasonable time.",
    )
    return left


def _trial(row: Row, found: Rows, number_: int) -> Trial:
    model = found.models[row.n]
    run = RunConfig(model=model, data=DataConfig(val_tokens=model.context), tokens=row.d, batch=row.b, lr=row.lr)
    seed = number_ if row.seed is None else zlib.crc32(row.seed.encode())
    finite = math.isfinite(row.loss)
    return Trial(
        id=f"row-{row.line:05d}",
        run=replace(run, seed=seed),
        horizon=row.d,
        status="finished" if finite else "diverged",
        loss=row.loss if finite else None,
        flops=run_flops(run, row.d),
    )


def _menu(target: RunConfig, trials: Iterable[Trial]) -> tuple[RunConfig, ...]:
    """Runs that may be proposed: the shapes of the table that are smaller than the target, and its own ladder."""
    made = {(t.run.model, t.run.tokens, t.run.batch): replace(t.run, lr=None, seed=0) for t in trials}
    whole = run_flops(target, target.tokens)
    cheap = [run for run in made.values() if run_flops(run, run.tokens) <= whole and run.steps >= MIN_STEPS]
    return (*cheap, *ladder(target, (1 / 64, 1 / 16, 1 / 4, 1.0), (1 / 16, 1 / 4, 1.0)))


# --- what varies and is not used --------------------------------------------------------------------------------


def unused(found: Rows) -> list[str]:
    """Settings that differ between runs and that the law does not see, one sentence for each kind."""
    if not found.records:
        return []
    lines = {row.line: row for row in found.rows}
    records = [(lines[i], record) for i, record in enumerate(found.records, start=1) if i in lines]
    used = {name for name in found.names.values() if name is not None}
    inside, across, fixed = list[str](), list[str](), list[str]()
    for name in dict.fromkeys(key for _, record in records for key in record):
        if name in used or name.lower().startswith(LOGGED) or RESULTS.search(plain(name)) or plain(name) in COUNTS:
            continue
        values = [_shown(record.get(name)) for _, record in records]
        distinct = set(values) - {""}
        if len(distinct) == 1 and re.search(r"min_lr|lr_min|end_lr|final_lr|eta_min", plain(name)):
            value = number(next(iter(distinct)))
            fixed += [name] if value > 0 and len({row.lr for row, _ in records}) > 1 else []
        if len(distinct) < 2 or (len(distinct) == len(records) and not _numeric(distinct)):
            continue
        kind = _varies(records, name)
        inside += [name] if kind == "inside" else []
        across += [name] if kind == "across" and not WITH_SIZE.search(plain(name)) else []
    said = list[str]()
    if inside:
        said.append(
            f"{_listed(inside)} differ between runs of one (N, D, batch) and lr and are not used: runs that differ in "
            "them are taken for the same; keep one value, or ask for each."
        )
    if across:
        said.append(
            f"{_listed(across)} differ between sizes, horizons or batches and are not used: what they do is taken for "
            "what N, D or the batch does."
        )
    if fixed:
        said.append(
            f"{_listed(fixed)} is the same at every lr: then the schedule's shape changes with the peak lr, and the "
            "best lr holds for that alone."
        )
    return said


def _varies(records: list[tuple[Row, dict[str, Any]]], name: str) -> str:
    """across: each (N, D, batch) has one value; with the lr: each lr has; else inside."""
    by_cell, by_point, by_lr = (defaultdict[Any, set[str]](set) for _ in range(3))
    for row, record in records:
        value = _shown(record.get(name))
        by_cell[row.n, row.d, row.b].add(value)
        by_point[row.n, row.d, row.b, row.lr].add(value)
        by_lr[row.lr].add(value)
    if all(len(values) == 1 for values in by_cell.values()):
        return "across"
    moves = all(len(values) == 1 for values in by_lr.values()) and len(by_lr) < len(records)
    return "with the lr" if moves and all(len(values) == 1 for values in by_point.values()) else "inside"


def _shown(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _numeric(values: set[str]) -> bool:
    return all(not math.isnan(number(value)) for value in values)


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:6])
    return shown + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def meanings(columns: dict[str, str]) -> list[str]:
    """`lr = config.lr`, in the order of the aliases."""
    return [f"{key} = {columns[key]}" for key in ALIASES if key in columns]
