"""The trainers that hpt knows: their flags are checked, and their real log formats read, by stand-ins of each."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import stat
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import hpt.search
from hpt.console.beginning import read_config
from hpt.console.settings import SearchConfig, to_json
from hpt.console.setup import Slots
from hpt.console.trainers import TrainerOptions, build, check_strategy, presets
from search.execution.contract import Job, Progress, finish
from search.execution.external.command import Command
from search.execution.external.measure import check, measure
from search.execution.store import SearchDir
from search.execution.tune import resources
from search.records import Proposal
from search.strategies import STRATEGIES
from trainer.errors import UserError
from trainer.presets import preset

ROOT = Path(__file__).parents[1]
RUN = replace(preset("laptop"), tokens=81920, warmup=8192, lr=1e-3, final_fraction=0.1)

CHECKS = """
import json, math, re, sys
argv = sys.argv[1:]
given = dict(p.split("=", 1) for p in argv if "=" in p and p.startswith("--"))
given |= {argv[i]: argv[i + 1] for i in range(len(argv) - 1) if argv[i].startswith("-") and "=" not in argv[i]}
def loss(lr):
    return 4 + 0.1 * math.log(float(lr) / 2e-3) ** 2
"""
STAND_INS: dict[str, tuple[str, str]] = {  # by trainer: the program's name, and what it does with its flags
    "nanogpt": ("train.py", """
for name in ("learning_rate", "min_lr", "weight_decay", "beta1"):
    assert re.search(r"[.e]", given["--" + name]), "nanoGPT wants the type of the default"
for name in ("n_layer", "n_head", "n_embd", "max_iters", "warmup_iters", "batch_size", "gradient_accumulation_steps"):
    assert re.fullmatch(r"\\d+", given["--" + name]), name
assert given["--lr_decay_iters"] == given["--max_iters"] == given["--eval_interval"] == "20"
assert math.isclose(float(given["--min_lr"]), float(given["--learning_rate"]) / 10)
assert int(given["--batch_size"]) * int(given["--gradient_accumulation_steps"]) * int(given["--block_size"]) == 4096
print("number of parameters: 0.10M")
print("step 0: train loss 8.3000, val loss 8.3100")
print("iter 10: loss 4.2600, time 9.07ms, mfu -100.00%")
print(f"step 20: train loss 2.6412, val loss {loss(given['--learning_rate']):.4f}")
"""),
    "llmc": ("train_gpt2cu", """
assert re.fullmatch(r"d\\d+", given["-e"]) and given["-v"] == given["-x"] == "20" and int(given["-d"]) == 4096
assert given["-k"] in ("cosine", "linear", "constant", "wsd") and given["-q"] == "0.1" and given["-n"] == "0"
with open(given["-o"] + "/main.log", "w") as file:
    file.write(f"s:0 tel:10.9500\\ns:1 trl:10.9 lr:0.0001 norm:1.0\\ns:20 tel:{loss(given['-l']):.4f}\\n")
print("val loss 9.999999")
"""),
    "hf": ("run_clm.py", """
assert re.fullmatch(r"n_embd=\\d+,n_layer=\\d+,n_head=\\d+,n_positions=\\d+", given["--config_overrides"])
assert given["--max_steps"] == "20" and "--do_eval" in argv and given["--eval_strategy"] == "no"
with open(given["--output_dir"] + "/eval_results.json", "w") as file:
    json.dump({"epoch": 1.0, "eval_loss": loss(given["--learning_rate"])}, file)
print("{'eval_loss': '5.04', 'eval_runtime': '14.9'}")
"""),
    "litgpt": ("litgpt", """
assert argv[:2] == ["pretrain", "pythia-14m"]
optimizer = json.loads(given["--optimizer"])
assert set(optimizer["init_args"]) == {"lr", "weight_decay", "betas"} and given["--train.max_tokens"] == "81920"
assert float(given["--train.min_lr"]) == optimizer["init_args"]["lr"] / 10
print("iter 20: val loss 5.4900, val time: 900.00 ms")
print(f"Final evaluation | val loss: {loss(optimizer['init_args']['lr']):.3f} | val ppl: 242.207")
"""),
    "torchtitan": ("torchrun", """
