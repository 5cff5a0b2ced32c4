"""Whatever is typed and whatever files hold: a sentence and exit code 2, or a result; no traceback, nothing lost.

One warm process, without training: what a command begins when its input is good is tested elsewhere.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import random
import typing
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokens_made import make_data

from hpt.console import cli
from hpt.console.commands import COMMANDS
from search.execution.store import SearchDir
from search.records import Recommendation, Trial
from trainer.checkpoints.file import checkpoint_path, save_checkpoint
from trainer.config import DataConfig, ModelConfig, RunConfig, to_dict
from trainer.errors import UserError
from trainer.loop import Training

MODEL = ModelConfig(depth=1, width=16, heads=2, context=16, vocabulary=300)
BAD_NUMBERS = ("-1", "-3", "0", "nan", "inf", "-inf", "1e400", "99999999999999999999", "2.5", "", "x", "1e-400", "None")
BAD_TEXTS = ("", "x", "/proc/nothing", "/dev/null", "nonsense://a/b", "\x00", "ü" * 300, "--", "a" * 5000, "../..", "~")
BAD_JSON = (b"", b"{}", b"[]", b"123", b"null", b'"x"', b"{", b"\xff\xfe\x00", b"[" * 100_000, b'{"lr": NaN}')


class Begun(Exception):
    """The input was good: here the work would begin."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search and a run, finished, and a text."""
    folder = tmp_path_factory.mktemp("fuzz")
    rng = random.Random(0)
    lines = [" ".join(rng.choice(["one two", "three four", "five six"]) for _ in range(200)) for _ in range(40)]
    (folder / "text.txt").write_text("\n".join(lines))
    run = RunConfig(
        model=MODEL, data=DataConfig(corpus=str(folder / "text.txt"), tokenizer="bpe:300", val_tokens=64, epochs=99),
        tokens=64 * 20, batch=64, lr=1e-3, micro_batch=2,
    )  # fmt: skip
    search = SearchDir(folder / "search")
    search.write_config({"id": "a", "target": to_dict(replace(run, lr=None)), "search": {}, "timings": {}, "plan": []})
    for i, lr in enumerate((1e-3, 3e-3, 1e-2)):
        trial = Trial(id=str(i), run=replace(run, lr=lr), horizon=1280, status="finished", loss=3.0 + i, seconds=1.0)
        search.append(trial)
    search.write_recommendation(Recommendation(lr=3e-3, interval90=(1e-3, 1e-2)), {"share_of_target": 0.5})
    training = Training(run, make_data(folder / "tokens"), torch.device("cpu"))
    save_checkpoint(checkpoint_path(folder / "run" / "checkpoints", 20), training.tensors(), training.state())
    (folder / "run" / "run.json").write_text(json.dumps(to_dict(run)))
    result = {
        "status": "finished",
        "reason": "",
        "loss": 3.0,
        "bits_per_byte": 2.0,
        "curve": [[64, 3.0]],
        "seconds": 1.0,
    }
    (folder / "run" / "result.json").write_text(json.dumps({**result, "checkpoint": "x"}))
    return folder


@pytest.fixture(autouse=True)
def nothing_begins(monkeypatch: pytest.MonkeyPatch, place: Path, tmp_path: Path) -> None:
    """Where a command would train, serve or fetch for long, it is stopped."""

    def begin(*args: Any, **more: Any) -> Any:
        raise Begun

    for name in (
        "hpt.train.prepare", "hpt.search.make_ready", "hpt.cost.timed", "hpt.ablate.execute",
        "hpt.mup.coordinate_check", "hpt.mup.prepare", "hpt.bench._measure", "hpt.data.fetch", "hpt.data.prepare",
        "hpt.ui.free_port", "hpt.finetune.open_trained", "hpt.inspect.open_trained",
        "hpt.evaluate.evaluate", "hpt.merge.find_domains", "hpt.generate.generate", "hpt.compare.load_table",
    ):  # fmt: skip
        module, _, attribute = name.rpartition(".")
        if hasattr(importlib.import_module(module), attribute):
            monkeypatch.setattr(name, begin)
    monkeypatch.chdir(tmp_path)


