"""hpt.advise on tables of runs: every row counts, columns are guessed and shown, no is said where a search says it."""

from __future__ import annotations

import csv
import json
import math
import re
import shlex
import time
from pathlib import Path
from typing import Any

import pytest
from worlds import _normal

from hpt.advise import main
from search.replay.advice import advise_on, run_of
from trainer.errors import UserError

ROOT = Path(__file__).parents[1]
TARGET = ["--n", "124e6", "--d", "2.5e9", "--b", "524288"]
LRS = [2e-4 * 2**k for k in range(7)]


def best(n: float, d: float, b: float) -> float:
    return 1.5e-3 * (1e8 / n) ** 0.4 * (d / 2e9) ** 0.1 * (b / 5e5) ** 0.3


def loss(n: float, d: float, b: float, lr: float, noise: float = 5e-4) -> float:
    z = math.log(lr / best(n, d, b))
    floor = 1.7 + 2 * (1e6 / n) ** 0.3 + 2 * (1e7 / d) ** 0.3
    return floor * (1 + 0.004 * z * z * (1 + 0.3 * max(0, z)) + noise * _normal(f"{n}{d}{b}{lr}"))


def rows(
    sizes: tuple[float, ...] = (4e6, 16e6, 64e6), lrs: list[float] = LRS, more: tuple[float, ...] = (20.0, 80.0)
) -> list[dict[str, Any]]:
    return [
        {"n": int(n), "d": int(m * n), "batch": b, "lr": lr, "loss": loss(n, int(m * n), b, lr)}
        for n in sizes
        for m in more
        for b in (131072, 524288)
        for lr in lrs
    ]  # fmt: skip


def written(path: Path, found: list[dict[str, Any]], names: dict[str, str] | None = None) -> Path:
    names = names or {}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [names.get(k, k) for k in dict.fromkeys(k for row in found for k in row)])
        writer.writeheader()
        writer.writerows({names.get(k, k): v for k, v in row.items()} for row in found)
    return path


def advised(capsys: pytest.CaptureFixture[str], path: Path, *argv: str) -> dict[str, Any]:
    assert main(["--table", str(path), *TARGET, "--json", *argv]) == 0
    return json.loads(capsys.readouterr().out)


TRUTH = best(124e6, 2.5e9, 524288)


def right(answer: dict[str, Any]) -> bool:
    return abs(math.log(answer["lr"] / TRUTH)) < 0.3 and answer["interval90"][0] < TRUTH < answer["interval90"][1]


EXPORTS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "plain": ({}, {}),
    "wandb": ({"n": "n_params", "d": "tokens_seen", "batch": "batch_size", "lr": "learning_rate", "loss": "val/loss"},
              {"Name": "run", "State": "finished", "Runtime": 3}),
    "wandb api": ({"n": "config.model.n_params", "d": "config.tokens", "batch": "config.batch_size",
                   "lr": "config.optim.lr", "loss": "summary.val/loss"}, {"state": "finished"}),
    "mlflow": ({"n": "params.n_params", "d": "params.tokens", "batch": "params.batch_size", "lr": "params.lr",
                "loss": "metrics.val_loss"}, {"status": "FINISHED", "metrics.lr": 0.0, "start_time": 1}),
    "optuna": ({"n": "user_attrs_n_params", "d": "user_attrs_tokens", "batch": "params_batch_size", "lr": "params_lr",
                "loss": "value"}, {"state": "COMPLETE", "datetime_start": "x"}),
}  # fmt: skip


