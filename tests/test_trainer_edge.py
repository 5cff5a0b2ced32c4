"""Forms for small machines: ONNX of any length and with its cache, 8 bits, GGUF; each read back against the model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hpt.bench import main as bench
from hpt.convert import main as convert
from trainer import families
from trainer.architecture.model import Transformer
from trainer.checkpoints.file import save_checkpoint
from trainer.config import DataConfig, ModelConfig, RunConfig, override, to_dict
from trainer.data.masking import NOTHING
from trainer.data.tokenizer import load_tokenizer, train_tokenizer
from trainer.edge import EDGES
from trainer.edge.check import compare, cross_entropy
from trainer.edge.form import Torch
from trainer.edge.ggufs import _halved, _paired
from trainer.edge.scoring import FormScorer
from trainer.errors import UserError
from trainer.evals.likelihood import Scorer
from trainer.exchange.plain import Plain

RUN = RunConfig(
    model=ModelConfig(depth=2, width=64, heads=4, context=48, vocabulary=300),
    data=DataConfig(val_tokens=96, tokenizer="bpe:299"), tokens=4800, batch=96, lr=1e-3, precision="fp32",
)  # fmt: skip
TOKENS = np.random.default_rng(0).integers(0, 299, (2, 40))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(["the man of snow is a dog and it's all good, 12 3\n"] * 30, 299, path)
    return path


def made(knobs: list[str], tokenizer: Path) -> tuple[Torch, Plain]:
    """A model whose logits are of a size that matters, and the same as a Plain."""
    run = override(RUN, knobs)
    model = Transformer(run)
    for p in model.parameters():
        p.data *= 3 if p.dim() > 1 else 1
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    return Torch(model), Plain(run=run, tensors=tensors, encoding=load_tokenizer(str(tokenizer)))


def onnx_equals(knobs: list[str], tokenizer: Path, path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, plain = made(knobs, tokenizer)
    EDGES["onnx"].write(plain, path)
    form = EDGES["onnx"].read(path)
    assert compare(model, form, TOKENS).difference < 2e-4
    for text in (TOKENS[:1, :1], TOKENS[:1, :17], TOKENS):  # other lengths and numbers than it was exported with
        assert form.logits(text) == pytest.approx(model.logits(text), abs=2e-4)
    if plain.run.model.causal:
        assert form.decode(TOKENS[:1, :5], 30).tolist() == model.decode(TOKENS[:1, :5], 30).tolist()


def test_onnx_computes_the_same_at_any_length(tokenizer: Path, tmp_path: Path) -> None:
    onnx_equals([], tokenizer, tmp_path / "model.onnx")


REST = [
    *([f"family={name}"] for name in families.FAMILIES if name != "gpt2"), ["model.positions=alibi"],
    ["model.windows=0,8", "model.layout=aff"], ["parametrisation=mup", "base_width=16"],
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("knobs", REST, ids=" ".join)
def test_onnx_of_every_family(knobs: list[str], tokenizer: Path, tmp_path: Path) -> None:
    onnx_equals(knobs, tokenizer, tmp_path / "model.onnx")


@pytest.mark.slow
def test_eight_bits_are_a_quarter_and_near(tokenizer: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model, plain = made(["model.width=256", "model.heads=4"], tokenizer)
    EDGES["onnx-int8"].write(plain, tmp_path / "model.onnx")
    found = compare(model, EDGES["onnx-int8"].read(tmp_path / "model.onnx"), TOKENS)
    size = (tmp_path / "model.onnx").stat().st_size
    assert size < 0.4 * 4 * sum(t.numel() for t in plain.tensors.values())
    assert 0 < found.difference < found.scale and found.agreement > 0.8


LLAMA = ["family=llama", "model.kv_heads=2", "model.tied=False"]


@pytest.mark.parametrize("knobs", [[], LLAMA, ["model.bias=False"]], ids=["gpt2", "llama", "without biases"])
def test_gguf_read_back(knobs: list[str], tokenizer: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    model, plain = made(knobs, tokenizer)
    sizes = []
    for name, most in (("gguf-f32", 1e-5), ("gguf", 0.2), ("gguf-q4", 3.0)):
        EDGES[name].write(plain, tmp_path / name)
        found = compare(model, EDGES[name].read(tmp_path / name), TOKENS)
        assert found.difference < most * max(1, found.scale), name
        sizes.append((tmp_path / name).stat().st_size)
    assert sizes == sorted(sizes, reverse=True) and sizes[2] < 0.5 * sizes[0]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_gguf_of_llama_is_what_transformers_reads(tokenizer: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    model, plain = made(LLAMA, tokenizer)
    EDGES["gguf-f32"].write(plain, tmp_path / "model.gguf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf")
    with torch.no_grad():
        logits = theirs(torch.from_numpy(TOKENS)).logits.numpy()
    assert logits == pytest.approx(model.logits(TOKENS), abs=1e-3)


@pytest.mark.parametrize("knobs", [[], ["family=bert"]])
def test_a_form_is_scored_as_the_model_is(knobs: list[str], tokenizer: Path) -> None:
    encoding = load_tokenizer(str(tokenizer))
    model = made([*knobs, "model.vocabulary=400"], tokenizer)[0].model
    pairs = [("the man", " of snow"), ("a dog", " is the man of the snow"), ("the", " dog")]
    wanted = Scorer(model=model, encoding=encoding).log_likelihoods(pairs)
    found = FormScorer(model=model, encoding=encoding, form=Torch(model)).log_likelihoods(pairs)
    assert found[0] == pytest.approx(wanted[0], rel=1e-5) and (found[1] == wanted[1]).all()


def test_pairs_and_halves_are_inverse() -> None:
    weight = torch.arange(48.0).reshape(24, 2)
    assert torch.equal(_halved(_paired(weight, 3), 3), weight)
    assert _paired(weight, 3)[:4, 0].tolist() == [0, 8, 2, 10]  # channels 0 and 4 of the first head of 8 are a pair


def test_cross_entropy_is_torchs() -> None:
    logits, targets = np.random.default_rng(0).normal(size=(9, 20)), np.array([3, NOTHING, 5, 0, 19, NOTHING, 1, 2, 3])
    wanted = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(targets), ignore_index=NOTHING, reduction="sum")
    assert cross_entropy(logits, targets) == pytest.approx(wanted.item())


def test_what_cannot_be_said_is_refused(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf")
    with pytest.raises(UserError, match="llama.cpp has no model with these settings"):
        EDGES["gguf"].write(made(["family=bert"], tokenizer)[1], tmp_path / "x")
    for name, package in (("onnx", "onnx"), ("gguf", "gguf")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=rf"needs the package {package}: pip install 'hpt\[edge\]'"):
            EDGES[name].write(made([], tokenizer)[1], tmp_path / "x")


def trained(tokenizer: Path, tmp_path: Path) -> Path:
    """A run of hpt.train."""
    (tmp_path / "text.txt").write_text("the man of snow is a dog\n" * 300)
    _, plain = made([f"data.corpus={tmp_path / 'text.txt'}"], tokenizer)
    run, tensors = tmp_path / "run", {f"model.{name}": tensor for name, tensor in plain.tensors.items()}
    save_checkpoint(run / "checkpoints/step-00000001.safetensors", tensors, {"step": 1, "run": to_dict(plain.run)})
    (run / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return run


def test_convert_as_typed(tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gguf")
    run = trained(tokenizer, tmp_path)
    assert convert([str(run), str(tmp_path / "small.gguf"), "--to", "gguf", "--json"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["difference"] < 1
    with pytest.raises(UserError, match="There is no format 'onxx': did you mean onnx"):
        convert([str(run), str(tmp_path / "y"), "--to", "onxx"])


@pytest.mark.slow
def test_bench_as_typed(tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("gguf")
    run, threads = trained(tokenizer, tmp_path), torch.get_num_threads()
    pairs = [{"sentence_good": "the man is a dog", "sentence_bad": "dog a is man the", "UID": "order"}] * 4
    (tmp_path / "blimp.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    argv = ["--tasks", "blimp", "--data", f"blimp={tmp_path / 'blimp.jsonl'}"]
    assert bench(["edge", str(run), "--repeats", "1", "--json", *argv]) == 0
    torch.set_num_threads(threads)
    rows = {row["form"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert set(rows) == {"hpt, fp32", *EDGES}
    assert rows["onnx"]["decode_tokens_per_s"] > 0 and "prefill_tokens_per_s" not in rows["gguf"]
    assert all(row["blimp/acc"] in (0.0, 1.0) for row in rows.values())
    assert rows["gguf-f32"]["megabytes"] > rows["gguf"]["megabytes"] > rows["gguf-q4"]["megabytes"]
