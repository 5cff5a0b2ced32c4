"""The words and tables of a report, shared by HTML, Markdown and LaTeX."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from html import escape

from hpt.reports.further import outlook_lines
from hpt.reports.gather import Found
from hpt.reports.numbers import duration, short, written
from trainer.architecture.counts import parameters, run_flops
from trainer.evals.score import leading

TRIAL_HEADERS = (
    "trial", "lr", "loss", "parameters", "tokens", "steps", "batch", "status", "stage", "minutes",
)  # fmt: skip
Rows = list[tuple[str, ...]]


def headline(found: Found) -> tuple[str, list[str]]:
    """(the answer in one sentence of HTML, what speaks for and against it)."""
    answer = found.answer
    notes = list(answer.get("reasons", ()))
    if not answer:
        return "The search is still under way, or was interrupted: there is no recommendation yet.", notes
    if found.lr is None:
        return "<b>No learning rate can be recommended.</b>", notes
    sentence = f"Train it with a peak learning rate of <b>{found.lr:.3g}</b>"
    if found.interval90:
        low, high = found.interval90
        sentence += f"; with 90&nbsp;% confidence the best one lies between {low:.3g} and {high:.3g}"
    for name in ("batch", "weight_decay", "warmup"):
        if answer.get(name) is not None:
            notes.insert(0, f"{name.replace('_', ' ')}: {written(answer[name])}")
    if answer.get("settings"):
        notes.insert(0, "with " + ", ".join(f"{k}={v}" for k, v in answer["settings"].items()))
    if answer.get("expected_regret") is not None:
        worst = answer.get("worst_regret")
        notes.append(
            f"expected regret, how much loss you probably give up by not knowing the best one exactly: "
            f"{answer['expected_regret']:.3g} nats"
            + (f"; {worst:.3g} if it lies at the worse end of the interval" if worst is not None else "")
        )
    if answer.get("max_stable_lr") is not None:
        notes.append(f"largest learning rate that did not diverge: {answer['max_stable_lr']:.3g}; a larger one did")
    if answer.get("undiverged_lr") is not None:
        notes.append(f"none diverged up to {answer['undiverged_lr']:.3g}, the largest learning rate tried")
    return f"{sentence}.", notes


def run_sentence(found: Found) -> str:
    target = found.target
    n = parameters(target.model)
    name = found.search.get("target", "")
    return (
        f"Target {name}: {short(n.total)} parameters ({short(n.non_embedding)} without embeddings), "
        f"{short(target.tokens)} tokens in {target.steps:,} steps of {target.batch:,}, {target.schedule}, "
        f"{run_flops(target):.3g} FLOPs. Strategy {found.search.get('strategy', '?')}, {len(trial_rows(found))} trials."
    )


def bill_rows(found: Found) -> tuple[tuple[str, ...], Rows]:
    """By stage: what was planned, what was forecast once its trials were known, what was spent."""
    headers = (
        "stage",
        "trials planned",
        "made",
        "FLOPs planned",
        "spent",
        "% of the final run",
        "time forecast",
        "took",
    )
    priced, made = any(t.usd for t in found.trials), dict(found.stages())
    rows: Rows = []
    for name in [*dict.fromkeys([*found.plan, *made]), "total"]:
        trials = found.trials if name == "total" else made.get(name, [])
        plans = found.plan.values() if name == "total" else [found.plan[name]] if name in found.plan else []
        known = sum(found.forecasts.get(t.id, 0.0) for t in trials)
        row = (
            str(name), str(sum(p["trials"] for p in plans)) if plans else "", str(len(trials)),
            f"{sum(p['cost']['flops'] for p in plans):.3g}" if plans else "", f"{sum(t.flops for t in trials):.3g}",
            f"{100 * found.share(trials):.1f}", duration(known) if known else "",
            duration(sum(t.seconds for t in trials)),
        )  # fmt: skip
        rows.append((*row, f"{sum(t.usd for t in trials):.2f}") if priced else row)
    return (*headers, "dollars") if priced else headers, rows


def commands(found: Found) -> list[str]:
    path = shlex.quote(str(found.path))
    lines = [f"python -m hpt.search --resume {path}   # go on, or fill in what is missing"]
    if found.lr is not None:
        lines = [
            f"python -m hpt.train --from {path} --dry-run   # what the final run takes",
            f"python -m hpt.train --from {path}             # make it",
        ]
    lines.append(f"python -m hpt.ui {path}                       # its trials in MLflow")
    return [*lines, f"python -m hpt.regret --searches {path} --truth GRID/trials.jsonl   # was it right?"]


def trial_headers(found: Found) -> tuple[str, ...]:
    priced = ("dollars",) if any(t.usd for t in found.trials) else ()
    return (*TRIAL_HEADERS, *scored_tasks(found), *priced)


def scored_tasks(found: Found) -> list[str]:
    """Tasks that some trial was scored on."""
    return sorted({task for trial in found.trials for task in leading(trial.scores)})


def trial_rows(found: Found) -> list[list[tuple[str, float | str]]]:
    """(as shown, as sorted) for each cell of the experimental table."""
    rows, priced = [], any(t.usd for t in found.trials)
    for t in found.trials:
        if t.id == "calibration":
            continue
        n, scores = parameters(t.run.model).total, leading(t.scores)
        bill: list[tuple[str, float | str]] = [(f"{t.usd:.3f}", t.usd)] if priced else []
        rows.append([
            (t.id, t.id), (f"{t.lr:.3g}", t.lr), ("", "") if t.loss is None else (f"{t.loss:.4f}", t.loss),
            (short(n), n), (short(t.horizon), t.horizon),
            (f"{t.run.steps_at(t.horizon):,}", t.run.steps_at(t.horizon)), (short(t.run.batch), t.run.batch),
            (t.status, t.status), (str(t.tags.get("stage", "")), str(t.tags.get("stage", ""))),
            (f"{t.seconds / 60:.2f}", t.seconds),
            *((f"{scores[task]:.4g}", scores[task]) if task in scores else ("", "") for task in scored_tasks(found)),
            *bill,
        ])  # fmt: skip
    return sorted(rows, key=lambda row: (row[2][1] == "", row[4][1] and -float(row[4][1]), row[2][1]))


def markdown(found: Found, pictures: Sequence[str]) -> str:
    """report.md; `pictures` are files beside it."""
    sentence, notes = headline(found)
    plain = sentence.replace("<b>", "**").replace("</b>", "**").replace("&nbsp;", " ")
    out = [f"# {_plain(found.path.name)}: learning rate", _plain(run_sentence(found)), plain]
    out += [f"- {_plain(note)}" for note in notes]
    out += [f"\n![{name.removesuffix('.svg').replace('_', ' ')}]({name})" for name in pictures]
    if law := found.answer.get("law"):
        rejected = (f"- not used: {_plain(name)} ({_plain(why)})" for name, why in found.answer.get("rejected", ()))
        out += ["\n## The law", _plain(law), *rejected]
    out += ["\n## The bill", _md(*bill_rows(found)), "\n## What was not tried", *map(_plain, outlook_lines(found))]
    out += ["\n## Trials", _md(trial_headers(found), _shown(found))]
    return "\n".join(out) + "\n"


def _shown(found: Found) -> Rows:
    return [tuple(shown for shown, _ in row) for row in trial_rows(found)]


def _md(headers: Sequence[str], rows: Rows) -> str:
    lines = [map(_plain, headers), ["---"] * len(headers), *(map(_plain, row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Text as it stands in Markdown: on one line, without links, tags, emphasis or columns of its own."""
    text = escape(" ".join(str(text).split()), quote=False)  # a page may be made of it: no tags
    return re.sub(r"([\\`*_\[\]|#!~])", r"\\\1", text)


