"""Somebody else's trainer: one contract over all four kinds, endings, placeholders, nothing that is left running."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import trainers_made
from tokens_made import make_data

from search.execution.contract import EVERYTHING, Can, Job, Progress, Trainer, check_needs, finish, without_seed
from search.execution.external.command import Command, Working
from search.execution.external.function import function, given
from search.execution.external.losses import Reader, source
from search.execution.external.template import NAMES, fill, names_in, split, values_of
from search.execution.worker import Own
from search.records import Proposal, Trial
from search.replay.table import Cell, Table
from search.replay.trainer import Replay
from search.replay.world import World
from search.shapes.ladder import model_of
from search.strategies import STRATEGIES
from trainer.config import DataConfig, ModelConfig, RunConfig
from trainer.data import Prepared
from trainer.errors import UserError

MODEL = ModelConfig(depth=1, width=16, heads=2, context=16, vocabulary=64)
RUN = RunConfig(model=MODEL, data=DataConfig(val_tokens=256), tokens=64 * 40, batch=64, warmup=64 * 4, lr=3e-3,
                schedule="wsd", precision="fp32")  # fmt: skip
SCRIPT = f"{sys.executable} {trainers_made.HERE} --lr={{lr}} --width={{width}} --steps={{steps}} --seed={{seed}}"
LOSS = r"^step (?P<step>\d+): train loss \S+, val loss (?P<loss>NUM)$"


def command(folder: Path, more: str = "", **settings: Any) -> Command:
    settings = {
        "source": source(LOSS),
        "folder": str(folder),
        "trials": str(folder / "trials"),
        "grace": 0.3,
    } | settings
    return Command(words=split(SCRIPT + more), **settings)


def recorded(_: Path) -> Replay:
    import numpy as np

    n = 100_000
    lrs = np.log(np.geomspace(1e-4, 1e-1, 9))
    cell = Cell(lrs, 3 + 0.02 * (lrs - math.log(3e-3)) ** 2)
    return Replay(World(Table("t", {(n, RUN.tokens, RUN.batch): cell}, {n: model_of(n)}), noise=0.001))


KINDS: dict[str, Callable[[Path], Trainer]] = {
    "own": lambda _: Own(),
    "command": command,
    "callable": lambda folder: given(trainers_made.train, folder, folder=str(folder), trials=str(folder / "trials")),
    "replay": recorded,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return make_data(tmp_path_factory.mktemp("tokens"))


def proposal(name: str = "p", **changes: Any) -> Proposal:
    run = replace(RUN, **changes)
    return Proposal(id=name, run=run, horizon=run.tokens)


def worked(trainer: Trainer, *proposals: Proposal, data: Prepared | None = None) -> list[Progress]:
    job = Job(proposals=proposals, data=data, checkpoints="/nonexistent", threads=1)
    found = finish(trainer.begin(job))
    return [found[p.id] for p in proposals]


@pytest.mark.parametrize("kind", KINDS)
def test_the_contract(kind: str, tmp_path: Path, data: Prepared) -> None:
    """Every proposal ends once, with a loss and FLOPs; the same run gives the same loss, another lr another."""
    trainer = KINDS[kind](tmp_path)
    run = RUN if kind != "replay" else replace(RUN, model=trainer.world.table.models[100_000])  # type: ignore[attr-defined]
    some = [
        Proposal(id=f"p{i}", run=replace(run, lr=lr), horizon=run.tokens) for i, lr in enumerate((1e-3, 4e-3, 1e-3))
    ]
    job = Job(proposals=tuple(some), data=data, checkpoints=str(tmp_path), threads=1)
    work, ended = trainer.begin(job), dict[str, Progress]()
    while not work.ended:
        for name, progress in work.advance(5.0).items():
            assert name not in ended
            if progress.ended:
                ended[name] = progress
    assert set(ended) == {p.id for p in some} and work.advance(0.0) == {}
    assert {p.status for p in ended.values()} == {"finished"} and all(p.flops > 0 for p in ended.values())
    same, other, again = (ended[p.id].loss for p in some)
    assert same == again != other
    assert all(p.tokens == run.tokens and p.curve[-1] == (run.tokens, p.loss) for p in ended.values())
    assert trainer.can.lengths and (kind != "own" or trainer.can == EVERYTHING)
    if trainer.can.seeds:
        assert worked(trainer, replace(some[0], run=replace(some[0].run, seed=1)), data=data)[0].loss != same
    import pickle

    assert pickle.loads(pickle.dumps(trainer)).can == trainer.can


def test_a_command_is_what_its_flags_say(tmp_path: Path) -> None:
    trainer = command(tmp_path)
    (found,) = worked(trainer, proposal("a b/c", lr=2e-3, seed=7))
    wanted = trainers_made.loss(2e-3, 2, 16, 40, 7)
    assert found.loss == pytest.approx(wanted, abs=1e-4) and found.curve == ((RUN.tokens, found.loss),)
    home = tmp_path / "trials" / "a_b_c"
    assert "--lr=0.002\n" in (home / "command.txt").read_text() and "val loss" in (home / "log").read_text()


ENDINGS = [
    (" --how=nan", "diverged", "not a number"),
    (" --how=crash", "failed", "exit code 1: crashed at lr 0.003"),
    (" --how=early", "failed", "of step 21 of 40"),
    (" --how=text", "failed", "said no loss that matches"),
    (" --how=floods", "finished", ""),
    (" --nothing", "failed", "exit code 1: ValueError"),
]


@pytest.mark.parametrize(("more", "status", "words"), ENDINGS)
def test_how_a_command_ends(more: str, status: str, words: str, tmp_path: Path) -> None:
    (found,) = worked(command(tmp_path, more), proposal())
    assert (found.status, words in found.error) == (status, True), found.error
    assert (found.loss is not None) == (status == "finished") and not found.fatal
    if "text" in more:
        assert "val loss n/a" in found.error  # what came near
    if "floods" in more:
        assert (tmp_path / "trials" / "p" / "log").stat().st_size < 9_000_000


def test_what_is_not_there_ends_the_search(tmp_path: Path) -> None:
    for words in (("no-such-program", "{lr}"), ("sh", "-c", "no-such-program {lr}")):
        (found,) = worked(replace(command(tmp_path), words=words), proposal())
        assert found.status == "failed" and found.fatal and "cannot be started" in found.error


def test_the_line_of_a_diverged_run_comes_before_its_exit_code(tmp_path: Path) -> None:
    trainer = command(tmp_path, " --how=crash", diverged="crashed at lr")
    assert [(p.status, p.error) for p in worked(trainer, proposal())] == [("diverged", "crashed at lr 0.003")]


def test_silence_is_ended(tmp_path: Path) -> None:
    (found,) = worked(command(tmp_path, " --how=silent", silence=0.5), proposal())
    assert found.status == "failed" and found.error.startswith("it hung")


def test_three_forms_of_a_loss_in_a_file(tmp_path: Path) -> None:
    script = tmp_path / "t.py"
    script.write_text(
        "import json, sys\n"
        "out, lr = sys.argv[1], float(sys.argv[2])\n"
        "json.dump({'eval': {'loss': 3.5}}, open(out + '/r.json', 'w'))\n"
        "open(out + '/r.csv', 'w').write('step,val\\n1,9\\n40,3.25\\n')\n"
        "open(out + '/main.log', 'w').write('s:20 tel:4.0\\ns:40 tel:3.125\\n')\n"
    )
    words = (sys.executable, str(script), "{out}", "{lr}")
    log = r"{out}/main.log:^s:(?P<step>\d+) tel:(?P<loss>NUM)"
    for text, loss in (("{out}/r.json:eval.loss", 3.5), ("{out}/r.csv:val", 3.25), (log, 3.125)):
        (found,) = worked(replace(command(tmp_path), words=words, source=source(text)), proposal())
        assert found.loss == loss, (text, found)
    (found,) = worked(replace(command(tmp_path), words=words, source=source("{out}/none.json:x")), proposal())
    assert found.status == "failed" and "{out}/none.json:x" in found.error


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [("raises", "failed", "no such layer"), ("backwards", "failed", "went backwards"),
     ("returns_a_bool", "failed", "must be a number"), ("nothing", "failed", "nothing")],
)  # fmt: skip
def test_a_callable_that_misbehaves(name: str, status: str, words: str, tmp_path: Path) -> None:
    settings = {"folder": str(Path(trainers_made.HERE).parent), "trials": str(tmp_path)}
    (found,) = worked(function(f"trainers_made:{name}", **settings), proposal())
    assert found.status == status and words in found.error


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def forked(tmp_path: Path, name: str) -> tuple[Working, int]:
    """A trial whose worker is up, and that worker's id."""
    trainer = command(tmp_path, " --how=forks")
    work = trainer.begin(Job(proposals=(proposal(name),), data=None, checkpoints="", threads=1))
    work.advance(0.1)
    deadline, log = time.monotonic() + 20, tmp_path / "trials" / name / "log"
    while "worker" not in log.read_text():
        assert time.monotonic() < deadline
        work.advance(0.05)
    return work, int(log.read_text().split()[-1])