assert argv[:4] == ["--standalone", "--nproc_per_node=1", "-m", "torchtitan.train"]
assert "flavor" in open(given["--job.config_file"]).read()
assert given["--validation.freq"] == given["--training.steps"] == "20"
head = "[rank0]:[titan] 2026-11-27 12:00:00,000 - root - INFO - "
print(head + "step: 20  loss:  7.8312  grad_norm:  1.2")
print(head + f"validate step: 20  loss:  {loss(given['--optimizer.lr']):.4f}  memory: 1GiB")
"""),
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with every stand-in in it, found as the real ones are."""
    for name, body in STAND_INS.values():
        path = tmp_path / name
        path.write_text(f"#!{sys.executable}\n{CHECKS}{body}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "python").symlink_to(sys.executable)
    (tmp_path / "titan.toml").write_text('[model]\nflavor = "debugmodel"\nlr = {lr}\n')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def made(name: str, place: Path, **options: Any) -> Command:
    if name == "torchtitan":
        options["template"] = place / "titan.toml"
    found = build(name, TrainerOptions(dir=place, grace=0.2, **options), place / "search")
    assert found is not None
    return found


def ran(trainer: Command, run: Any = RUN) -> Progress:
    proposal = Proposal(id="p", run=run, horizon=run.tokens)
    return finish(trainer.begin(Job(proposals=(proposal,), data=None, checkpoints="", threads=1)))["p"]


@pytest.mark.parametrize("name", STAND_INS)
def test_a_known_trainer_is_told_what_it_wants_and_read_as_it_writes(name: str, place: Path) -> None:
    trainer = made(name, place, extra="--more=1")
    trainer.check()
    assert trainer.words[-1] == "--more=1"
    found = ran(trainer)
    assert found.status == "finished", found.error
    assert found.loss == pytest.approx(4 + 0.1 * math.log(0.5) ** 2, abs=1e-3)
    wrong = {"nanogpt": "type of the default", "llmc": "AssertionError"}.get(name)
    if wrong:
        broken = replace(trainer, words=tuple(w.replace("{min_lr}", "0").replace("-v", "-w") for w in trainer.words))
        assert ran(broken).status == "failed"


@pytest.mark.parametrize("name", STAND_INS)
def test_what_each_can(name: str, place: Path) -> None:
    can = made(name, place).can
    assert can.lengths and can.batches and can.sizes == (name != "torchtitan")
    assert can.seeds == (name in ("hf", "litgpt", "torchtitan"))
    with pytest.raises(UserError, match="choose one of"):
        check_strategy("greedy", STRATEGIES["greedy"](), name, made(name, place))


def test_the_table_is_whole() -> None:
    assert set(presets()) == set(STAND_INS)
    for name, values in presets().items():
        assert (
            {"command", "loss", "dir", "notes"}
            <= set(values)
            <= {"command", "loss", "dir", "notes", "diverged", "unit"}
        )
        assert name in (ROOT / "docs" / "trainers.md").read_text()


def test_a_check_finds_an_lr_that_does_not_arrive(place: Path) -> None:
    trainer = made("nanogpt", place)
    words = tuple(w.replace("20", "10") for w in trainer.words)
    script = (place / "train.py").read_text()
    (place / "train.py").write_text(script.replace('"20"', '"10"').replace("step 20:", "step 10:"))
    said = check(replace(trainer, words=words), RUN, 1)
    assert "loss 4.3" in said[0] and len(said) == 1
    deaf = (
        script.replace('"20"', '"10"').replace("step 20:", "step 10:").replace("loss(given['--learning_rate'])", "4.0")
    )
    (place / "train.py").write_text(deaf)
    with pytest.raises(UserError, match="the lr does not reach"):
        check(replace(trainer, words=words), RUN, 1)


def test_start_up_and_steps_are_told_apart(tmp_path: Path) -> None:
    script = tmp_path / "t.py"
    script.write_text("import sys, time; s = int(sys.argv[1]); time.sleep(0.5 + 0.01 * s)\n"
                      "print('hpt {\"step\": %d, \"loss\": 3.0}' % s)")  # fmt: skip
    words = (sys.executable, str(script), "{steps}", "{lr}", "{depth}")
    trainer = Command(words=words, folder=str(tmp_path), trials=str(tmp_path / "t"), grace=0.1)
    (timing,), seconds, flops = measure(trainer, [replace(preset("laptop"), lr=None)], (10, 60), 1)
    assert timing.step_seconds == pytest.approx(0.01, rel=0.5) and timing.startup_seconds == pytest.approx(0.6, abs=0.3)
    assert seconds > 1.6 and flops > 0
    with pytest.raises(UserError, match="first run, of 10 steps, failed"):
        measure(replace(trainer, words=(sys.executable, "-c", "1/0", "{lr}")), [preset("laptop")], (10, 60), 1)


@pytest.mark.parametrize(
    ("trainer", "options", "words"),
    [("nanogtp", {}, "did you mean nanogpt"), ("nanogpt", {}, "is run in a checkout"), ("hpt", {"micro": 3}, "name it"),
     ("python x {lr}", {"extra": "--y"}, "command itself"),
     ("", {}, "is empty"), ("x 'y", {}, "cannot be split"), ("nothing_here:f", {}, "no module")],
)  # fmt: skip
def test_a_trainer_that_cannot_be(trainer: str, options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        build(trainer, TrainerOptions(**options), tmp_path)


def test_a_dry_run_shows_the_commands(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """docs/trainers.md: what would be run is shown before anything is spent; nothing is prepared for it."""
    monkeypatch.chdir(place)
    page = (ROOT / "docs" / "trainers.md").read_text()
    typed = next(line for line in re.findall(r"```bash\n(.*?)```", page, re.S) if "--dry-run" in line)
    argv = shlex.split(typed.replace("\\\n", " ").replace("~/nanoGPT", str(place)))[3:]
    monkeypatch.setattr("search.execution.tune.calibrate_trainer", lambda *a: pytest.fail("it was timed"))
    setup = hpt.search.make_ready(hpt.search.cli.parse(hpt.search.SearchConfig, argv, "hpt.search"), None, _console())
    said = " ".join(capsys.readouterr().out.split())
    assert setup.data is None and setup.trainer is not None
    assert (
        "--n_layer=12 --n_head=12 --n_embd=768" in said and "random batches" in said and "--learning_rate=0.001" in said
    )


def test_a_search_that_runs_a_command_is_not_resumed_unseen(place: Path) -> None:
    """A directory that somebody sent may name any program: it is typed again, or not run."""
    config = SearchConfig(trainer="python evil.py {lr} {steps}", trainer_options=TrainerOptions(dir=place))
    directory = SearchDir(place / "sent")
    directory.write_config({"search": to_json(config)})
    with pytest.raises(UserError, match="code of its own: name it again"):
        read_config(["--resume", str(directory.path)])
    again, begun = read_config(["--resume", str(directory.path), "--trainer", config.trainer])
    assert begun is not None and again.trainer_options == config.trainer_options


def test_devices_of_one_trial_are_one_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    config = SearchConfig(trainer="x {lr} {steps}", trainer_options=TrainerOptions(devices=4), budget_hours=8.0)
    slots = Slots.of(config)
    assert (slots.count, slots.gpu) == (2, 4) and resources(slots.gpu) == {"CPU": 1, "GPU": 4}
    assert config.build_budget(preset("laptop"), slots.per_device).hours == 2.0  # of four devices each


def _console() -> Any:
    from rich.console import Console

    return Console(width=400)


def test_no_trial_of_a_preset_is_told_json_with_a_hole(place: Path) -> None:
    words, _ = made("litgpt", place).filled(Proposal(id="p", run=RUN, horizon=RUN.tokens))
    assert json.loads(words[words.index("--optimizer") + 1])["init_args"]["lr"] == 0.001
