"""`python -m hpt.report DIR`: what a search or a final run found, as a page, Markdown or LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from hpt.console import cli
from hpt.reports.comparison import latex
from hpt.reports.files import search_text
from hpt.reports.gather import gather_final
from hpt.reports.handin import hand_in
from hpt.reports.page import comparison_page, final_page
from trainer.errors import UserError
from trainer.files import write_atomic


@dataclass(frozen=True, kw_only=True)
class ReportConfig(cli.Common):
    """Write report.html (one file, no network), report.md with pictures, or report.tex into the directory."""

    path: tyro.conf.Positional[Path | None] = None
    """Directory of a search, or of a final run."""
    compare: tuple[Path, ...] = ()
    """Directories of final runs, to be set beside each other: size, FLOPs, time, loss and tasks."""
    format: Literal["html", "md", "latex"] = "html"
    """md: Markdown and its pictures (SVG); latex: tables. Of a final run with the fine-tunings that lie beside it."""
    out: Path | None = None
    """File to write; default: report.html, report.md or report.tex in the directory."""


def main(argv: Sequence[str]) -> int:
    config = cli.parse(ReportConfig, argv, "hpt.report")
    page, place = compared(config) if config.compare else single(config)
    out = config.out or place
    write_atomic(out, page.encode())
    config.console().print(f"written: {out}")
    config.answer({"written": out}, str(out))
    return 0


def compared(config: ReportConfig) -> tuple[str, Path]:
    """(content, where it goes)."""
    if config.path is not None:
        raise UserError(f"--compare takes all runs, and {config.path} stands before it: put it behind --compare.")
    for path in config.compare:
        if not (path / "run.json").is_file():
            raise UserError(f"{path} is no final run (it has no run.json): --compare takes directories of hpt.train.")
    runs = [gather_final(path) for path in config.compare]
    if config.format == "md":
        raise UserError("A comparison is written as html or latex: leave --format md out.")
    if config.format == "latex":
        return latex(runs), Path("comparison.tex")
    return comparison_page(runs), Path("comparison.html")


def single(config: ReportConfig) -> tuple[str, Path]:
    """(content, where it goes)."""
    path = config.path
    if path is None:
        raise UserError("Give the directory of a search or a final run, or final runs with --compare.")
    if (path / "run.json").is_file():
        if config.format == "html":
            page, name = final_page(gather_final(path)), "report.html"
        else:
            page, name = hand_in(path, config.format)
    elif (path / "config.json").is_file():
        page, name = search_text(path, config.format)
    else:
        raise UserError(f"{path} is neither a search (config.json) nor a final run (run.json): give such a directory.")
    return page, path / name


if __name__ == "__main__":
    cli.run(main)