def test_no_process_is_left(tmp_path: Path) -> None:
    """A worker in a session of its own that does not heed SIGTERM: the trial is stopped."""
    work, pid = forked(tmp_path, "stopped")
    assert alive(pid)
    work.close()
    assert not alive(pid) and work.ended


def test_nor_where_the_worker_process_is_killed(tmp_path: Path) -> None:
    """SIGKILL to whoever began the trial: nobody is left who could end it, but the guard."""
    code = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "from pathlib import Path; import test_search_external as t\n"
        "work, pid = t.forked(Path(sys.argv[3]), 'killed'); print(pid, flush=True); work.advance(600)"
    )
    here = Path(__file__).parent
    process = subprocess.Popen([sys.executable, "-c", code, str(here), str(here.parent), str(tmp_path)],
                               stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert alive(pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline, "an orphan"
        time.sleep(0.05)


def test_what_a_command_leaves_behind_is_ended_with_it(tmp_path: Path) -> None:
    (found,) = worked(command(tmp_path, " --how=forks --stay=0"), proposal())
    assert found.status == "finished"
    log = (tmp_path / "trials" / "p" / "log").read_text()
    assert not alive(int(log.split("worker ")[1].split()[0]))


VALUES = values_of(proposal(lr=3e-4), out="/tmp/a b")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{lr}", "0.0003"), ("{lr/10}", "3e-05"), ("{25*lr}", "0.0075"), ("{width//8}", "2"), ("{steps}", "40"),
        ("{batch//context}", "4"), ("{round(lr*1e4)}", "3"), ("{-(lr)}", "-0.0003"), ("{weight_decay}", "0.1"),
        ('{"lr": {lr}, "x": {}}', '{"lr": 0.0003, "x": {}}'), ("{out}/x", "/tmp/a b/x"), ("{1}", "{1}"),
        ("{a,b}", "{a,b}"), ("{__import__('os')}", "{__import__('os')}"),
        ("${HOME}", None), ("{lr.real}", "{lr.real}"), ("{lr**9}", "{lr**9}"),
    ],
)  # fmt: skip
def test_placeholders(text: str, wanted: str | None) -> None:
    if wanted is None:
        with pytest.raises(UserError, match="no placeholder"):
            names_in((text,))
    else:
        names_in((text,))
        assert fill(text, VALUES) == wanted


def test_values_are_never_split(tmp_path: Path) -> None:
    """Quotes are the template's; a folder with a space is one word, and there is no shell."""
    trainer = replace(command(tmp_path), words=split("x '--o={out} $HOME;' \"{lr}\""), trials="/a b")
    assert trainer.filled(proposal())[0] == ["x", "--o=/a b/p/out $HOME;", "0.003"]
    assert set(VALUES) == set(NAMES)


@pytest.mark.parametrize(
    ("words", "settings", "said"),
    [("x {steps}", {}, "never says {lr}"), ("x {lr} {learning_rate}", {}, "no placeholder {learning_rate}"),
     ("x {lr} {dept}", {}, "did you mean depth"), ("x {lr} {config}", {}, "--trainer.template"),
     ("x {lr}", {"folder": "/nonexistent"}, "is not a directory"),
     ("x {lr}", {"template": "/nonexistent"}, "cannot be read")],
)  # fmt: skip
def test_a_command_that_cannot_be_one(words: str, settings: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said.replace("{", r"\{").replace("}", r"\}")):
        replace(command(tmp_path), words=split(words), **settings).check()


def test_what_is_doubtful_is_said(tmp_path: Path) -> None:
    said = replace(command(tmp_path), words=split("x --lr {lr} --min_lr 6e-5 --steps {steps}")).check()
    assert len(said) == 6 and "{min_lr}" in said[0] and any("{seed}" in s for s in said)
    full = "x {lr} {min_lr} {steps} {depth} {batch} {warmup_steps} {schedule} {seed}"
    assert replace(command(tmp_path), words=split(full)).check() == []


@pytest.mark.parametrize("text", ["val loss", r"(\d+) (\d+)", "(", "r.json"])
def test_a_loss_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UserError, match="--trainer.loss"):
        source(text)


