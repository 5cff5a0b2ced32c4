"""Models leave and come: transformers computes the same logits, llm.c's published layout is read and written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hpt import convert
from trainer.architecture.model import Transformer
from trainer.checkpoints.trained import Trained, open_trained
from trainer.config import ModelConfig, RunConfig, override, to_dict
from trainer.data.tokenizer import load_tokenizer, train_tokenizer
from trainer.errors import UserError
from trainer.exchange import come, from_trained, leave, settle
from trainer.exchange.plain import Plain, fold
from trainer.presets import preset

GPT2 = ModelConfig(depth=2, width=32, heads=4, context=24, vocabulary=320)
LLAMA = replace(
    GPT2, kv_heads=2, positions="rope", norm="rmsnorm", activation="swiglu", bias=False, tied=False, norm_eps=1e-6
)  # fmt: skip
TEXT = ["a sentence to train on, a second one; don't stop 123 times\n\n  again ", "été naïve 😀 ", "x" * 40] * 5


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(TEXT, 300, path)
    return path


def trained(model: ModelConfig, tokenizer: Path, **more: object) -> Trained:
    """Random weights, biases included: what is zero at the start would prove nothing."""
    run = RunConfig(model=model, tokens=240, batch=24, lr=1e-3, precision="fp32", **more)  # type: ignore[arg-type]
    network = Transformer(run).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return Trained(run=run, model=network, encoding=load_tokenizer(str(tokenizer)), step=7, path=Path("x"))


def logits(ours: Transformer) -> torch.Tensor:
    with torch.no_grad():
        return ours(TOKENS)


TOKENS = torch.randint(0, 300, (2, 24), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "model", [GPT2, replace(GPT2, bias=False), replace(GPT2, tied=False), LLAMA, replace(LLAMA, tied=True)]
)
@pytest.mark.parametrize("kind", ["sp", "mup", "completep"])
def test_transformers_computes_the_same_logits(model: ModelConfig, kind: str, tokenizer: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    ours = trained(model, tokenizer, parametrisation=kind, base_width=16, base_depth=1)
    leave(from_trained(ours), "hf", tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(TOKENS).logits, logits(ours.model), atol=2e-5, rtol=2e-5)
    again = come(tmp_path)
    back = Transformer(again.run)
    back.load_state_dict(again.tensors)
    torch.testing.assert_close(logits(back), logits(ours.model), atol=2e-5, rtol=2e-5)


def published_llmc(model: ModelConfig, tensors: dict[str, torch.Tensor], version: int, padded: int) -> bytes:
    """By llm.c's train_gpt2.py: all layers of one tensor after another, in this order; rows of zeros pad the first."""
    header = np.zeros(256, np.int32)
    header[0:8] = [20240326, version, model.context, model.vocabulary, model.depth, model.heads, model.width, padded]
    stacks = ["norm1.weight", "norm1.bias", "attention.qkv.weight", "attention.qkv.bias", "attention.out.weight"]
    stacks += ["attention.out.bias", "norm2.weight", "norm2.bias", "feed_forward.up.weight", "feed_forward.up.bias"]
    stacks += ["feed_forward.down.weight", "feed_forward.down.bias"]
    names = [f"blocks.{i}.{stack}" for stack in stacks for i in range(model.depth)]
    rows = np.zeros((padded - model.vocabulary, model.width), np.float32)
    first = np.concatenate([tensors["embedding.weight"].numpy(), rows])
    out = header.tobytes()
    rest = [tensors[name].numpy() for name in ("positions.weight", *names, "norm.weight", "norm.bias")]
    for numbers in (first, *rest):
        if version == 3:
            out += numbers.tobytes()
        else:  # bf16 is the upper half of fp32, rounded to even
            bits = numbers.view(np.uint32)
            out += ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()
    return out


@pytest.mark.parametrize(("version", "kind"), [(3, "llmc"), (5, "llmc-bf16")])
def test_llmcs_checkpoints_are_read_and_written(version: int, kind: str, tokenizer: Path, tmp_path: Path) -> None:
    """What pads the vocabulary takes part in no softmax: neither in llm.c nor here."""
    ours = trained(replace(GPT2, vocabulary=300), tokenizer)
    tensors = {n: p.detach() for n, p in ours.model.named_parameters()}
    expected = published_llmc(ours.run.model, tensors, version, 384)
    leave(from_trained(ours), kind, tmp_path / "out.bin")
    assert (tmp_path / "out.bin").read_bytes() == expected
    theirs = tmp_path / "model_00002365.bin"
    theirs.write_bytes(expected)
    plain = come(theirs)
    assert plain.step == 2365 and plain.run.model == ours.run.model
    for name, tensor in tensors.items():
        torch.testing.assert_close(plain.tensors[name], tensor, rtol=0 if version == 3 else 2**-8, atol=0)
    for content, match in [
        (expected[:-8], "cut short"),
        (expected[:500], "cut short: it ends within its header"),
        (expected[:4] + b"\x01\0\0\0" + expected[8:], "of version 1"),
        (expected[:12] + b"\0\x10\0\0" + expected[16:], "4,096 tokens in an embedding of 384 rows"),
    ]:
        theirs.write_bytes(content)
        with pytest.raises(UserError, match=match):
            come(theirs)


