"""Generation: the cache changes nothing, transformers draws the same, filters do what their papers say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpt.generate import main
from trainer.architecture.model import Transformer
from trainer.checkpoints.file import checkpoint_path, save_checkpoint
from trainer.checkpoints.trained import Trained
from trainer.config import DataConfig, ModelConfig, RunConfig, to_dict
from trainer.data.tokenizer import load_tokenizer, train_tokenizer
from trainer.errors import UserError
from trainer.exchange import from_trained, leave
from trainer.generate import Decoder, filter_logits, generate

GPT2 = ModelConfig(depth=2, width=32, heads=4, context=24, vocabulary=320)
LLAMA = replace(GPT2, kv_heads=2, positions="rope", norm="rmsnorm", activation="swiglu", bias=False, tied=False)


def network(model: ModelConfig, **more: object) -> Transformer:
    run = RunConfig(model=model, tokens=240, batch=24, lr=1e-3, precision="fp32", **more)  # type: ignore[arg-type]
    made = Transformer(run).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return made


def drawn(model: Transformer, prompt: list[int], **more: object) -> list[int | None]:
    return [row[0] for row in generate(model, prompt, **more)]  # type: ignore[arg-type]


@pytest.mark.parametrize("model", [GPT2, LLAMA])
@pytest.mark.parametrize("kind", ["sp", "completep"])
def test_the_cache_changes_nothing(model: ModelConfig, kind: str) -> None:
    made = network(model, parametrisation=kind, base_width=16, base_depth=1)
    seen = [5, 17, 200]
    with torch.no_grad():
        for _ in range(21):
            seen.append(int(made(torch.tensor([seen]))[0, -1].argmax()))
    assert drawn(made, seen[:3], max_tokens=21, temperature=0) == seen[3:]


def test_transformers_goes_on_alike(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    train_tokenizer(["some text to train on"] * 9, 300, tmp_path / "t.json")
    encoding = load_tokenizer(str(tmp_path / "t.json"))
    made = network(GPT2)
    run = RunConfig(model=GPT2, tokens=24, batch=24)
    ours = Trained(run=run, model=made, encoding=encoding, step=0, path=tmp_path)
    leave(from_trained(ours), "hf", tmp_path / "hf")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    prompt = torch.tensor([[5, 17, 200]])
    mask = torch.ones_like(prompt)
    expected = theirs.generate(prompt, attention_mask=mask, max_new_tokens=18, do_sample=False, pad_token_id=0)
    ours = drawn(made, [5, 17, 200], max_tokens=18, temperature=0, end=encoding.eot_token)
    assert expected[0, 3 : 3 + len(ours)].tolist() == ours


def test_seeds_ends_and_full_contexts() -> None:
    made = network(GPT2)
    first = drawn(made, [1], max_tokens=70, seed=3)  # three contexts long
    assert first == drawn(made, [1], max_tokens=70, seed=3) != drawn(made, [1], max_tokens=70, seed=4)
    assert len(first) == 70
    end = first[10]
    cut = drawn(made, [1], max_tokens=70, seed=3, end=end)
    assert cut[-1] is None and None not in cut[:-1] and cut[:-1] == first[: first.index(end)]
    assert all(t is not None and t < 50 for t in drawn(made, [1], max_tokens=40, allowed=50))
    long = list(range(100))
    assert drawn(made, long, max_tokens=5, temperature=0) == drawn(made, long[-24:], max_tokens=5, temperature=0)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-9, 9, width=32), min_size=2, max_size=30),
    top_k=st.one_of(st.none(), st.integers(1, 40)),
    top_p=st.floats(0.05, 1.0),
    temperature=st.floats(0.1, 3.0),
)
def test_filters(values: list[float], top_k: int | None, top_p: float, temperature: float) -> None:
    logits = torch.tensor(values)
    kept = filter_logits(logits, temperature, top_k, top_p)
    alive = kept > -torch.inf
    assert alive[logits == logits.max()].any()
    torch.testing.assert_close(kept[alive], logits[alive] / temperature)
    if alive.sum() < len(values):  # what was dropped was no likelier than what was kept
        assert logits[~alive].max() <= logits[alive].min()
    if top_k is not None and len(set(values)) == len(values):
        assert alive.sum() <= top_k
    if top_k is None and top_p < 1:
        odds = (logits.double() / temperature).softmax(0)
        assert odds[alive].sum() >= top_p - 1e-4
        assert odds[alive].sum() - odds[alive].min() < top_p + 1e-4  # and no fewer would do


def test_half_characters_wait(tmp_path: Path) -> None:
    train_tokenizer(["abc"], 257, tmp_path / "t.json")
    encoding = load_tokenizer(str(tmp_path / "t.json"))
    decoder = Decoder(encoding)
    pieces = [decoder.add(t) for t in encoding.encode_ordinary("é😀x")]
    assert "".join(pieces) == "é😀x" and "�" not in "".join(pieces) and "" in pieces
    assert decoder.add(encoding.encode_ordinary("é")[0]) == "" and decoder.close() == "�"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_tokenizer(["some text to train on"] * 9, 300, tmp_path / "tokenizer.json")
    made = network(GPT2)
    run = RunConfig(model=GPT2, data=DataConfig(tokenizer="bpe:300"), tokens=240, batch=24, lr=1e-3)
    tensors = {f"model.{n}": p for n, p in made.named_parameters()}
    save_checkpoint(checkpoint_path(tmp_path / "checkpoints", 3), tensors, {"step": 3, "run": to_dict(run)})
    assert main([str(tmp_path), "--prompt", "some", "--max-tokens", "9", "--seed", "1"]) == 0
    out = capsys.readouterr()
    assert out.out.startswith("some") and "tokens/s, step 3" in out.err
    assert main(["--from", str(tmp_path), "--samples", "3", "--max-tokens", "9", "--json"]) == 0
    texts = json.loads(capsys.readouterr().out)["texts"]
    assert len(texts) == 3 and len(set(texts)) > 1
    with pytest.raises(UserError, match="--top-p 0.0 must be a number above 0"):
        main([str(tmp_path), "--top-p", "0"])
    with pytest.raises(UserError, match="holds no checkpoint"):
        main([str(tmp_path / "nothing")])