@pytest.mark.parametrize(
    ("line", "loss", "step"),
    [("step 250: train loss 2.6412, val loss 2.6693", 2.6693, 250),
     ("step 5: train loss nan, val loss nan", math.nan, 5), ("step 5: train loss 1, val loss NAN", math.nan, 5),
     ("\x1b[31mstep 5: train loss 1, val loss -nan\x1b[0m", math.nan, 5),
     ("step 5: train loss 1, val loss 3.1E+00", 3.1, 5), ("step 5: train loss 1, val loss inf", math.inf, 5)],
)  # fmt: skip
def test_lines_are_read_in_all_their_forms(line: str, loss: float, step: int) -> None:
    reader = Reader(source(LOSS))
    reader.feed(line)
    assert reader.points == [(step, pytest.approx(loss, nan_ok=True))]


def test_the_protocol_needs_no_setting() -> None:
    reader = Reader(source(None))
    for line in (
        'noise hpt {"step": 5, "loss": 3.5, "train_loss": 3}',
        "hpt {broken",
        'hpt {"loss": true}',
        'hpt {"loss": NaN}',
    ):
        reader.feed(line)
    assert reader.points[0] == (5, 3.5) and math.isnan(reader.points[1][1]) and reader.train == [(5, 3.0)]


def test_a_strategy_that_needs_more_is_refused_by_name() -> None:
    others = {name: kind() for name, kind in STRATEGIES.items()}
    with pytest.raises(UserError, match="--strategy greedy stops runs.* choose one of .*hyperband.*transfer"):
        check_needs("greedy", others["greedy"], "the command", Can(lengths=True, sizes=True), others)
    with pytest.raises(UserError, match="other shapes.*choose one of data-scaling, grid, hyperband"):
        check_needs("model-scaling", others["model-scaling"], "the command", Can(lengths=True), others)
    for name, strategy in others.items():
        check_needs(name, strategy, "hpt", EVERYTHING, others)


