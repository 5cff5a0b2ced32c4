"""Searches and runs at a glance: every state, damaged ones too, on a narrow terminal."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from hpt import ls, show
from trainer.errors import UserError

SEARCH = Path(__file__).parent / "recorded" / "search"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("done", "cut", "live", "broken", "asked"):
        shutil.copytree(SEARCH, tmp_path / "searches" / name)
    asked = json.loads((SEARCH / "config.json").read_text()) | {"asked": {}}
    (tmp_path / "searches" / "asked" / "config.json").write_text(json.dumps(asked))
    for name in ("cut", "live", "asked"):
        (tmp_path / "searches" / name / "recommendation.json").unlink()
    (tmp_path / "searches" / "broken" / "config.json").write_text("{")
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    config = json.loads((SEARCH / "config.json").read_text())
    (run / "run.json").write_text(json.dumps({**config["target"], "lr": 2e-3}))
    (run / "result.json").write_text(json.dumps({"status": "finished", "loss": 3.25, "seconds": 90.0}))
    (run / "origin.json").write_text(json.dumps({"id": "x", "search": "/somewhere/searches/done"}))
    return tmp_path


def test_every_state_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FileLock(folder / "searches" / "live" / ".lock"):
        assert ls.main(["--json"]) == 0
    lines = {line["name"]: line for line in json.loads(capsys.readouterr().out)}
    states = {Path(name).name: line["state"] for name, line in lines.items()}
    assert states == {"done": "done", "cut": "interrupted", "live": "running", "broken": "damaged", "mine": "finished",
                      "asked": "asked"}  # fmt: skip
    done, mine = lines["searches/done"], lines["runs/mine"]
    assert done["by"] == "early-stopping" and done["lr"] == pytest.approx(9.77e-4, rel=1e-3) and done["interval90"]
    assert mine["by"] == "from done" and mine["loss"] == 3.25 and mine["cost"] == "1 min 30 s"


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_nothing_is_cut_on_a_narrow_terminal(
    folder: Path, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert ls.main([]) == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "…" not in text and all(len(line) <= columns for line in text.splitlines())
    assert "searches/done" in text and "0.000977" in text and ("early-stopping" in text) == (columns == 120)


def test_show(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show.main(["done"]) == 0
    text = capsys.readouterr().out
    assert "Recommended max lr: 0.000977" in text and "hpt.train --from searches/done" in text
    assert show.main(["cut"]) == 0 and "--resume searches/cut" in capsys.readouterr().out
    assert show.main(["asked"]) == 0 and "hpt.ask searches/asked" in capsys.readouterr().out
    assert show.main(["runs/mine"]) == 0 and "lr 0.002, finished, loss 3.2500" in capsys.readouterr().out
    with pytest.raises(UserError, match="There is no search and no final run nothing"):
        show.main(["nothing"])


def test_nothing_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ls.main([]) == 0 and "begin with python -m hpt.search" in capsys.readouterr().out
