"""`python notebooks/refresh.py [NAME.ipynb ...]`: run notebooks afresh (default: all) and keep their outputs, without
what tells of the machine: times, the kernel's version, paths."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
ABSOLUTE = re.compile(r"(?<![\w.])/(?:tmp|home|root|opt|usr|var|private|Users|mnt)/[^\s\"']+")
"""Paths of some machine, sqlite:////home/... as well; not an address such as https://host/home."""


def execute(path: Path, folder: Path, seconds: int = 600) -> nbformat.NotebookNode:
    """The notebook with new outputs, run in `folder`; nbclient's CellExecutionError where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    paths = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    client = NotebookClient(
        notebook, timeout=seconds, kernel_name="python3", record_timing=False, coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )  # fmt: skip
    client.execute(env=os.environ | {"PYTHONPATH": paths})
    return clean(notebook)


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.NotebookNode()
    return notebook


def told(notebook: nbformat.NotebookNode) -> list[str]:
    """Paths of a machine that the notebook holds."""
    return ABSOLUTE.findall(nbformat.writes(nbformat.from_dict(without_pictures(notebook))))


def without_pictures(notebook: nbformat.NotebookNode) -> dict:
    copy = nbformat.from_dict(notebook)
    for cell in copy.cells:
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop("image/png", None)
    return copy


def main(names: list[str]) -> int:
    for path in sorted(map(Path, names) if names else HERE.glob("*.ipynb")):
        notebook = execute(path, path.parent)
        if found := told(notebook):
            print(f"{path.name} not written: it would tell {', '.join(sorted(set(found)))}", file=sys.stderr)
            return 1
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
