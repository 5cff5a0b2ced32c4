"""Notebooks: what is kept of each is whole and tells nothing of a machine; each runs afresh (slow)."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from runpy import run_path
from typing import Any

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SPEAKS = re.compile(r"^(?:%%bash|print\(|plt\.show\(\)|SVG\(|leaderboard\()", re.MULTILINE)
"""Lines of a cell, not indented, that leave an output."""
BYTES = 400_000
LINES = 12
"""Of a cell."""
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=[p.stem for p in NOTEBOOKS])


@pytest.fixture(scope="module")
def refresh() -> dict[str, Any]:
    return run_path(str(FOLDER / "refresh.py"))


def test_they_are_all_here() -> None:
    assert [p.stem[:2] for p in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06", "07", "08", "09", "10"]
    index = (FOLDER.parent / "docs" / "README.md").read_text()
    assert all(f"notebooks/{p.name}" in index for p in NOTEBOOKS)


@each
def test_what_is_kept_is_whole(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < BYTES
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run all cells, in order"
    for cell in code:
        kinds = [output.output_type for output in cell.outputs]
        assert "error" not in kinds
        assert all(output.get("name") != "stderr" for output in cell.outputs)
        assert kinds or not SPEAKS.search(cell.source), cell.source
        assert not any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in cell.outputs)


@pytest.mark.parametrize("path", NOTEBOOKS[:6], ids=[p.stem for p in NOTEBOOKS[:6]])
def test_it_reads_like_a_page(path: Path) -> None:
    """No cell is longer than what one takes in at a glance, and every other one shows something."""
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert max(len(cell.source.splitlines()) for cell in code) <= LINES
    assert sum(bool(cell.outputs) for cell in code) > len(code) / 2


@each
def test_it_tells_nothing_of_a_machine(path: Path, refresh: dict[str, Any]) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert not refresh["told"](notebook)
    assert all(not cell.metadata for cell in notebook.cells)


@pytest.mark.parametrize("text", ["/home/you/x", "sqlite:////tmp/a.db", "'/root/x'"])
def test_paths_are_seen(text: str, refresh: dict[str, Any]) -> None:
    cell = nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("stream", text=text)])
    assert refresh["told"](nbformat.v4.new_notebook(cells=[cell]))


@pytest.mark.parametrize("text", ["https://example.org/home/x", "runs/tmp/x", "data/var/y"])
def test_other_slashes_are_not(text: str, refresh: dict[str, Any]) -> None:
    assert not refresh["told"](nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)]))


@pytest.mark.slow
@pytest.mark.timeout(900)
@each
def test_it_runs_afresh(path: Path, tmp_path: Path, refresh: dict[str, Any]) -> None:
    """In a copy without the data that are not part of the repository."""
    copy = tmp_path / "notebooks"
    shutil.copytree(FOLDER, copy)
    notebook = refresh["execute"](copy / path.name, copy, seconds=600)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert outputs and not any(output.output_type == "error" for output in outputs)