def test_without_seeds_a_repeat_is_a_neighbour() -> None:
    done = Trial(id="a", run=RUN, horizon=RUN.tokens, status="finished", loss=3.0)
    again = without_seed(proposal("b", seed=1), RUN, [done], [])
    third = without_seed(proposal("c", seed=2), RUN, [done], [again])
    assert (again.run.seed, again.lr) == (0, pytest.approx(3.09e-3)) and third.lr == pytest.approx(3.183e-3, rel=1e-3)
    assert without_seed(proposal("d", lr=5e-3), RUN, [done], []).lr == 5e-3


STUBBORN = """
import os, signal, sys, time
if os.environ["RANK"] == "1":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", os.environ["RANK"], flush=True)
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nothing_is_left_of_fifty_stopped_trials_of_torchrun(tmp_path: Path) -> None:
    """Two workers each, in sessions of their own; one does not heed SIGTERM."""
    script = tmp_path / "stubborn.py"
    script.write_text(STUBBORN)
    run = f"{sys.executable} -m torch.distributed.run --standalone --nproc_per_node=2 {script} --lr={{lr}}"
    trainer = replace(command(tmp_path), words=split(run))

    def left() -> list[psutil.Process]:
        return [p for p in psutil.process_iter(["cmdline"]) if str(script) in (p.info["cmdline"] or [])]

    most = 0
    for batch in range(25):
        names = [f"t{batch}-{i}" for i in range(2)]
        works = [trainer.begin(Job(proposals=(proposal(n),), data=None, checkpoints="", threads=1)) for n in names]
        logs, deadline = [tmp_path / "trials" / name / "log" for name in names], time.monotonic() + 120
        while not all(log.exists() and log.read_text().count("up") == 2 for log in logs):
            assert time.monotonic() < deadline and not any(work.ended for work in works)
            for work in works:
                work.advance(0.1)
        most = max(most, len(left()))
        for work in works:
            work.close()
        assert not left(), batch
    assert most >= 6  # two trials of a launcher and two workers were really there
