"""`python -m hpt.ls`: searches and final runs at a glance. Reads small files only: neither torch nor Ray."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from filelock import FileLock, Timeout
from rich.table import Table

from hpt.console import cli
from hpt.console.tables import Fitting
from hpt.reports.numbers import duration
from trainer.errors import UserError
from trainer.files import read_json


@dataclass(frozen=True, kw_only=True)
class LsConfig(cli.Common):
    """List searches and final runs, the newest first: what they are for, how they stand, what they found and cost."""

    paths: tyro.conf.Positional[tuple[Path, ...]] = (Path("searches"), Path("runs"))
    """Folders that hold them."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A search or a final run."""

    name: str
    target: str
    by: str
    """A search's strategy; what a final run's lr comes from."""
    state: str
    lr: float | None = None
    interval90: tuple[float, float] | None = None
    loss: float | None = None
    cost: str = ""
    changed: float = 0.0
    """Seconds since 1970."""


COLUMNS = ("name", "target", "by", "state", "lr", "90 %", "loss", "cost", "age")
OPTIONAL = ("cost", "by", "target", "age", "loss", "90 %")
"""What is left out where a terminal is narrow, in this order."""


def main(argv: Sequence[str]) -> int:
    config = cli.parse(LsConfig, argv, "hpt.ls")
    lines = sorted(found(config.paths), key=lambda line: -line.changed)
    console = config.console()
    if lines:
        console.print(Fitting(_table(lines), OPTIONAL))
        console.print(f"python -m hpt.show {lines[0].name} says more", style="dim")
    else:
        console.print(f"nothing yet in {', '.join(map(str, config.paths))}: begin with python -m hpt.search")
    config.answer([asdict(line) for line in lines], "\n".join(line.name for line in lines))
    return 0


def found(folders: Sequence[Path]) -> Iterator[Line]:
    """Directories with a config.json (searches) or a run.json (final runs); a damaged one is shown as such."""
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            for name, read in (("config.json", search_line), ("run.json", run_line)):
                if (path / name).is_file():
                    try:
                        yield read(path)
                    except (UserError, KeyError, TypeError, ValueError, AttributeError):
                        yield Line(name=str(path), target="", by="", state="damaged", changed=_changed(path))


def search_line(path: Path) -> Line:
    search = read_json(path / "config.json").get("search")
    if not isinstance(search, dict):
        raise UserError(f"{path / 'config.json'} is damaged (it has no search): restore it, or start a new search.")
    about: dict[str, Any] = {
        "name": str(path),
        "target": str(search.get("target", "")),
        "by": str(search.get("strategy", "")),
    }
    if live(path / ".lock"):
        return Line(**about, state="running", changed=_changed(path))
    if not (path / "recommendation.json").is_file():
        return Line(**about, state="interrupted", changed=_changed(path))
    answer = read_json(path / "recommendation.json")
    bill = answer.get("bill", {})
    return Line(
        **about,
        state="done" if answer.get("lr") else "no lr",
        lr=answer.get("lr"),
        interval90=answer.get("interval90"),
        cost=_cost(bill.get("usd"), bill.get("seconds")),
        changed=_changed(path),
    )


def run_line(path: Path) -> Line:
    run = read_json(path / "run.json")
    result: dict[str, Any] = read_json(path / "result.json") if (path / "result.json").is_file() else {}
    origin: dict[str, Any] = read_json(path / "origin.json") if (path / "origin.json").is_file() else {}
    source = origin.get("search") or origin.get("from")
    state = result.get("status") or ("running" if live(path / ".lock") else "interrupted")
    return Line(
        name=str(path),
        target=str(origin.get("target", "")),
        by=f"from {Path(str(source)).name}" if source else "final run",
        state=state,
        lr=run.get("lr"),
        loss=result.get("loss"),
        cost=_cost(result.get("usd"), result.get("seconds")),
        changed=_changed(path),
    )


def live(path: Path) -> bool:
    """Whether a process holds this lock."""
    if not path.exists():
        return False
    lock = FileLock(path, timeout=0)
    try:
        with lock:
            return False
    except Timeout:
        return True
    except OSError:  # somebody else's directory
        return False


def _cost(usd: float | None, seconds: float | None) -> str:
    return f"${usd:.2f}" if usd else duration(seconds) if seconds else ""


def _changed(path: Path) -> float:
    return max((p.stat().st_mtime for p in path.iterdir() if p.is_file()), default=0.0)


def _table(lines: Sequence[Line]) -> Table:
    """A column for what some line has."""
    table, rows = Table(box=None, padding=(0, 2, 0, 0), header_style="dim"), list(map(_cells, lines))
    columns = [name for name in COLUMNS if any(row[name] for row in rows)]
    for name in columns:
        table.add_column(name, justify="right" if name in ("lr", "loss", "cost", "age") else "left")
    for row in rows:
        table.add_row(*(row[name] for name in columns))
    return table


def _cells(line: Line) -> dict[str, str]:
    low, high = line.interval90 or (None, None)
    return {
        "name": line.name,
        "target": line.target,
        "by": line.by,
        "state": line.state,
        "lr": f"{line.lr:.3g}" if line.lr else "",
        "90 %": f"{low:.2g} to {high:.2g}" if low and high else "",
        "loss": f"{line.loss:.4g}" if line.loss else "",
        "cost": line.cost,
        "age": duration(max(0.0, time.time() - line.changed)),
    }


if __name__ == "__main__":
    cli.run(main)
