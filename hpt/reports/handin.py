"""What a course hands in: a final run with its fine-tunings as Markdown or LaTeX: tables, curves, samples, example
batches, the bill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpt.reports.chart import picture
from hpt.reports.charts import final_run
from hpt.reports.final import final_rows, score_rows
from hpt.reports.gather import FinalFound, gather_final
from hpt.reports.numbers import duration
from hpt.reports.text import Rows, plain_markdown, table_markdown, tables_latex, verbatim_latex
from trainer.architecture.counts import run_flops
from trainer.checkpoints.trained import open_trained
from trainer.data import prepare
from trainer.data.masking import NOTHING
from trainer.errors import UserError
from trainer.files import read_json, write_atomic
from trainer.inputs import make_inputs, train_batches

EXAMPLES, SHOWN = 2, 120
"""Example sequences, and tokens of each that are shown."""
Table = tuple[str, tuple[str, ...], Rows]
"""Caption, headers, rows."""


@dataclass(frozen=True, kw_only=True)
class HandIn:
    run: FinalFound
    tuned: list[FinalFound]
    """Its fine-tunings by text."""
    heads: dict[str, dict[str, Any]]
    """By folder, what heads.json holds."""


def gather_hand_in(path: Path) -> HandIn:
    """The run, and what lies beside it and was fine-tuned from it (origin.json says so)."""
    tuned, heads = list[FinalFound](), dict[str, dict[str, Any]]()
    for folder in sorted(p for p in path.absolute().parent.iterdir() if (p / "origin.json").is_file()):
        source = read_json(folder / "origin.json").get("finetuned")
        if source is None or not _inside(Path(str(source)), path):
            continue
        if (folder / "heads.json").is_file():
            heads[folder.name] = read_json(folder / "heads.json")
        elif (folder / "result.json").is_file():
            tuned.append(gather_final(folder))
    return HandIn(run=gather_final(path), tuned=tuned, heads=heads)


def _inside(source: Path, run: Path) -> bool:
    return run.absolute() in (source.absolute(), *source.absolute().parents)


def tables(found: HandIn) -> Iterator[Table]:
    for run in (found.run, *found.tuned):
        yield f"The run {run.path.name}.", ("", ""), final_rows(run)
        curve = [(f"{tokens:,}", f"{loss:.4f}") for tokens, loss in run.result.get("curve", ())]
        if curve:
            yield f"Validation loss of {run.path.name}, nats a token.", ("tokens", "loss"), curve
        if run.evaluations:
            yield f"Scores of {run.path.name}.", *score_rows(run)
    for name, results in found.heads.items():
        yield f"Heads of {name}: means over seeds, best epoch on the validation split.", *head_rows(results)
    bill = [
        (r.path.name, duration(r.result.get("seconds", 0.0)), f"{r.result.get('tokens', 0):,}",
         f"{run_flops(r.run, r.result.get('tokens', 0)):.3g}") for r in (found.run, *found.tuned)
    ]  # fmt: skip
    yield "What it cost.", ("run", "time", "tokens", "FLOPs"), bill


def head_rows(results: dict[str, Any]) -> tuple[tuple[str, ...], Rows]:
    rows: Rows = []
    for task, result in results.items():
        for name, floor in result["majority"].items():
            values = [seed["scores"][name] for seed in result["seeds"].values()]
            sd = f"{np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
            rows.append((task, name, f"{np.mean(values):.4f}", sd, f"{floor:.4f}", str(len(values))))
    return ("task", "metric", "mean", "sd", "baseline", "seeds"), rows


def examples(path: Path) -> list[str]:
    """What the run was given: tokens of its first sequences between bars, those asked for in «» where not all are, a
    double bar where attention stops. Empty where its data are not here."""
    try:
        trained = open_trained(path)
        run = trained.run
        data = prepare(run.data, enough=False)
        inputs = make_inputs(run, data, train_batches(run, data), 0, EXAMPLES)
    except UserError:
        return []
    found = []
    for i, tokens in enumerate(inputs.tokens):
        parts = list[str]()
        for t, token in enumerate(tokens[:SHOWN]):
            word = _word(trained.encoding, int(token))
            asked = inputs.targets[i, t] != NOTHING
            if asked and run.ragged:
                word += f" «{_word(trained.encoding, int(inputs.targets[i, t]))}»"
            apart = t and inputs.documents is not None and inputs.documents[i, t] != inputs.documents[i, t - 1]
            parts.append(("|" if apart else "") + word)
        found.append("|".join(parts).replace("\n", "↵"))
    return found


def _word(encoding: Any, token: int) -> str:
    if token >= encoding.n_vocab:
        return f"<{token}>"
    return encoding.decode_single_token_bytes(token).decode("utf-8", errors="replace")


def hand_in(path: Path, form: str) -> tuple[str, str]:
    """(content, file name); of Markdown the pictures are written beside it."""
    found = gather_hand_in(path)
    texts = [(f"Example batches of {r.path.name}", examples(r.path)) for r in (found.run, *found.tuned)]
    texts += [(f"Samples of {r.path.name}", [r.samples]) for r in (found.run, *found.tuned) if r.samples]
    texts = [(title, lines) for title, lines in texts if lines]
    if form == "latex":
        made = [tables_latex(headers, rows, caption) for caption, headers, rows in tables(found)]
        return "\n".join([*made, *(verbatim_latex(title, lines) for title, lines in texts)]), "report.tex"
    out = [f"# {plain_markdown(path.name)}"]
    for run in (found.run, *found.tuned):
        for i, chart in enumerate(final_run(run.result)):
            name = f"{run.path.name}_{i}.svg"
            write_atomic(path / name, picture([chart]))
            out.append(f"![{plain_markdown(chart.title)}]({name.replace(' ', '%20')})")
    for caption, headers, rows in tables(found):
        out += [f"\n## {plain_markdown(caption.rstrip('.'))}", table_markdown(headers, rows)]
    out += [f"\n## {plain_markdown(title)}\n\n" + _quoted(lines) for title, lines in texts]
    return "\n".join([*out, f"\nWeights: `python -m hpt.convert {path} model.pt --to pt`"]) + "\n", "report.md"


def _quoted(lines: Sequence[str]) -> str:
    """As code: four spaces before each line, so that nothing in it is Markdown."""
    return "\n\n".join("\n".join(f"    {line}" for line in text.splitlines()) for text in lines)
