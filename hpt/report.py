"""`python -m hpt.report DIR`: what a search or a final run found, as a page, Markdown or LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from hpt.console import cli
from hpt.reports.gather import gather, gather_final
from hpt.reports.page import final_page, search_page
from hpt.reports.text import latex, markdown
from trainer.checkpoints.file import write_atomic
from trainer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ReportConfig(cli.Common):
    """Write report.html (one file, no network), report.md with pictures, or report.tex into the directory."""

    path: tyro.conf.Positional[Path]
    """Directory of a search, or of a final run."""
    format: Literal["html", "md", "latex"] = "html"
    """md: Markdown and PNGs; latex: tables."""
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


def search_text(path: Path, form: str) -> tuple[str, str]:
    """(content, file name) of a search's report."""
    found = gather(path)
    if form == "html":
        return search_page(found), "report.html"
    if form == "latex":
        return latex(found), "report.tex"
    pictures = [p.name for p in sorted(path.glob("*.png"))]
    return markdown(found, pictures), "report.md"


def write_report(path: Path) -> str:
    """At the end of a search: report.html in its directory. Returns why it could not be written; a search is not lost
    for that."""
    try:
        write_atomic(path / "report.html", search_page(gather(path)).encode())
        return ""
    except Exception as error:  # the answer is more than its picture
        return f"the report could not be written ({type(error).__name__}: {error})"


if __name__ == "__main__":
    cli.run(main)