def flags_of(kind: Any, prefix: str = "") -> list[tuple[str, str]]:
    """(flag, "number", "text", "bool" or "file") of a command, its settings' settings included."""
    found = []
    for name, hint in typing.get_type_hints(kind).items():
        if name not in {f.name for f in dataclasses.fields(kind)}:
            continue
        flag, text = f"--{prefix}{name.replace('_', '-')}", str(hint)
        if dataclasses.is_dataclass(hint):
            found += flags_of(hint, f"{prefix}{name.replace('_', '-')}.")
        else:
            kinds = (("bool", "bool"), ("float", "number"), ("int", "number"), ("Path", "file"))
            found.append((flag, next((k for part, k in kinds if part in text), "text")))
    return found


def configs() -> dict[str, Any]:
    """The dataclass of each command's flags."""
    found = {}
    for name in COMMANDS:
        module = importlib.import_module(f"hpt.{name}")
        kinds = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, cli.Common)]
        found[name] = [k for k in kinds if k is not cli.Common]
    return found


CONFIGS = configs()
FLAGS = {name: [flag for kind in kinds for flag in flags_of(kind)] for name, kinds in CONFIGS.items()}
BEGINNING = {  # of a command line that is good, for bad flags to come behind
    "train": ["--search", "{}/search"], "report": ["{}/search"], "evaluate": ["{}/run"], "generate": ["{}/run"],
    "merge": ["{}/run", "{}/run", "--out", "merged"], "convert": ["{}/run", "out", "--to", "pt"],
    "regret": ["--searches", "{}/search", "--truth", "{}/search/trials.jsonl"],
    "ablate": ["--variant", "a=model.bias=false", "--lr", "1e-3"], "compare": ["--table", "{}/search/trials.jsonl"],
    "data": ["inspect", "python"], "ui": [], "search": [], "cost": [], "mup": [], "bench": ["step"],
    "ls": [], "show": ["{}/search"], "export": ["{}/search"], "ask": ["{}/search"], "tell": ["{}/search", "x"],
    "completion": ["bash"], "advise": ["--table", "{}/search/trials.jsonl", "--n", "1e6", "--d", "1e8", "--b", "1e5"],
    "finetune": ["{}/run", "--tasks", "rte"], "inspect": ["{}/run"],
}  # fmt: skip


def outcome(name: str, argv: list[str]) -> str:
    """How a command ends: "sentence", "done" or "begun"; what else it raises fails the test."""
    try:
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            importlib.import_module(f"hpt.{name}").main(argv)
        return "done"
    except Begun:
        return "begun"
    except UserError as error:
        assert str(error).strip() and len(str(error).splitlines()) == 1, str(error)
        return "sentence"
    except OSError as error:
        assert cli.of_the_system(error), f"{name} {argv}: {error!r}"
        return "sentence"
    except SystemExit as end:
        assert not end.code, f"{name} {argv}"
        return "done"


@st.composite
def command_lines(draw: st.DrawFn, name: str) -> list[str]:
    argv = list(BEGINNING[name]) if draw(st.integers(0, 9)) else []
    for flag, kind in draw(st.lists(st.sampled_from(FLAGS[name]), min_size=1, max_size=2)):
        values = BAD_NUMBERS if kind == "number" else BAD_TEXTS
        argv += [flag] + ([] if kind == "bool" else [draw(st.sampled_from(values) | st.text(max_size=8))])
    return argv


