"""Going on with a search: what must be the same, what may be raised, what is said of a directory that is not whole."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpt.console.beginning import check_same_data, claimed, fingerprint, free_directories, read_config
from hpt.console.settings import SearchConfig, to_json
from hpt.console.setup import plans_with
from hpt.search import continued, main
from search.execution.store import FORMAT, SearchDir
from search.records import Trial
from trainer.errors import UserError
from trainer.presets import preset

RECORDED = Path(__file__).parent / "recorded" / "search"
RUN = replace(preset("laptop"), lr=1e-3)


def made(folder: Path, config: SearchConfig, **more: Any) -> SearchDir:
    directory = SearchDir(folder / "mine")
    directory.write_config({"search": to_json(config), **more})
    return directory


def one(name: str, **more: Any) -> Trial:
    return Trial(**{"id": name, "run": RUN, "horizon": 1, "status": "diverged", **more})


def test_a_budget_may_be_raised_and_nothing_else(tmp_path: Path) -> None:
    path = str(made(tmp_path, SearchConfig(budget_usd=2.0, usd_per_hour=1.0)).path)
    again, begun = read_config(["--resume", path, "--budget-usd", "3"])
    assert (again.budget_usd, begun and begun.budget_usd) == (3.0, 2.0)
    with pytest.raises(UserError, match="can be given more, not less.*--budget-usd 2"):
        read_config(["--resume", path, "--budget-usd", "1"])
    with pytest.raises(UserError, match="a cap of another kind"):
        read_config(["--resume", path, "--budget-hours", "3"])
    with pytest.raises(UserError, match="other values of --usd-per-hour"):
        read_config(["--resume", path, "--usd-per-hour", "2"])
    made(tmp_path, SearchConfig(budget_usd=2.0, usd_per_hour=1.0), budgets={"budget_usd": 5.0})
    assert read_config(["--resume", path])[0].budget_usd == 5.0  # a top-up is remembered
    with pytest.raises(UserError, match="--budget-usd 5"):
        read_config(["--resume", path, "--budget-usd", "3"])


def test_the_default_budget_is_one_target_run_and_may_be_raised(tmp_path: Path) -> None:
    path = str(made(tmp_path, SearchConfig()).path)
    assert read_config(["--resume", path, "--budget-runs", "2"])[0].budget_runs == 2
    with pytest.raises(UserError, match="it has --budget-runs 1"):
        read_config(["--resume", path, "--budget-runs", "0.5"])


def test_plans_leave_a_reserve_and_the_start_of_the_workers() -> None:
    from hpt.console.setup import Slots

    config = SearchConfig(budget_hours=1.0, usd_per_hour=4.0)
    planned = plans_with(config, config.build_target(), Slots(count=4, gpu=0, threads=1, per_device=4), launch=9.0)
    assert planned.whole.hours == 4.0 and planned.held.seconds == 36.0 and planned.held.usd == pytest.approx(0.01)
    assert planned.reserve == 0.1 and planned.flops is None


def test_code_of_a_directory_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    path = str(made(tmp_path, replace(SearchConfig(), strategy="evil:Strategy")).path)
    with pytest.raises(UserError, match="code of its own: name it again, --resume .* --strategy evil:Strategy"):
        main(["--resume", path])
    assert read_config(["--resume", path, "--strategy", "evil:Strategy"])[0].strategy == "evil:Strategy"


def test_formats(tmp_path: Path) -> None:
    directory = made(tmp_path, SearchConfig())
    assert directory.read_config()["format"] == FORMAT == 2
    assert "format" not in SearchDir(RECORDED).read_config("id", "search", "target", "timings")  # hpt 0.1.0
    with pytest.raises(UserError, match=r"config.json is damaged \(it has no timings\)"):
        directory.read_config("timings")
    directory.write_config({"format": 3})
    with pytest.raises(UserError, match="has format 3, and this hpt reads 1 to 2"):
        read_config(["--resume", str(directory.path)])
    (directory.path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="is no JSON object"):
        read_config(["--resume", str(directory.path)])


def test_twice_the_same_trial_counts_once_and_other_lines_are_named(tmp_path: Path) -> None:
    directory, said = SearchDir(tmp_path), list[str]()
    for trial in (one("a"), one("b"), one("a", horizon=2)):
        directory.append(trial)
    assert SearchDir(tmp_path).read_trials(said.append) == [one("a"), one("b")]
    assert len(said) == 1 and "line 3: trial a is there already" in said[0]
    for line in ("[]", "123", '"a"', '{"id": 1}', '{"id": "c", "run": 5, "horizon": 1, "status": "failed"}'):
        (tmp_path / "trials.jsonl").write_text(f"{line}\n")
        with pytest.raises(UserError, match="line 1 is damaged"):
            SearchDir(tmp_path).read_trials()


def test_what_a_killed_process_spent_is_billed_once(tmp_path: Path) -> None:
    directory = SearchDir(tmp_path)
    directory.append(one("a"))
    bill = one("b cut off 1", status="pruned", seconds=3.0, tags={"stage": "cut off", "of": "b"})
    ended = one("a cut off 1", status="pruned", seconds=9.0, tags={"stage": "cut off", "of": "a"})
    directory.journal([bill, ended])
    kept = (tmp_path / "running.json").read_bytes()
    assert directory.settle(directory.read_trials()) == [bill]  # the record of `a` has its bill
    (tmp_path / "running.json").write_bytes(kept)  # as if it was killed again before this was deleted
    assert directory.settle(directory.read_trials()) == [] and directory.read_trials() == [one("a"), bill]
    (tmp_path / "running.json").write_text("{")
    assert directory.settle(directory.read_trials()) == [] and not (tmp_path / "running.json").exists()


def test_a_directory_is_locked_before_it_is_chosen(tmp_path: Path) -> None:
    config = SearchConfig(out=tmp_path)
    first, second = claimed(config), claimed(config)
    assert (first.path.name, second.path.name) == ("laptop-hyperband", "laptop-hyperband-2")
    named = replace(config, name="laptop-hyperband")
    with pytest.raises(UserError, match="in use by a live search"):
        claimed(named)
    first.unlock()
    first.write_config({})  # and no trial: the disk was full, and nothing is lost
    assert next(free_directories(config)) == first.path and claimed(named).path == first.path
    second.append(one("a"))
    second.write_config({})
    second.unlock()
    with pytest.raises(UserError, match="holds a search already"):
        next(free_directories(replace(config, name="laptop-hyperband-2")))


def test_the_first_trial_is_in_the_configuration_too(tmp_path: Path) -> None:
    """config.json was written, and there was no room for trials.jsonl."""
    from types import SimpleNamespace

    from rich.console import Console

    calibration = one("calibration", status="pruned", seconds=4.0, tags={"stage": "calibration", "launch_seconds": 2.0})
    document = {"id": "x", "target": {}, "timings": {}, "launch_seconds": 2.0, "calibration": calibration.to_json()}
    directory = made(tmp_path, SearchConfig(), **document)
    slots = SimpleNamespace(per_device=1, count=2)
    strategy = SimpleNamespace(grows=False)
    setup = SimpleNamespace(directory=directory, config=SearchConfig(), slots=slots, target=preset("laptop"),
                            strategy=strategy, begun=None, suite=None, trainer=None)  # fmt: skip
    problem, trials, _ = continued(setup, Console(quiet=True))  # type: ignore[arg-type]
    assert trials == [calibration] == directory.read_trials() and problem.budget.held.seconds == 4.0


def test_another_corpus_is_refused_with_both_named(tmp_path: Path) -> None:
    from tokens_made import make_data

    one, other = make_data(tmp_path / "a"), make_data(tmp_path / "b", ids=40)
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    moved = replace(one, train=(tmp_path / "c" / "train.bin",), val=(tmp_path / "c" / "val.bin",))
    then = json.loads(json.dumps(fingerprint(one)))
    check_same_data(then, fingerprint(moved), tmp_path)  # the same content elsewhere
    check_same_data({}, fingerprint(one), tmp_path)  # hpt 0.1.0 did not record it
    with pytest.raises(UserError, match="The corpus has changed since .*train [0-9a-f]{16} then, [0-9a-f]{16} now"):
        check_same_data(then, fingerprint(other), tmp_path)
    with pytest.raises(UserError, match="tokenizer none then, gpt2 now"):
        check_same_data(then, fingerprint(replace(one, tokenizer="gpt2")), tmp_path)


def test_slots_of_a_cluster() -> None:
    from hpt.console.setup import Slots

    def of(wanted: int | None = None, nodes: int = 1, cpus: int = 8, gpus: int = 0, more: float = 0) -> Slots:
        return Slots.of_cluster(wanted, nodes=nodes, cpus=cpus, gpus=gpus, more_gpus=more)

    assert of(more=4) == Slots(count=4, gpu=1, threads=1, per_device=1)  # a head without a GPU
    assert of(gpus=2, more=float("inf")).count == 2 and of(more=float("inf")).count == 1
    assert of(3, gpus=8) == Slots(count=3, gpu=1, threads=1, per_device=1)
    assert of(nodes=2, cpus=8) == Slots(count=8, gpu=0, threads=1, per_device=4)
    assert of(cpus=0) == Slots(count=1, gpu=0, threads=1, per_device=1)  # a head without a CPU, others to come
    with pytest.raises(UserError, match="--slots 16 needs 16 GPUs and the cluster can have 6: use --slots 6"):
        of(16, gpus=2, more=4)
    with pytest.raises(UserError, match="--slots 9 needs 9 CPUs and the cluster has 8"):
        of(9)
    assert of(2, nodes=2, cpus=8) == Slots(count=2, gpu=0, threads=4, per_device=1)
