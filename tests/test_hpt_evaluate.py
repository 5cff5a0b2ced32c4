"""The evaluate command: a table, a merged file, fetching from a server, and what it says of bad input."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import trainer.evals.evaluators
from hpt.console import cli
from hpt.evaluate import EvaluateConfig, main
from trainer.checkpoints.trained import keep_tokenizer, open_trained
from trainer.config import DataConfig, ModelConfig, RunConfig
from trainer.data import Prepared, prepare
from trainer.errors import UserError
from trainer.evals.evaluators import EVALUATORS, evaluate
from trainer.evals.files import rows
from trainer.loop import Training

LAMBADA = b'{"text": "the man writes over the snow"}\n{"text": "he stops to wait"}\n'


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[RunConfig, Prepared]:
    corpus = tmp_path_factory.mktemp("corpus")
    for k in range(200):
        (corpus / f"{k}.txt").write_text(f"number {k}: " + "the man writes over the snow and then he stops. " * 10)
    data = DataConfig(corpus=str(corpus), tokenizer="bpe:300", val_tokens=512)
    model = ModelConfig(depth=1, width=16, heads=2, context=32, vocabulary=300)
    run = RunConfig(model=model, data=data, tokens=4096, batch=128, lr=1e-2, precision="fp32")
    return run, prepare(data)


@pytest.fixture(scope="module")
def trained(prepared: tuple[RunConfig, Prepared], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run's directory and its last validation loss."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    training = Training(*prepared)
    loss = list(training.reports())[-1].val_loss
    training.save(folder / "checkpoints" / "step-00000032.safetensors")
    keep_tokenizer(folder, prepared[1])
    assert loss is not None
    return folder, loss


@pytest.fixture
def lambada(tmp_path: Path) -> Path:
    path = tmp_path / "lambada.jsonl"
    path.write_bytes(LAMBADA)
    return path


def test_a_table_and_a_merged_file(
    trained: tuple[Path, float], lambada: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, loss = trained
    assert main([str(folder), "--tasks", "val"]) == 0
    table = capsys.readouterr().out
    assert "bits_per_byte" in table and f"{loss:.4f}" in table
    file = folder / "checkpoints" / "step-00000032.safetensors"
    assert main([str(file), "--tasks", "lambada", "--data", f"lambada={lambada}", "--limit", "1", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    kept = json.loads((folder / "evaluations.json").read_text())
    assert set(kept) == {"val", "lambada"} and kept["lambada"] == printed["lambada"]
    assert [s["name"] for s in printed["lambada"]["scores"]] == ["perplexity", "acc"]
    assert printed["lambada"]["step"] == 32 and printed["lambada"]["scores"][0]["count"] == 1
    scores = {s["name"]: s for s in kept["val"]["scores"]}
    assert scores["loss"]["value"] == pytest.approx(loss, abs=1e-5) and scores["loss"]["count"] == 512 // 32


def test_masked_documents_are_evaluated_as_trained(prepared: tuple[RunConfig, Prepared], tmp_path: Path) -> None:
    run = replace(prepared[0], data=replace(prepared[0].data, mask_documents=True))
    training = Training(run, prepared[1])
    training.save(tmp_path / "checkpoints" / "step-00000000.safetensors")
    keep_tokenizer(tmp_path, prepared[1])
    model = open_trained(tmp_path)
    assert evaluate(model, model.encoding, "val")[0].value == pytest.approx(training.evaluate(), abs=1e-5)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--tasks", "helaswag"], "did you mean hellaswag"),
        (["--tasks", "val", "--data", "lambada=x.jsonl"], "not among --tasks"),
        (["--data", "nothing"], "TASK=PATH"),
        (["--limit", "0"], "a whole number from 1"),
        (["--tasks", "hellaswag"], "add --download to fetch https://raw.githubusercontent.com/rowanz/hellaswag/"),
        (["--tasks", "choice"], "needs a file of yours"),
        (["--tasks", "blimp", "--data", "blimp=/no/such/folder"], "There is no /no/such/folder"),
    ],
)
def test_one_sentence(argv: list[str], sentence: str, trained: tuple[Path, float]) -> None:
    with pytest.raises(UserError) as error:
        main([str(trained[0]), *argv])
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_directory_without_a_model_and_a_damaged_file(trained: tuple[Path, float], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no checkpoint"):
        main([str(tmp_path)])
    kept = trained[0] / "evaluations.json"
    before = kept.read_text() if kept.exists() else "{}"
    kept.write_text("{half")
    with pytest.raises(UserError, match="is damaged"):
        main([str(trained[0]), "--tasks", "val"])
    kept.write_text(before)


def test_another_corpus_than_the_run_s_is_noticed(
    trained: tuple[Path, float], tmp_path: Path, prepared: tuple[RunConfig, Prepared]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for n in range(20):
        (other / f"{n}.txt").write_text(
            "".join(f"something else entirely, number {n} {k} of many\n" for k in range(200))
        )
    model = open_trained(trained[0])
    changed = replace(model, run=replace(model.run, data=replace(model.run.data, corpus=str(other), val_tokens=64)))
    with pytest.raises(UserError, match="has changed since this run"):
        evaluate(changed, changed.encoding, "val")


class Handler(http.server.BaseHTTPRequestHandler):
    """/whole is as promised, /short breaks off, anything else is not there."""

    def do_GET(self) -> None:
        if self.path not in ("/whole.jsonl", "/short.jsonl"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(LAMBADA) + (10 if "short" in self.path else 0)))
        self.end_headers()
        self.wfile.write(LAMBADA)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def test_download(
    trained: tuple[Path, float], server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("HPT_CACHE_DIR", str(tmp_path))
    argv = [str(trained[0]), "--tasks", "lambada"]

    def at(page: str, sha256: str = "") -> None:
        served = replace(EVALUATORS["lambada"], url=f"{server}/{page}", sha256=sha256)
        monkeypatch.setitem(trainer.evals.evaluators.EVALUATORS, "lambada", served)

    for page, sha256, sentence in (
        ("missing.jsonl", "", "404"),
        ("short.jsonl", "", "broke off after"),
        ("whole.jsonl", "0" * 64, "is not the file hpt knows"),
    ):
        at(page, sha256)
        with pytest.raises(UserError, match=sentence):
            main([*argv, "--download"])
        assert not list((tmp_path / "evals").iterdir())
    at("whole.jsonl", hashlib.sha256(LAMBADA).hexdigest())
    assert main([*argv, "--download"]) == 0
    assert (tmp_path / "evals" / "lambada.jsonl").read_bytes() == LAMBADA
    at("gone.jsonl")
    assert main(argv) == 0  # from the cache
    assert "perplexity" in capsys.readouterr().out


def test_files_of_all_kinds(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("data/b.jsonl", b'{"k": 2}\n{"k": 3}\n')
        archive.writestr("data/a.jsonl", b'{"k": 0}\n\n{"k": 1}\n')
        archive.writestr("__MACOSX/a.jsonl", b"\xff\xfe")
    read = rows(tmp_path / "two.zip")
    assert [row["k"] for _, row in read] == [0, 1, 2, 3] and read[1][0].endswith("data/a.jsonl, line 3")
    assert [row["k"] for _, row in rows(tmp_path / "two.zip", 2)] == [0, 2]
    (tmp_path / "bad.zip").write_bytes(b"PK no")
    (tmp_path / "bad.jsonl.gz").write_bytes(b"no gzip")
    for name in ("bad.zip", "bad.jsonl.gz"):
        with pytest.raises(UserError, match="cannot be read"):
            rows(tmp_path / name)


def test_help_names_every_task_and_each_has_an_address(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse(EvaluateConfig, ["--help"], "hpt.evaluate")
    text = capsys.readouterr().out
    assert all(name in text for name in EVALUATORS)
    assert {name for name, e in EVALUATORS.items() if not e.url.startswith("https://")} == {
        "val",
        "choice",
        "blimp_supplement",
    }