def latex(found: Found) -> str:
    """Tables for a paper, by booktabs."""
    parts = [
        _tex(*bill_rows(found), "What the search cost, stage by stage."),
        _tex(trial_headers(found), _shown(found), "All trials."),
    ]
    return "\n\n".join(parts) + "\n"


def tables_latex(headers: Sequence[str], rows: Rows, caption: str) -> str:
    """One table for a paper, by booktabs."""
    return _tex(headers, rows, caption) + "\n"


def table_markdown(headers: Sequence[str], rows: Rows) -> str:
    return _md(headers, rows)


def plain_markdown(text: str) -> str:
    return _plain(text)


def verbatim_latex(title: str, texts: Sequence[str]) -> str:
    """Texts as they are, set small."""
    parts = [rf"\paragraph{{{_escaped(title)}}}"]
    for text in texts:
        parts += [rf"\par\noindent\texttt{{\small {_escaped(line)}}}" for line in text.splitlines()]
    return "\n".join(parts) + "\n"


def _tex(headers: Sequence[str], rows: Rows, caption: str) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join(_escaped(cell) for cell in cells) + r" \\"

    columns = "l" + "r" * (len(headers) - 1)
    body = "\n".join(line(row) for row in rows)
    return "\n".join([
        r"\begin{table}", rf"\caption{{{caption}}}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", line(headers),
        r"\midrule", body, r"\bottomrule", r"\end{tabular}", r"\end{table}",
    ])  # fmt: skip


TEX = {character: "\\" + character for character in "&%_#${}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip


def _escaped(text: str) -> str:
    """Text as it stands in LaTeX: no command of its own, on one line."""
    return "".join(TEX.get(character, character) for character in " ".join(str(text).split()))
