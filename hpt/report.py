"""`python -m hpt.report DIR`: what a search or a final run found, as a page, Markdown or LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from hpt.console import cli
from hpt.reports.files import search_text
from hpt.reports.gather import gather_final
from hpt.reports.page import final_page
from trainer.errors import UserError
from trainer.files import write_atomic


@dataclass(frozen=True, kw_only=True)
class ReportConfig(cli.Common):
    """Write report.html (one file, no network), report.md with pictures, or report.tex into the directory."""

    path: tyro.conf.Positional[Path]
    """Directory of a search, or of a final run."""
    format: Literal["html", "md", "latex"] = "html"
    """md: Markdown and its pictures (SVG); latex: tables."""
    out: Path | None = None
    """File to write; default: report.html, report.md or report.tex in the directory."""


def main(argv: Sequence[str]) -> int:
    config = cli.parse(ReportConfig, argv, "hpt.report")
    path = config.path
    if (path / "run.json").is_file():
        if config.format != "html":
            raise UserError("A final run's report is written as html only: leave --format out.")
        page, name = final_page(gather_final(path)), "report.html"
    elif (path / "config.json").is_file():
        page, name = search_text(path, config.format)
    else:
        raise UserError(f"{path} is neither a search (config.json) nor a final run (run.json): give such a directory.")
    out = config.out or path / name
    write_atomic(out, page.encode())
    config.console().print(f"written: {out}")
    config.answer({"written": out}, str(out))
    return 0


if __name__ == "__main__":
    cli.run(main)