@pytest.mark.parametrize("examples", [25, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_bad_flags(name: str, examples: int, place: Path) -> None:
    @settings(max_examples=examples, deadline=None, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(command_lines(name))
    def check(argv: list[str]) -> None:
        outcome(name, [part.replace("{}", str(place)) for part in argv])

    check()


def test_every_flag_that_is_a_number_has_a_range() -> None:
    """A new flag is given one: NaN and infinity are let through nowhere."""
    for name, flags in FLAGS.items():
        for flag, kind in flags:
            if kind == "number" and flag not in NO_RANGE:
                argv = [part.replace("{}", "x") for part in BEGINNING[name]]
                for value in ("nan", "-inf"):
                    with pytest.raises(UserError):
                        cli.parse(CONFIGS[name][0], [*argv, flag, value], f"hpt.{name}")


NO_RANGE = {"--transfer.sizes", "--transfer.uses"}  # infinity is a value of theirs, or they are checked with the target


@pytest.mark.parametrize(
    "assignment",
    ["betas=0.9", "betas=0.9,2", "tokens=inf", "tokens=nan", "seed=-1", "seed=1e300", "model.kv_heads=-2", "eps=-1",
     "model.ffn=-5", "model=3", "data=x", "model.norm_eps=-1", "micro_batch=-1", "micro_batch=0", "data.val_tokens=-5",
     "data.val_tokens=1", "data.epochs=nan", "lr=nan", "lr=-1", "weight_decay=nan", "model.depth=0", "model.heads=0",
     "model.context=0", "model.rope_base=0", "base_width=0", "loss_cap=nan", "warmup=-1", "clip=inf", "x=1", "x.y=1",
     "=", "model.depth", "model.depth=", "model.bias=maybe", "schedule=x", "cooldown=2", "model.depth.x=1", "lr.x=1"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["train", "search", "cost", "mup", "ablate"])
def test_a_field_that_cannot_be(name: str, assignment: str, place: Path) -> None:
    argv = ["--lr", "1e-3"] if name == "train" else list(BEGINNING[name])
    assert outcome(name, [*argv, "--set", assignment]) in ({"sentence", "begun"} if name == "search" else {"sentence"})


@pytest.mark.parametrize("content", BAD_JSON, ids=range(len(BAD_JSON)))
@pytest.mark.parametrize(
    ("file", "lines"),
    [
        ("search/config.json", [("train", "--search", "search"), ("report", "search")]),
        ("search/recommendation.json", [("train", "--search", "search"), ("report", "search")]),
        ("search/trials.jsonl", [("report", "search"), ("cost", "--search", "search")]),
        ("run/run.json", [("report", "run")]),
        ("run/result.json", [("report", "run")]),
        ("run/evaluations.json", [("report", "run"), ("evaluate", "run")]),
        (
            "run/checkpoints/step-00000020.safetensors",
            [("generate", "run"), ("evaluate", "run"), ("merge", "run", "run")],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_files(file: str, lines: list[tuple[str, ...]], content: bytes, place: Path, tmp_path: Path) -> None:
    """The file is named, and what is beside it stays as it was."""
    import shutil

    for folder in ("search", "run"):
        shutil.copytree(place / folder, tmp_path / folder)
    (tmp_path / file).write_bytes(content)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for name, *argv in lines:
        outcome(name, [*argv, "--out", "merged"] if name == "merge" else argv)
    after = {p: p.read_bytes() for p in before if p.name != "report.html"}
    assert after == {p: before[p] for p in after}


@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("generate", ["--samples", "-1"]), ("generate", ["--temperature", "inf"]), ("generate", ["--max-tokens", "0"]),
        ("generate", ["--seed", "99999999999999999999"]), ("evaluate", ["--tasks"]), ("evaluate", ["--limit", "0"]),
        ("train", ["--stop-after-usd", "-3", "--usd-per-hour", "1"]), ("train", ["--usd-per-hour", "-1"]),
        ("train", ["--start-step", "-5"]), ("train", ["--lr", "0"]), ("train", ["--samples", "-1"]),
        ("train", ["--task-limit", "0"]), ("merge", ["--method", "weighted", "--weights", "nan", "1"]),
        ("bench", ["--device", "banana"]), ("bench", ["--device", "cuda:99"]), ("cost", ["--usd-per-hour", "nan"]),
    ],
)  # fmt: skip
def test_what_was_once_let_through(name: str, argv: list[str], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "bench":
        monkeypatch.undo()
    assert outcome(name, [part.replace("{}", str(place)) for part in BEGINNING[name]] + argv) == "sentence"
