"""What `import hpt` offers, as a notebook uses it."""

from __future__ import annotations

import doctest
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trainers_made
from worlds import World, problem

import hpt
import hpt.api
from hpt import UserError
from hpt.console.local import begin, make
from hpt.console.settings import SearchConfig
from search.execution.alone import run_alone
from search.execution.session import Session
from search.execution.store import SearchDir
from search.records import Proposal
from search.replay.trainer import Replay
from search.strategies.hyperband import Hyperband

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_docstrings_are_true() -> None:
    found = doctest.testmod(hpt.api, optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    assert found.attempted > 3 and not found.failed


def test_importing_hpt_is_light() -> None:
    code = "import sys, hpt; heavy = {'torch', 'ray', 'numpy', 'tyro'} & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert {"find_lr", "load", "Search", "presets", "Strategy", "UserError"} <= set(dir(hpt))
    with pytest.raises(AttributeError):
        _ = hpt.nothing
    assert all((ROOT / package / "py.typed").exists() for package in ("hpt", "search", "trainer", "scaling"))


@pytest.fixture
def found(capsys: pytest.CaptureFixture[str]) -> Any:
    def train(run: Any, report: Any) -> float:  # a closure, as a notebook has them
        return trainers_made.loss(run.lr, run.model.depth, run.model.width, run.steps, run.seed)

    answer = hpt.find_lr(train, target="laptop", budget_runs=0.5, name="z")
    said = capsys.readouterr().out
    assert said.count("bracket") >= 6 and "lr" in said
    return answer


def test_an_lr_in_three_lines(found: Any) -> None:
    assert found.interval90[0] < 3e-3 < found.interval90[1]
    assert SearchDir(Path("searches/z")).read_recommendation()["lr"] == found.lr
    assert Path("searches/z/report.html").exists()


def test_a_search_is_looked_into(found: Any) -> None:
    search = hpt.load("searches/z")
    table = search.trials
    assert (
        len(table) >= 6
        and set(table.status) == {"finished"}
        and table.loss.min() > 2
        and "calibration" not in set(table.id)
    )
    assert search.recommend().lr == found.lr
    assert search.what_if(tokens=1e7).interval90 != found.interval90
    search.plot().save("u.svg")
    assert Path("u.svg").read_text().startswith("<svg") and search.plot()._repr_svg_() == Path("u.svg").read_text()
    with pytest.raises(UserError, match="no field"):
        search.what_if(set=("nothing=1",))


DATA = Path(__file__).parents[1] / "notebooks" / "data"


def test_evidence_is_taken_apart_and_judged() -> None:
    """Of recorded searches: fewer trials, both together, another target, laws; what each says against the truth."""
    sizes, lengths = hpt.load(DATA / "search" / "by-size"), hpt.load(DATA / "search" / "by-tokens")
    recorded = sizes.recommend()
    assert recorded.lr == pytest.approx(sizes.found.answer["lr"], rel=2e-3) and recorded.interval90 is not None
    assert list(sizes.fits.trials) == [7] * 4 and "chosen" in set(sizes.laws("N").verdict)
    smaller = sizes.only(lambda trial: trial.run.model.width < 48)
    assert len(smaller.fits) == 3 and smaller.recommend().lr != recorded.lr
    both = sizes + lengths
    assert len(both.fits) == 7 and len(both.trials) == len(sizes.trials) + len(lengths.trials)
    truth = hpt.truth(DATA / "laptop_truth.jsonl")
    judged = hpt.Judged({"sizes": recorded, "a guess": 1e-1, "GPT-3": 6e-4}, truth)
    assert list(judged.table["holds the best"]) == ["yes", "", ""]
    assert judged.table["regret %"]["sizes"] < 1 < judged.table["regret %"]["GPT-3"]
    drawn = [
        sizes.plot(truth=truth),
        sizes.plot("best_lr_by_N", truth),
        lengths.plot("best_lr_by_D", truth),
        judged.plot(),
    ]
    assert all("by a grid" in p.svg or "by the grid" in p.svg for p in drawn) and ">law" not in drawn[0].svg
    assert hpt.regrets({"laptop": truth}).svg.count("<polyline") == 1
    with pytest.raises(UserError, match="no picture 'nothing' .* it can draw u_curves"):
        sizes.plot("nothing")


def test_bad_input_is_an_exception_and_never_an_exit(found: Any) -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"target": "laptpo"}, "did you mean laptop"),
        ({"budget_usd": 1.0}, "usd-per-hour"),
        ({"name": "z"}, "holds a search already"),
        ({"strategy": "nothing"}, "no strategy"),
    ]
    for settings, words in bad:
        with pytest.raises(UserError, match=words):
            hpt.find_lr(trainers_made.train, quiet=True, **settings)
    with pytest.raises(UserError, match="cannot be sent to another process"):
        lock = __import__("threading").Lock()
        hpt.find_lr(lambda run, report: lock, name="y", quiet=True)
    with pytest.raises(UserError, match="is not a search directory"):
        hpt.load("nowhere")


