"""The examples of the pages are run, and what stands beside them is what comes out."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import trainers_made
import yaml
from pages import PAGES, ROOT, blocks, commands
from worlds import World, play, problem

import hpt.ask
import hpt.convert
import hpt.cost
import hpt.evaluate
import hpt.generate
import hpt.search
import hpt.show
import hpt.train
from hpt.reports.gather import gather
from search.execution.session import Session
from search.strategies import STRATEGIES, load
from trainer.presets import preset

PRINTS = re.compile(r"^ *print\(.*\)  # (.*)$", re.MULTILINE)
RUN = [(page, block) for page in PAGES for block in blocks(page.read_text(), "python") if PRINTS.search(block)]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


@pytest.mark.parametrize(("of", "block"), RUN, ids=[of.stem for of, _ in RUN])
def test_what_python_prints_stands_beside_it(of: Path, block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(block, {})
    for line, expected in zip(out.getvalue().splitlines(), PRINTS.findall(block), strict=True):
        assert line.startswith(expected.removesuffix("...")) and (line == expected or expected.endswith("..."))


def test_there_is_something_to_run() -> None:
    assert {"law", "llmc", "files", "architectures"} <= {of.stem for of, _ in RUN}


def test_every_page_is_in_the_index() -> None:
    index = page("README.md")
    assert all(f"]({p.name})" in index for p in PAGES if p.parent == ROOT / "docs" and p.name != "README.md")


def test_every_strategy_is_in_the_tables() -> None:
    text = page("strategies.md")
    named = re.findall(r"^\| `([a-z][a-z-]*)` \|", text[text.index("## All") : text.index("## An example")], re.M)
    assert sorted(named) == sorted(STRATEGIES)


def test_what_eight_dollars_buy(capsys: pytest.CaptureFixture[str]) -> None:
    text = page("strategies.md")
    (argv,) = [argv for name, *argv in commands(text) if name == "search" and "--device" in argv]
    assert hpt.search.main([*argv, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    trials, dollars = sum(stage["trials"] for stage in plan), sum(stage["cost"]["usd"] for stage in plan)
    assert f"plans {trials} trials of the whole model for {dollars:.2f} dollars" in text
    assert hpt.search.main(["transfer" if a == "hyperband" else a for a in argv] + ["--json"]) == 0
    stages = [stage for stage in json.loads(capsys.readouterr().out)["plan"] if stage["trials"]]
    trials, dollars = sum(stage["trials"] for stage in stages), sum(stage["cost"]["usd"] for stage in stages)
    sizes = {1: "one size", 2: "two sizes", 3: "three sizes"}[len({s["name"].split(",")[0] for s in stages})]
    assert f"spends {dollars:.2f} dollars on {trials} trials of {sizes}" in text


def test_what_a_script_reads(capsys: pytest.CaptureFixture[str]) -> None:
    text = page("scripts.md")
    (argv,) = [argv for name, *argv in commands(text) if name == "cost"]
    assert hpt.cost.main(argv) == 0
    (found,), (shown,) = json.loads(capsys.readouterr().out), json.loads(blocks(text, "json")[0])
    assert {key: found[key] for key in shown} == pytest.approx(shown)


def test_exit_codes_are_those_of_ask() -> None:
    codes = dict(re.findall(r"^\| (\d+) \| (.*) \|$", page("scripts.md"), re.M))
    assert "no trial now" in codes[str(hpt.ask.WAIT)] and "there will be none" in codes[str(hpt.ask.DONE)]


def test_the_target_in_a_file(tmp_path: Path) -> None:
    (block,) = blocks(page("files.md"), "toml")
    (tmp_path / "mine.toml").write_text(block)
    run, said = preset(str(tmp_path / "mine.toml")), tomllib.loads(block)
    assert (run.tokens, run.model.depth) == (said["tokens"], said["model"]["depth"])


def test_the_strategy_of_ten_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks((ROOT / "CONTRIBUTING.md").read_text(), "python")
    (tmp_path / "mine.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    session = play(Session(load("mine:Five")(), problem(runs=1.0)), World(), 2)
    found = session.strategy.recommend(session.history)
    assert len(session.trials) == 5 and found.lr is not None and 3e-4 < found.lr < 3e-2
    assert session.problem.budget.allows(session.history.spent)


def test_the_caption_says_what_the_picture_shows_and_cost() -> None:
    text, found = (ROOT / "README.md").read_text(), gather(ROOT / "notebooks" / "data" / "search" / "by-size")
    best = [f"{math.exp(o.log_lr):.1e}".replace("e-0", "e-") for cell in found.cells if (o := cell.optimum())]
    assert f"falls from {best[0]} to {best[-1]} as" in text
    numbers = [f"{value:.1e}".replace("e-0", "e-") for value in (found.lr, *found.interval90)]
    assert "target, {}\n(90 % interval {} to {})".format(*numbers) in text
    cost = found.answer["bill"]["share_of_target"]
    assert f"28 runs of smaller models cost {cost:.0f} times the target run" in text
    assert sum(len(cell.lrs) for cell in found.cells) == 28


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(cited) and cited["version"] == project["version"]


def test_every_line_of_the_panel_is_in_the_glossary() -> None:
    panel = next(b for b in blocks((ROOT / "README.md").read_text(), "") if "Recommended max lr" in b)
    glossary = re.findall(r"^\| (.+?) \|", page("glossary.md"), re.M)[2:]
    terms = {term.lower() for entry in glossary for term in re.split(r", | \(", entry.rstrip(")"))}
    plain = {"trials", "cost", "report"}  # which mean what they say
    labels = {label for label in re.findall(r"│ (\S+(?: \S+)*?)  ", panel)}
    assert {re.sub(r"^\d+ % ", "", label) for label in labels} - plain <= terms, labels
    assert glossary == sorted(glossary, key=str.lower)


def test_a_final_run_from_its_training_to_other_formats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/final-run.md's example, in a folder of its own."""
    text = page("final-run.md")
    (block,) = [b for b in blocks(text, "bash") if "tiny-hf" in b]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HPT_CACHE_DIR", str(tmp_path / "cache"))
    shutil.copytree(ROOT / "docs", "docs")
    mains = {"train": hpt.train, "evaluate": hpt.evaluate, "generate": hpt.generate, "convert": hpt.convert,
             "show": hpt.show}  # fmt: skip
    done = []
    for line in block.splitlines():
        name, *argv = shlex.split(line)[2:]
        assert not mains[name.removeprefix("hpt.")].main(argv)
        done.append(name)
    said = capsys.readouterr().out
    assert len(done) == 5 and "The best" in said and "finished" in said
    assert (tmp_path / "tiny-hf" / "model.safetensors").is_file()
    assert json.loads(Path("runs/tiny/evaluations.json").read_text())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("jq") is None, reason="the page's loop uses jq")
def test_slurm_in_five_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/cluster.md's loop to the answer, with an sbatch that runs a job at once and beside."""
    (loop,) = [b for b in blocks(page("cluster.md"), "bash") if "sbatch" in b]
    tools = {"sbatch": 'sh -c "$2" &', "sleep": "exec /bin/sleep 0.2", "python": f'exec {sys.executable} "$@"'}
    (tmp_path / "bin").mkdir()
    for name, line in tools.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    command = f"{sys.executable} {trainers_made.HERE} --lr={{lr}} --width={{width}} --steps={{steps}} --seed={{seed}}"
    begin = ["--ask-only", "--name", "mine", "--strategy", "literature", "--trainer", command]
    begin += ["--trainer.loss", r"step (?P<step>\d+): .*val loss (?P<loss>NUM)"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/local/bin:/usr/bin:/bin")
    assert hpt.search.main(begin) == 0
    ended = subprocess.run(["bash", "-c", loop], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert not ended.stderr, ended.stderr
    answer = json.loads((tmp_path / "searches" / "mine" / "recommendation.json").read_text())
    assert answer["lr"] is not None and answer["bill"]["trials"] == "3"
