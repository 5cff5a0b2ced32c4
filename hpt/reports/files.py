"""A report as files: the page and the picture at the end of a search, or what `hpt.report` is asked for."""

from __future__ import annotations

from pathlib import Path

from hpt.reports.chart import picture
from hpt.reports.charts import search_charts
from hpt.reports.gather import gather, gather_final
from hpt.reports.page import final_page, search_page
from hpt.reports.text import latex, markdown
from trainer.files import write_atomic


def search_text(path: Path, form: str) -> tuple[str, str]:
    """(content, file name) of a search's report; the pictures of a Markdown one are written beside it."""
    found = gather(path)
    if form == "html":
        return search_page(found), "report.html"
    if form == "latex":
        return latex(found), "report.tex"
    charts = search_charts(found)
    for name, chart in charts.items():
        write_atomic(path / f"{name}.svg", picture([chart]))
    return markdown(found, [f"{name}.svg" for name in charts]), "report.md"


def write_report(path: Path) -> str:
    """At the end of a search: report.html and u_curves.svg in its directory. Returns why they could not be written; a
    search is not lost for that."""
    try:
        found = gather(path)
        write_atomic(path / "report.html", search_page(found).encode())
        if chart := search_charts(found).get("u_curves"):
            write_atomic(path / "u_curves.svg", picture([chart]))
        return ""
    except Exception as error:  # the answer is more than its picture
        return f"the report could not be written ({type(error).__name__}: {error})"


def write_final_report(path: Path) -> str:
    """At the end of a final run: report.html in its directory. Returns why it could not be written: a run is not lost
    for that."""
    try:
        write_atomic(path / "report.html", final_page(gather_final(path)).encode())
        return ""
    except Exception as error:  # the model is more than its page
        return f"the report could not be written ({type(error).__name__}: {error})"