def test_a_function_that_always_fails_ends_the_search_with_its_words() -> None:
    answer = hpt.find_lr(trainers_made.raises, target="laptop", name="w", quiet=True)
    assert answer.lr is None and "RuntimeError: no such layer" in answer.reasons[0]
    assert len(hpt.load("searches/w").trials) == 3
    with pytest.raises(UserError, match="nothing to draw"):
        hpt.load("searches/w").plot()


def test_ask_and_tell_from_python() -> None:
    search = hpt.Search.create("searches/asked", target="laptop", strategy="hyperband", budget_runs=0.5)
    while (trials := hpt.Search("searches/asked").ask(2)) is not None:
        for trial in trials:
            loss = trainers_made.loss(trial["lr"], trial["depth"], trial["width"], trial["steps"], trial["seed"])
            assert search.tell(trial["id"], loss) and not search.tell(trial["id"], loss)
    answer = search.recommend()
    assert answer.interval90 and answer.interval90[0] < 3e-3 < answer.interval90[1]
    assert hpt.load(search.path).recommend().lr == answer.lr
    with pytest.raises(UserError, match="holds a search already"):
        hpt.Search.create("searches/asked", budget_runs=0.5)


class Interrupts(Replay):
    """Ctrl-C while the third trial runs."""

    def begin(self, job: Any) -> Any:
        self.__dict__["begun"] = self.__dict__.get("begun", 0) + 1
        if self.__dict__["begun"] == 3:
            raise KeyboardInterrupt
        return super().begin(job)


def test_without_ray_the_money_is_kept_and_what_is_cut_off_is_billed(tmp_path: Path) -> None:
    class Answers:
        def run(self, proposal: Proposal, cost: Any) -> Any:
            session = Session(Hyperband(), problem(runs=1.0))
            return World().run(session, proposal)

    directory, session = SearchDir(tmp_path / "a"), Session(Hyperband(), problem(runs=1.0))
    directory.path.mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(KeyboardInterrupt):
        run_alone(session, directory, Interrupts(Answers()), None)  # type: ignore[arg-type]
    assert len([t for t in directory.read_trials() if t.tags.get("stage") != "cut off"]) == 2
    again = Session(Hyperband(), problem(runs=1.0), directory.read_trials())
    run_alone(again, directory, Replay(Answers()), None, slots=3)  # type: ignore[arg-type]
    whole = Session(Hyperband(), problem(runs=1.0))
    run_alone(whole, SearchDir(tmp_path / "b"), Replay(Answers()), None)  # type: ignore[arg-type]
    assert {t.id: t.loss for t in again.trials if not t.aside} == {t.id: t.loss for t in whole.trials}
    assert again.history.spent.flops <= problem(runs=1.0).budget.flops + 1e-6  # type: ignore[operator]


@pytest.mark.slow
def test_hpts_own_trainer_in_three_lines() -> None:
    answer = hpt.find_lr(target="laptop", budget_runs=0.2, quiet=True, slots=1)
    assert answer.lr and math.isfinite(answer.lr) and os.path.exists("searches/laptop-hyperband/report.html")


def test_another_corpus_is_refused_when_a_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = Path("text.txt")
    text.write_text("".join(f"{k} and {k * k % 97} are numbers. " for k in range(9000)))
    tiny = ("model.depth=1", "model.width=16", "model.heads=2", "model.context=32", "model.vocabulary=300",
            "data.val_tokens=256", "data.epochs=9", "batch=256")  # fmt: skip
    settings = {"corpus": "text.txt", "tokenizer": "bpe:300", "tokens": 2560.0, "set": tiny, "strategy": "grid",
                "budget_runs": 40.0}  # fmt: skip
    config, directory = SearchConfig(**settings), SearchDir(tmp_path / "s")  # type: ignore[arg-type]
    assert [t.id for t in begin(make(config, directory, None)).trials] == ["calibration"]
    again = replace(config, resume=directory.path)
    assert len(begin(make(again, directory, None)).trials) == 1
    text.write_text(text.read_text() + "Something else, and more of it. " * 300)
    with pytest.raises(UserError, match="The corpus has changed since"):
        begin(make(again, directory, None))
