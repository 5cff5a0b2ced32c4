"""hpt.finetune and hpt.evaluate on its tasks, as typed: one model for several tasks, heads, resuming, refusals."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hpt.console.beginning import free_directories
from hpt.console.settings import SearchConfig
from hpt.evaluate import main as evaluate
from hpt.finetune import main
from hpt.report import main as report
from hpt.search import main as search
from hpt.train import main as train
from trainer.checkpoints.trained import keep_tokenizer, open_trained
from trainer.config import DataConfig, ModelConfig, RunConfig, override, to_dict
from trainer.data import prepare
from trainer.errors import UserError
from trainer.finetune.heads import HeadTraining
from trainer.loop import Training

NAMES = "Ann Bob Eve Max Tom Kim".split()
PLACES = "Rome Oslo Bonn Cork Nice Bern".split()


def pretrained(folder: Path, family: str = "gpt2") -> Path:
    """A run of hpt.train."""
    rng = random.Random(0)
    corpus = folder / "text"
    corpus.mkdir(parents=True)
    for k in range(60):
        lines = [f"{rng.choice(NAMES)} lives in {rng.choice(PLACES)}. Question: Answer: yes no" for _ in range(20)]
        (corpus / f"{k}.txt").write_text(" ".join(lines))
    data = DataConfig(corpus=str(corpus), tokenizer="bpe:299", val_tokens=512, epochs=9)
    model = ModelConfig(depth=2, width=32, heads=2, context=64, vocabulary=300, positions="rope")
    run = RunConfig(model=model, data=data, tokens=128 * 60, batch=128, lr=1e-2, precision="fp32")
    run = override(run, [f"family={family}"]) if family != "gpt2" else run
    prepared = prepare(data)
    training = Training(run, prepared)
    list(training.reports())
    training.save(folder / "run" / "checkpoints" / "step-00000060.safetensors")
    keep_tokenizer(folder / "run", prepared)
    return folder / "run"


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    return pretrained(tmp_path_factory.mktemp("causal"))


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """MLflow's file, of all tests here: making its tables takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracked: str) -> Path:
    """Rows of two tasks in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracked)
    rng, squad, rte = random.Random(1), [], []
    for k in range(240):
        name, where, other = rng.choice(NAMES), rng.choice(PLACES), rng.choice(NAMES)
        context = f"{other} {k}. {name} lives in {where}."
        answers = [{"text": where, "answer_start": context.rindex(where)}]
        squad.append({"context": context, "question": "Where?", "answers": answers})
        rte.append({"sentence1": context, "sentence2": f"{k}", "label": int(where in PLACES[:3])})
    for task, found in (("squad", squad), ("rte", rte)):
        Path(f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return tmp_path


TEXT = ["--tasks", "squad", "rte", "--data", "squad=squad.jsonl", "rte=rte.jsonl", "--lr", "1e-2", "--batch", "256"]


def test_one_model_for_two_tasks(causal: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (causal / "checkpoints" / "step-00000060.safetensors").read_bytes()
    assert main([str(causal), *TEXT, "--epochs", "6", "--out", "two"]) == 0
    told = capsys.readouterr().out
    assert "squad: " in told and "packed into" in told and "python -m hpt.evaluate two --tasks squad rte" in told
    result = json.loads(Path("two/result.json").read_text())
    assert result["status"] == "finished" and result["bits_per_byte"] is None
    losses = [loss for _, loss in result["curve"]]
    assert losses[-1] < 0.6 * losses[0] and Path("two/best.safetensors").is_file()
    assert (causal / "checkpoints" / "step-00000060.safetensors").read_bytes() == before
    given = ["--data", "squad=squad.jsonl", "rte=rte.jsonl"]
    assert evaluate(["two", "--tasks", "squad", "rte", "val", *given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    scores = {name: {s["name"]: s["value"] for s in found[name]["scores"]} for name in found}
    assert scores["squad"]["f1"] > scores["squad"]["first words/f1"]
    assert scores["val"]["loss"] == pytest.approx(losses[-1], abs=1e-4)
    assert found["rte"]["tokens_per_second"] > 0 and "majority/acc" in scores["rte"]
    said = [json.loads(line) for line in Path("two/answers/squad.jsonl").read_text().splitlines()]
    assert said[0]["question"].startswith("Question: Where?") and len(said) > 10
    beams = ["--tasks", "squad", "--beams", "2", "--limit", "5", "--max-tokens", "4", "--json", *given[:2]]
    assert evaluate(["two", *beams]) == 0
    assert json.loads(capsys.readouterr().out)["squad"]["beams"] == 2
    import mlflow

    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    (run,) = client.search_runs([client.search_experiments(filter_string="name = 'two'")[0].experiment_id])
    assert run.data.tags["hpt.tasks"] == "squad rte" and "final_val_loss" in run.data.metrics


def test_interrupted_it_goes_on_with_the_same_losses(
    causal: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = [str(causal), *TEXT, "--epochs", "1"]
    assert main([*short, "--out", "whole"]) == 0
    step = Training.train_step

    def interrupted(self: Training):  # type: ignore[no-untyped-def]
        if self.step == 7:
            self.interrupted = "enough"
        return step(self)

    monkeypatch.setattr(Training, "train_step", interrupted)
    main([*short, "--out", "parts"])
    assert json.loads(Path("parts/result.json").read_text())["status"] == "stopped"
    monkeypatch.setattr(Training, "train_step", step)
    assert main([*short, "--out", "parts"]) == 0
    whole, parts = (json.loads(Path(p, "result.json").read_text()) for p in ("whole", "parts"))
    assert whole["loss"] == parts["loss"] and whole["status"] == parts["status"] == "finished"
    with pytest.raises(UserError, match="holds another run"):
        main([*short, "--out", "whole", "--seed", "1"])


def test_the_best_weights_are_kept_and_patience_ends_it(causal: Path, place: Path) -> None:
    argv = [str(causal), *TEXT, "--epochs", "60", "--patience", "2", "--evaluations", "40", "--out", "ft"]
    assert main([*argv, "--limit", "12", "--batch", "64"]) == 0
    result = json.loads(Path("ft/result.json").read_text())
    assert result["status"] == "stopped" and "2 validations brought no lower loss" in result["reason"]
    losses = [loss for _, loss in result["curve"]]
    best = open_trained(Path("ft/best.safetensors"))
    batch = 64
    assert losses.index(min(losses)) == len(losses) - 3
    assert result["curve"][losses.index(min(losses))][0] == best.step * batch


def test_heads(causal: Path, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    argv = [str(causal), "--tasks", "rte", "--heads", "--data", "rte=rte.jsonl", "--lr", "5e-3", "--out", "heads"]
    argv += ["--epochs", "6", "--batch", "16"]
    assert main([*argv, "--seeds", "2"]) == 0
    told = capsys.readouterr().out
    assert "baseline" in told and "seed 1" in told
    found = json.loads(Path("heads/heads.json").read_text())["rte"]
    values = [seed["scores"]["acc"] for seed in found["seeds"].values()]
    assert len(values) == 2 and sum(values) / 2 > found["majority"]["acc"]
    assert open_trained(Path("heads/heads/rte-1.safetensors")).step == 60  # its body, for hpt.inspect

    def never(*_: object) -> None:
        raise AssertionError("it was trained already")

    monkeypatch.setattr(HeadTraining, "train", never)
    assert main([*argv, "--seeds", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rte"] == found


def test_heads_of_a_masked_model(
    tmp_path_factory: pytest.TempPathFactory, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A class, and the place of an answer."""
    masked = pretrained(tmp_path_factory.mktemp("masked"), "bert")
    argv = ["--tasks", "rte", "squad", "--data", "rte=rte.jsonl", "squad=squad.jsonl", "--out", "heads"]
    argv += ["--limit", "40", "--epochs", "1"]
    assert main([str(masked), *argv, "--heads", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 <= found["rte"]["seeds"]["0"]["scores"]["acc"] <= 1
    assert {"f1", "em"} <= found["squad"]["majority"].keys() <= found["squad"]["seeds"]["0"]["scores"].keys()
    with pytest.raises(UserError, match="A masked language model writes no answers: give --heads"):
        main([str(masked), *argv])


BAD = {
    "no task": ([], "--tasks names none"),
    "unknown": (["--tasks", "squat"], "did you mean squad"),
    "twice": (["--tasks", "rte", "rte"], "Task rte is given twice"),
    "weights": (["--tasks", "rte", "--weights", "1", "2", "--data", "rte=rte.jsonl"], "--weights has 2 numbers"),
    "data's form": (["--tasks", "rte", "--data", "rte.jsonl"], "not of the form TASK=PATH"),
    "data of another": (["--tasks", "rte", "--data", "cola=x"], "cola, which is not among --tasks"),
    "no rows": (["--tasks", "rte"], "The rows of rte are missing: add --download"),
    "heads of text": (
        ["--tasks", "cnn_dailymail", "--heads", "--data", "cnn_dailymail=cnn.jsonl"],
        "cnn_dailymail is written: leave",
    ),
    "set of heads": (["--tasks", "rte", "--heads", "--set", "lr=1", "--data", "rte=rte.jsonl"], "leave them out"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, causal: Path, place: Path) -> None:
    argv, said = BAD[case]
    with pytest.raises(UserError, match=said):
        main([str(causal), *argv])


def test_a_task_file_as_typed(causal: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = 'path = "squad.jsonl"\nsource = "{context}"\nask = "\\nWhere?"\nanswer = "question"\nmetric = "squad"\n'
    Path("mine.toml").write_text(text)
    assert main([str(causal), "--task-file", "mine.toml", "--epochs", "1", "--out", "ft", "--limit", "30"]) == 0
    capsys.readouterr()
    assert evaluate(["ft", "--tasks", "val", "--task-file", "mine.toml", "--limit", "3", "--json"]) == 0
    assert {"val", "mine"} == set(json.loads(capsys.readouterr().out))


def test_a_search_can_be_for_the_lr_of_fine_tuning(causal: Path, place: Path) -> None:
    """The target is hpt.finetune's run, begun from the pretrained weights: a trial of it is a fine-tuning."""
    config = SearchConfig(target=f"finetune:{causal}", tasks=("squad",), data=("squad=squad.jsonl",), seed=3)
    target = config.build_target()
    assert target.lr is None and target.data.pack == "rows" and target.seed == 3 and target.init_from
    prepared = prepare(target.data)
    assert main([str(causal), "--tasks", "squad", "--data", "squad=squad.jsonl", "--seed", "3", "--lr", "1e-2"]) == 0
    training = Training(replace(target, lr=1e-2), prepared)
    found = list(training.reports())[-1].val_loss
    result = json.loads((causal.parent / "run-ft" / "result.json").read_text())
    assert found == pytest.approx(result["loss"], abs=1e-6)
    assert open_trained(causal).run.init_from == ""
    name = next(iter(free_directories(config))).name
    assert name == "finetune-run-hyperband"
    with pytest.raises(UserError, match="The rows of rte are missing"):
        SearchConfig(target=f"finetune:{causal}", tasks=("rte",)).build_target()


@pytest.mark.slow
def test_the_search_itself(causal: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--target", f"finetune:{causal}", "--tasks", "squad", "--data", "squad=squad.jsonl", "--name", "mine"]
    argv += ["--budget-runs", "3", "--slots", "1"]
    assert search([*argv, "--strategy", "early-stopping"]) == 0
    assert json.loads(Path("searches/mine/recommendation.json").read_text())["trials"]
    assert train(["--from", "searches/mine", "--lr", "1e-2", "--out", "final"]) == 0
    assert json.loads(Path("final/result.json").read_text())["status"] == "finished"
    with pytest.raises(UserError, match="model-scaling trains smaller models"):
        search([*argv[:6], "--strategy", "model-scaling", "--name", "other"])


def test_the_hand_in_of_a_run_with_its_fine_tunings(causal: Path, place: Path) -> None:
    """Both lie beside each other, as hpt.finetune puts them without --out."""
    run = place / "runs" / "mine_1"
    run.parent.mkdir()
    run.mkdir()
    for name in ("tokenizer.json", "checkpoints"):
        (run / name).symlink_to(causal / name)
    state = open_trained(causal).run
    (run / "run.json").write_text(json.dumps(to_dict(state)))
    curve = [[128, 4.5], [7680, 3.25]]
    result = {"status": "finished", "loss": 3.25, "curve": curve, "seconds": 61.0, "tokens": 7680}
    (run / "result.json").write_text(json.dumps(result))
    assert main([str(run), *TEXT, "--epochs", "1", "--limit", "40"]) == 0
    assert evaluate([str(run) + "-ft", "--tasks", "rte", "--data", "rte=rte.jsonl"]) == 0
    heads = ["--tasks", "rte", "--data", "rte=rte.jsonl", "--heads", "--epochs", "1", "--limit", "40"]
    assert main([str(run), *heads]) == 0
    assert report([str(run), "--format", "latex"]) == 0
    tex = (run / "report.tex").read_text()
    assert tex.count(r"\begin{table}") == tex.count(r"\end{table}") >= 7 and r"mine\_1-ft" in tex
    assert report([str(run), "--format", "md"]) == 0
    text = (run / "report.md").read_text()
    for wanted in ("3.2500", "majority/acc", "Heads of", "What it cost", "Example batches", "«", "model.pt", "7,680"):
        assert wanted in text, wanted
    pictures = re.findall(r"\]\(([^)]+\.svg)\)", text)
    assert pictures and all((run / name).is_file() for name in pictures)
    assert report([str(run) + "-ft"]) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's, of transformers
def test_lora_by_peft_goes_there_and_back(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The page's way: the weights that come back are W + BA, and the tokenizer is still the model's."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    from hpt.convert import main as convert

    run = pretrained(tmp_path_factory.mktemp("llama"), "llama")
    assert convert([str(run), str(tmp_path / "there"), "--to", "hf", "--quiet"]) == 0
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "there")
    model = peft.get_peft_model(plain, peft.LoraConfig(r=4, target_modules="all-linear"))
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    tokens = torch.randint(0, 256, (4, 32), generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        wanted = model.eval()(input_ids=tokens).logits
    model.merge_and_unload().save_pretrained(tmp_path / "lora")
    for file in (tmp_path / "there").glob("tokenizer*"):
        shutil.copy(file, tmp_path / "lora")
    assert convert([str(tmp_path / "lora"), str(tmp_path / "back"), "--to", "hpt", "--quiet"]) == 0
    back = open_trained(tmp_path / "back")
    with torch.no_grad():
        found = back.model(tokens)
    torch.testing.assert_close(found[..., : wanted.shape[-1]], wanted, atol=1e-4, rtol=1e-4)
    assert back.encoding.decode(back.encoding.encode_ordinary("Rome")) == "Rome"
