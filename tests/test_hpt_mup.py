"""The picture of lr sweeps over widths, on sizes that take a second."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpt import mup
from trainer.errors import UserError

SMALL = ["--widths", "16", "32", "--set", "model.heads=4", "model.depth=1", "model.context=32", "data.val_tokens=512"]


def test_sweep_draws_and_goes_on_from_what_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*SMALL, "--sweep", "--lrs", "1e-3", "1e-2", "3e-1", "--tokens", "2560", "--batch", "256"]
    assert mup.main([*flags, "--out", str(tmp_path)]) == 0
    first = (tmp_path / "runs.jsonl").read_text()
    assert len(first.splitlines()) == 2 * 2 * 3
    (tmp_path / "runs.jsonl").write_text("".join(first.splitlines(keepends=True)[:-2]))
    assert mup.main([*flags, "--out", str(tmp_path)]) == 0
    assert "2 of 12 runs" in capsys.readouterr().out
    again = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert again == [json.loads(line) for line in first.splitlines()]
    assert (tmp_path / "widths.svg").read_text().count("<clipPath") == 2


def test_planted_optima_give_the_slope() -> None:
    rows = [
        {"parametrisation": kind, "width": w, "lr": lr, "loss": 3 + 0.05 * (k - at) ** 2, "status": "finished"}
        for kind, move in (("sp", 1), ("mup", 0))
        for i, w in enumerate((32, 64, 128))
        for k, lr in enumerate(2.0**-k for k in range(12, 4, -1))
        for at in [4.5 - move * i]
    ]
    table = mup.best_table(mup.optima(rows))
    assert [float(list(column.cells)[-1]) for column in table.columns[1:]] == pytest.approx([-1, 0], abs=0.05)


def test_one_width_is_refused() -> None:
    with pytest.raises(UserError, match="two or more widths"):
        mup.main(["--widths", "64"])
