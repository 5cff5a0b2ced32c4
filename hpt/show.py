"""`python -m hpt.show DIR`: what a search found or a final run is, once more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from hpt.console import cli
from hpt.console.screen import answer_panel
from hpt.ls import found, search_line
from search.execution.store import SearchDir
from search.records import Recommendation
from trainer.config import from_json
from trainer.errors import UserError
from trainer.files import read_json


@dataclass(frozen=True, kw_only=True)
class ShowConfig(cli.Common):
    """Show a search's answer or a final run's result, and what to do next."""

    path: tyro.conf.Positional[Path]
    """Its directory, or its name in searches/ or runs/."""


def main(argv: Sequence[str]) -> int:
    config = cli.parse(ShowConfig, argv, "hpt.show")
    path = where(config.path)
    shown = search(path, config) if (path / "config.json").is_file() else run(path, config)
    config.answer(shown, str(shown.get("lr") or "no recommendation"))
    return 0


def where(path: Path) -> Path:
    """UserError where there is neither a search nor a run."""
    for one in (path, Path("searches") / path, Path("runs") / path):
        if (one / "config.json").is_file() or (one / "run.json").is_file():
            return one
    raise UserError(f"There is no search and no final run {path}: python -m hpt.ls lists what is there.")


def search(path: Path, config: ShowConfig) -> dict[str, Any]:
    line, console = search_line(path), config.console()
    if not (path / "recommendation.json").is_file():
        trials = SearchDir(path).read_trials()
        console.print(f"{path}: {line.by} for {line.target}, {line.state}, {len(trials)} trials so far")
        if line.state == "interrupted":
            console.print(f"go on with: python -m hpt.search --resume {path}")
        if line.state == "asked":
            console.print(f"go on with: python -m hpt.ask {path}")
        return {"state": line.state, "trials": len(trials)}
    values = SearchDir(path).read_recommendation()
    bill = values.pop("bill", {})
    answer = from_json(Recommendation, values, path / "recommendation.json")
    final = f"python -m hpt.train --from {path}" if answer.lr else ""
    rows = [
        ("search", f"{line.by} for {line.target}"),
        ("trials", bill.get("trials", "")),
        ("cost", bill.get("cost", "")),
    ]
    report = str(path / "report.html") if (path / "report.html").is_file() else f"python -m hpt.report {path}"
    console.print(answer_panel(answer, [row for row in (*rows, ("report", report), ("final run", final)) if row[1]]))
    return {**values, "bill": bill}


def run(path: Path, config: ShowConfig) -> dict[str, Any]:
    (line,) = [line for line in found([path.parent]) if Path(line.name) == path]
    console = config.console()
    told = f"{path}: lr {line.lr:.3g}, {line.state}" if line.lr else f"{path}: {line.state}"
    console.print(told + (f", loss {line.loss:.4f}" if line.loss else "") + (f", {line.cost}" if line.cost else ""))
    last = "report" if (path / "result.json").is_file() else "train --out"
    console.print(f"next: python -m hpt.{last} {path}")
    return {"lr": line.lr, "state": line.state, "loss": line.loss, "run": read_json(path / "run.json")}


if __name__ == "__main__":
    cli.run(main)