@pytest.mark.parametrize("tool", EXPORTS)
def test_exports_are_read_as_they_are(tool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names, more = EXPORTS[tool]
    found = advised(capsys, written(tmp_path / "runs.csv", [{**row, **more} for row in rows()], names))
    assert right(found) and found["runs"] == len(rows())
    five = ("n", "d", "batch", "lr", "loss")
    assert [found["columns"][k] for k in five] == [names.get(k, k) for k in five]
    assert not found["notes"]


def test_a_dictionary_in_a_cell_is_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a data frame of W&B's interface is written: the text of Python dictionaries."""
    path = tmp_path / "runs.csv"
    nested = [
        {"name": i,
         "config": str({"optim": {"lr": r["lr"]}, "n_params": r["n"], "tokens": r["d"], "batch": r["batch"]}),
         "summary": str({"val_loss": r["loss"], "_step": 9})}
        for i, r in enumerate(rows())
    ]  # fmt: skip
    assert right(advised(capsys, written(path, nested), "--columns.lr", "config.optim.lr"))


UNITS: list[tuple[dict[str, str], Any]] = [
    ({"n": "params_m", "d": "tokens (billions)", "batch": "batch_size_k"},
     lambda r: {**r, "n": r["n"] / 1e6, "d": r["d"] / 1e9, "batch": r["batch"] / 1e3}),
    ({}, lambda r: {**r, "n": f"{r['n'] / 1e6:g}M", "d": f"{r['d'] / 1e9:g}B", "batch": f"{r['batch']:,}"}),
    ({"d": "train_flops"}, lambda r: {**r, "d": 6 * r["n"] * r["d"]}),
    ({"d": "tokens_per_parameter"}, lambda r: {**r, "d": r["d"] / r["n"]}),
    ({"d": "max_steps", "batch": "tokens_per_step"}, lambda r: {**r, "d": r["d"] / r["batch"]}),
]  # fmt: skip


@pytest.mark.parametrize(("names", "change"), UNITS, ids=range(len(UNITS)))
def test_units_in_names_and_in_cells(
    names: dict[str, str], change: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = advised(capsys, written(tmp_path / "plain.csv", rows()))
    found = advised(capsys, written(tmp_path / "runs.csv", [change(r) for r in rows()], names))
    assert found["lr"] == pytest.approx(plain["lr"], rel=0.01)


def test_rows_of_cells_with_one_lr_count_too(tmp_path: Path) -> None:
    """They are trials as all others are, and where there are no others it says no."""
    every, target = rows(), run_of(124e6, 2.5e9, 524288)
    single = [r for i, r in enumerate(rows(sizes=(32e6,))) if i % 7 == i // 7 % 7]
    advice = advise_on(written(tmp_path / "a.csv", [*every, *single]), target)
    assert len(advice.history) == len(every) + len(single) and advice.answer.lr
    alone = advise_on(written(tmp_path / "b.csv", single), target)
    assert alone.answer.lr is None and "two lrs" in alone.answer.reasons[0]


def test_it_says_no_where_a_search_would(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edge = advised(capsys, written(tmp_path / "edge.csv", rows(lrs=[1e-5, 2e-5, 4e-5])))
    assert edge["lr"] is None and edge["reasons"][0].startswith("lr* is above")
    flat = [{**r, "loss": 3.0 + 1e-3 * _normal(str(r))} for r in rows()]
    assert "No valley is seen" in advised(capsys, written(tmp_path / "flat.csv", flat))["reasons"][0]
    one = advised(capsys, written(tmp_path / "one.csv", rows(sizes=(4e6,))))
    assert one["lr"] and any("Only one size" in reason for reason in one["reasons"])
    diverged = advised(capsys, written(tmp_path / "nan.csv", [{**r, "loss": "nan"} for r in rows()]))
    assert diverged["lr"] is None and "diverged" in diverged["reasons"][0]


def test_what_varies_and_is_not_used_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def more(i: int, row: dict[str, Any]) -> dict[str, Any]:
        shape = {"n_layer": row["n"] // 10**6, "optimizer": "adamw" if row["n"] < 1e7 else "lion", "beta2": 0.95}
        return {**row, "clip": (0.5, 1.0)[i % 3 == 0], "min_lr": 6e-5, "run_id": f"x{i}", "train_time": i, **shape}

    notes = advised(capsys, written(tmp_path / "runs.csv", [more(i, r) for i, r in enumerate(rows())]))["notes"]
    assert len(notes) == 3 and notes[0].startswith("clip differ between runs of one")
    assert notes[1].startswith("optimizer differ between sizes") and notes[2].startswith("min_lr is the same at every")


def test_runs_that_did_not_end_and_columns_that_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An Optuna study of the target itself has neither N nor D nor a batch: the target's are taken, and it is said."""
    n, d, b = 124e6, 2.5e9, 524288
    study = [
        {"number": i, "params_lr": lr, "value": loss(n, d, b, lr), "state": "COMPLETE"} for i, lr in enumerate(LRS)
    ]
    study += [{"number": 9, "params_lr": 1.0, "value": "", "state": "FAIL"}]
    found = advised(capsys, written(tmp_path / "study.csv", study))
    assert abs(math.log(found["lr"] / TRUTH)) < 0.3 and found["runs"] == len(LRS)
    assert sum("no column says" in note for note in found["notes"]) == 3
    assert any("did not end" in note for note in found["notes"])


def test_what_to_run_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "runs.csv", rows(sizes=(4e6, 16e6), lrs=LRS[2:5]))
    found = advised(capsys, path, "--next", "3")
    assert len(found["next"]) >= 3 and all(run["steps"] >= 50 and 0 < run["lr"] < 1 for run in found["next"])
    target = run_of(124e6, 2.5e9, 524288)
    after = rows(sizes=(4e6, 16e6), lrs=LRS[2:5])
    after += [{"n": r["n"], "d": r["d"], "batch": r["b"], "lr": r["lr"], "loss": loss(r["n"], r["d"], r["b"], r["lr"])}
              for r in found["next"]]  # fmt: skip
    wider = advise_on(written(tmp_path / "after.csv", after), target).answer
    assert wider.details["sd"] < found["details"]["sd"]


def test_other_people_s_sweep_is_read_as_it_is(shared: Path) -> None:
    """1,404 runs of a published sweep: their authors' own formula says 1.55e-3 for this target."""
    found = advise_on(shared / "runs" / "steplaw_dense_small.csv", run_of(536_872_960, 2e10, 524_288))
    step_law = 1.79 * 536_872_960**-0.713 * 2e10**0.307
    assert found.answer.lr == pytest.approx(step_law, rel=0.15) and len(found.history) == 1404
    assert found.columns["loss"] == "smooth loss" and found.notes[0].startswith("bs counts sequences")
    assert not any("not used" in note for note in found.notes)


def test_a_thousand_runs_in_seconds(tmp_path: Path) -> None:
    many = rows(
        sizes=(1e6, 4e6, 8e6, 16e6, 64e6), more=(5.0, 10.0, 20.0, 40.0, 80.0), lrs=[1e-4 * 1.5**k for k in range(20)]
    )
    assert len(many) == 1000
    path, began = written(tmp_path / "runs.csv", many), time.process_time()
    assert advise_on(path, run_of(124e6, 2.5e9, 524288)).answer.lr == pytest.approx(TRUTH, rel=0.3)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--table", "{}", "--n", "1e8"], "--d, --b is missing"),
        (["--n", "1e8", "--d", "1e9", "--b", "1e5"], "--table runs.csv"),
        (["--table", "no.csv", *TARGET], "There is no table"),
        (["--table", "{}", "--n", "1e8", "--d", "1e4", "--b", "1e5"], "is in tokens"),
        (["--table", "{}", *TARGET, "--columns.lr", "nothing"], "no column 'nothing'"),
        (["--table", "{}", *TARGET, "--columns.lr", "d"], "no lr is"),
    ],
)
def test_bad_input_is_a_sentence(argv: list[str], words: str, tmp_path: Path) -> None:
    path = written(tmp_path / "runs.csv", [{**r, "lr": r["lr"] * 1e2} for r in rows()])
    with pytest.raises(UserError, match=words):
        main([part.replace("{}", str(path)) for part in argv])


def test_the_page_s_example(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/advise.md: its table, its command, its answer."""
    page = (ROOT / "docs" / "advise.md").read_text()
    table, typed = (re.search(rf"```{kind}\n(.*?)```", page, re.S) for kind in ("csv", "bash"))
    assert table and typed
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs.csv").write_text(table[1])
    assert main(shlex.split(typed[1])[3:]) == 0
    said = capsys.readouterr().out
    answer = re.search(r"Recommended max lr: (\S+)", said)
    assert answer and answer[1] in page
