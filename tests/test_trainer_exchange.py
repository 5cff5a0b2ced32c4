"""Models leave and come: transformers computes the same logits, llm.c's published layout is read and written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hpt import convert
from trainer.config import ModelConfig, RunConfig, to_dict
from trainer.data.tokenizer import load_tokenizer, train_tokenizer
from trainer.errors import UserError
from trainer.exchange import come, leave
from trainer.exchange.huggingface import write as write_hf
from trainer.exchange.plain import Plain, fold
from trainer.model import Transformer
from trainer.trained import Trained, open_trained

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
    leave(ours, "hf", tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(TOKENS).logits, logits(ours.model), atol=2e-5, rtol=2e-5)
    again = come(tmp_path)
    back = Transformer(again.run)
    back.load_state_dict(again.tensors)
    torch.testing.assert_close(logits(back), logits(ours.model), atol=2e-5, rtol=2e-5)


def test_transformers_tokenises_alike(tokenizer: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    ours = trained(GPT2, tokenizer)
    leave(ours, "hf", tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TEXT, "unseen wörds\t\t42", "a" * 100]:
        assert theirs.encode(text) == ours.encoding.encode_ordinary(text)
        assert theirs.decode(theirs.encode(text)) == text
    assert theirs.eos_token_id == ours.encoding.eot_token


def test_gpt2s_own_vocabulary_keeps_its_ids(shared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ranks are all that tiktoken keeps of the 50,000 merges."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared / "tiktoken"))
    from tokenizers import Tokenizer

    encoding = load_tokenizer("gpt2")
    plain = Plain(run=RunConfig(model=GPT2, tokens=24, batch=24), tensors=fold_tensors(GPT2), encoding=encoding)
    write_hf(plain, tmp_path)
    theirs = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in [*TEXT, "The quick brown fox's 1,234 jumps\n\n\tover   dogs.", "日本語と русский"]:
        assert theirs.encode(text).ids == encoding.encode_ordinary(text)
    assert theirs.token_to_id("<|endoftext|>") == 50256


def fold_tensors(model: ModelConfig) -> dict[str, torch.Tensor]:
    network = Transformer(RunConfig(model=model, tokens=24, batch=24))
    return {n: p.detach() for n, p in network.named_parameters()}


def published_llmc(model: ModelConfig, tensors: dict[str, torch.Tensor], version: int, used: int) -> bytes:
    """By llm.c's train_gpt2.py: all layers of one tensor after another, in this order."""
    header = np.zeros(256, np.int32)
    header[0:8] = [20240326, version, model.context, used, model.depth, model.heads, model.width, model.vocabulary]
    stacks = ["norm1.weight", "norm1.bias", "attention.qkv.weight", "attention.qkv.bias", "attention.out.weight"]
    stacks += ["attention.out.bias", "norm2.weight", "norm2.bias", "feed_forward.up.weight", "feed_forward.up.bias"]
    stacks += ["feed_forward.down.weight", "feed_forward.down.bias"]
    names = ["embedding.weight", "positions.weight"]
    names += [f"blocks.{i}.{stack}" for stack in stacks for i in range(model.depth)]
    out = header.tobytes()
    for name in [*names, "norm.weight", "norm.bias"]:
        numbers = tensors[name].float().numpy()
        if version == 3:
            out += numbers.tobytes()
        else:  # bf16 is the upper half of fp32, rounded to even
            bits = numbers.view(np.uint32)
            out += ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()
    return out


@pytest.mark.parametrize(("version", "kind"), [(3, "llmc"), (5, "llmc-bf16")])
def test_llmcs_checkpoints_are_read_and_written(version: int, kind: str, tokenizer: Path, tmp_path: Path) -> None:
    ours = trained(replace(GPT2, vocabulary=384), tokenizer)
    tensors = {n: p.detach() for n, p in ours.model.named_parameters()}
    expected = published_llmc(ours.run.model, tensors, version, 300)
    leave(ours, kind, tmp_path / "out.bin")
    assert (tmp_path / "out.bin").read_bytes() == expected
    theirs = tmp_path / "model_00002365.bin"
    theirs.write_bytes(expected)
    plain = come(theirs)
    assert plain.step == 2365 and plain.run.model == ours.run.model
    for name, tensor in tensors.items():
        torch.testing.assert_close(plain.tensors[name], tensor, rtol=0 if version == 3 else 2**-8, atol=0)
    theirs.write_bytes(expected[:-8])
    with pytest.raises(UserError, match="cut short"):
        come(theirs)
    theirs.write_bytes(expected[:4] + b"\x01\0\0\0" + expected[8:])
    with pytest.raises(UserError, match="of version 1"):
        come(theirs)


def test_a_file_of_plain_tensors_needs_no_pickled_code(tokenizer: Path, tmp_path: Path) -> None:
    ours = trained(LLAMA, tokenizer, parametrisation="mup", base_width=16)
    leave(ours, "pt", tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert json.loads(content["run"])["model"] == json.loads(json.dumps(to_dict(ours.run)))["model"]
    back = Transformer(come(tmp_path / "model.pt").run)
    back.load_state_dict(content["model"])
    torch.testing.assert_close(logits(back), logits(ours.model), atol=2e-5, rtol=2e-5)
    (tmp_path / "evil.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UserError, match="not a file of plain tensors"):
        come(tmp_path / "evil.pt")


def test_the_command_brings_a_model_in_and_out(tokenizer: Path, tmp_path: Path) -> None:
    leave(trained(GPT2, tokenizer), "hf", tmp_path / "hf")
    assert (
        convert.main([str(tmp_path / "hf"), str(tmp_path / "run"), "--to", "hpt", "--tokenizer", str(tokenizer)]) == 0
    )
    opened = open_trained(tmp_path / "run", torch.device("cpu"))
    assert opened.encoding.n_vocab == 300
    assert convert.main([str(tmp_path / "run"), str(tmp_path / "again"), "--to", "hf"]) == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "hf" / "model.safetensors"
    ).read_bytes()
    for flags, match in [
        ([str(tmp_path / "run"), str(tmp_path / "x"), "--to", "hff"], "did you mean hf"),
        ([str(tmp_path / "run"), str(tmp_path / "hf"), "--to", "hf"], "exists already"),
        ([str(tmp_path / "none"), str(tmp_path / "x"), "--to", "hf"], "There is no"),
        ([str(tmp_path), str(tmp_path / "x"), "--to", "hpt"], "is no model that hpt knows"),
        ([str(tmp_path / "hf"), str(tmp_path / "x"), "--to", "pt"], "bring it in first"),
    ]:
        with pytest.raises(UserError, match=match):
            convert.main(flags)


def test_what_a_format_cannot_say_is_a_sentence(tokenizer: Path, tmp_path: Path) -> None:
    odd = trained(replace(GPT2, positions="rope"), tokenizer)
    with pytest.raises(UserError, match="transformers has no model"):
        leave(odd, "hf", tmp_path / "a")
    with pytest.raises(UserError, match="GPT-2 only"):
        leave(odd, "llmc", tmp_path / "b.bin")
    assert fold(Plain(run=odd.run, tensors={})).run == odd.run