def llama_folder(folder: Path, shard: str = "100MB", **more: object) -> torch.nn.Module:
    """Written by transformers itself."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(**sizes, vocab_size=300, max_position_embeddings=24, **more)  # type: ignore[arg-type]
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder, max_shard_size=shard)
    return model


def test_folders_of_transformers_are_read_whole_or_in_parts(tmp_path: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": 500.0}
    theirs = llama_folder(tmp_path, "20KB", num_key_value_heads=2, rms_norm_eps=1e-4, rope_parameters=rope)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    plain = come(tmp_path)
    ours = Transformer(plain.run)
    ours.load_state_dict(plain.tensors)
    with torch.no_grad():
        torch.testing.assert_close(logits(ours), theirs(TOKENS).logits, atol=1e-5, rtol=1e-5)
    next(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(UserError, match="cannot be read"):
        come(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("hidden_act", "gelu", "hidden_act='gelu', which hpt does not compute"),
        ("attention_bias", True, "attention_bias=True"),
        ("mlp_bias", True, "mlp_bias=True"),
        ("head_dim", 16, "head_dim=16"),
        ("rope_scaling", {"type": "linear", "factor": 2.0}, "rope_type='linear'"),
        ("rope_parameters", {"rope_type": "llama3", "factor": 8.0}, "rope_type='llama3'"),
        ("num_hidden_layers", 3, "incomplete: it has no 'model.layers.2"),
        ("vocab_size", 299, "embedding.weight is .300, 32., and its configuration says .299, 32."),
        ("model_type", "mamba", "of type 'mamba'"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused(key: str, value: object, match: str, tmp_path: Path) -> None:
    llama_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(UserError, match=match):
        come(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("activation_function", "relu"), ("scale_attn_weights", False), ("scale_attn_by_inverse_layer_idx", True)],
)
def test_gpt2s_variants_are_refused(key: str, value: object, tokenizer: Path, tmp_path: Path) -> None:
    leave(from_trained(trained(GPT2, tokenizer)), "hf", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(UserError, match=f"a gpt2 with {key}={value!r}"):
        come(tmp_path)


def test_a_file_of_plain_tensors_needs_no_pickled_code(tokenizer: Path, tmp_path: Path) -> None:
    ours = trained(LLAMA, tokenizer, parametrisation="mup", base_width=16)
    leave(from_trained(ours), "pt", tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert json.loads(content["run"])["model"] == json.loads(json.dumps(to_dict(ours.run)))["model"]
    back = Transformer(come(tmp_path / "model.pt").run)
    back.load_state_dict(content["model"])
    torch.testing.assert_close(logits(back), logits(ours.model), atol=2e-5, rtol=2e-5)
    settle(come(tmp_path / "model.pt"), tmp_path / "run")
    assert open_trained(tmp_path / "run").encoding.encode("one sentence") == ours.encoding.encode("one sentence")
    del content["model"]["norm.weight"]
    torch.save(content, tmp_path / "part.pt")
    with pytest.raises(UserError, match="norm.weight is missing, and its configuration says .32,."):
        come(tmp_path / "part.pt")
    (tmp_path / "evil.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UserError, match="not a file of plain tensors"):
        come(tmp_path / "evil.pt")


def test_the_command_converts_between_any_two(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def converted(source: str, out: str, to: str, *more: str) -> Path:
        assert convert.main([str(tmp_path / source), str(tmp_path / out), "--to", to, *more]) == 0
        return tmp_path / out

    leave(from_trained(trained(GPT2, tokenizer)), "hf", tmp_path / "hf")
    opened = open_trained(converted("hf", "run", "hpt"), torch.device("cpu"))
    assert opened.encoding.n_vocab == 300 and opened.run.data.tokenizer == "bpe:300"
    said = capsys.readouterr().out
    wanted = override(preset("llama-60m"), ["batch=240", *said.split("--set ")[1].split()])
    assert "--init-from" in said and wanted.model == opened.run.model
    converted("run", "model.pt", "pt")
    again = converted("model.pt", "again", "hf")
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (again / name).read_bytes() == (tmp_path / "hf" / name).read_bytes()
    converted("hf", "model_00000003.bin", "llmc")
    brought = open_trained(converted("model_00000003.bin", "run3", "hpt", "--tokenizer", str(tokenizer)))
    assert brought.step == 3 and brought.run.model.vocabulary == 300 and brought.encoding.n_vocab == 300
    assert "--start-step 3" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.json").write_text("{}")
    for source, out, flags, match in [
        ("run", "x", ["--to", "hff"], "did you mean hf"),
        ("run", "hf", ["--to", "hf"], "exists already"),
        ("none", "x", ["--to", "hf"], "There is no"),
        ("empty", "x", ["--to", "hpt"], "is no model that hpt knows"),
        ("model_00000003.bin", "x", ["--to", "hpt"], "name it with --tokenizer"),
        ("run", "x", ["--to", "pt", "--tokenizer", str(tmp_path / "no.json")], "not a tokenizer file of hpt"),
    ]:
        with pytest.raises(UserError, match=match):
            convert.main([str(tmp_path / source), str(tmp_path / out), *flags])
        assert not (tmp_path / "x").exists()


def test_what_a_format_cannot_say_is_a_sentence(tokenizer: Path, tmp_path: Path) -> None:
    odd = trained(replace(GPT2, positions="rope"), tokenizer)
    with pytest.raises(UserError, match="transformers has no model"):
        leave(from_trained(odd), "hf", tmp_path / "a")
    with pytest.raises(UserError, match="GPT-2 only"):
        leave(from_trained(odd), "llmc", tmp_path / "b.bin")
    assert fold(Plain(run=odd.run, tensors={})).run == odd.run
