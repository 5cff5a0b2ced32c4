"""docs/finetuning.md: its worked example as it stands, and its table of tasks."""

from __future__ import annotations

import json
import random
import re
import shlex
from pathlib import Path

import pytest
from test_hpt_finetune import NAMES, PLACES, pretrained

from hpt.evaluate import main as evaluate
from hpt.finetune import main as finetune
from trainer.tasks import TASKS

TEXT = (Path(__file__).parents[1] / "docs" / "finetuning.md").read_text()
EXAMPLE = TEXT.split("## A worked example")[1].split("## Tasks")[0]


def block(kind: str) -> str:
    return re.findall(rf"```{kind}\n(.*?)```", EXAMPLE, re.DOTALL)[0]


def test_the_worked_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = pretrained(tmp_path / "pretrained")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(run)
    rng, lines = random.Random(0), [block("json").strip()]
    for _ in range(60):
        a, b, x, y = (*rng.sample(NAMES, 2), *rng.sample(PLACES, 2))
        row = json.loads(lines[0])
        assert set(row) == {"text", "question", "answer"}
        row = {"text": f"{a} lives in {x}. {b} lives in {y}.", "question": f"Where does {b} live?", "answer": y}
        lines.append(json.dumps(row))
    Path("qa.jsonl").write_text("\n".join(lines))
    Path("qa.toml").write_text(block("toml"))
    for typed in block("bash").splitlines():
        words = shlex.split(typed)
        command = {"hpt.finetune": finetune, "hpt.evaluate": evaluate}[words[2]]
        assert command(words[3:]) == 0
    told = capsys.readouterr().out
    assert "first words/f1" in told and "qa" in told


def test_all_tasks_are_named() -> None:
    rows = TEXT.split("## Tasks")[1].split("Rows come")[0]
    assert set(TASKS) <= set(re.findall(r"[a-z_0-9]+", rows))
