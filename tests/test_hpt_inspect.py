"""hpt.inspect: maps as the model computes them, for every family; neurons; the page."""

from __future__ import annotations

import html.parser
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hpt.inspect import main
from trainer import families
from trainer.architecture.attention import Attention
from trainer.architecture.model import Transformer
from trainer.checkpoints.file import save_checkpoint
from trainer.config import DataConfig, ModelConfig, RunConfig, override, to_dict
from trainer.data.tokenizer import train_tokenizer
from trainer.errors import UserError
from trainer.inspect.attention import heads, lens, look, parts, weights
from trainer.inspect.neurons import neurons, telling

RUN = RunConfig(
    model=ModelConfig(depth=2, width=32, heads=4, context=64, vocabulary=300), data=DataConfig(val_tokens=64),
    tokens=640, batch=64, lr=1e-3, precision="fp32",
)  # fmt: skip
TOKENS = [int(t) for t in np.random.default_rng(0).integers(0, 299, 40)]
KNOBS = [
    *([f"family={name}"] for name in families.FAMILIES), ["model.windows=0,8"], ["model.positions=alibi"],
    ["model.layout=afa", "model.qk_norm=True", "model.positions=rope", "model.kv_heads=2"],
]  # fmt: skip


def large(knobs: list[str]) -> Transformer:
    """Weights at which attention is not nearly even."""
    model = Transformer(override(RUN, knobs)).eval()
    for p in model.parameters():
        p.data *= 4 if p.dim() > 1 else 1
    return model


@pytest.mark.parametrize("knobs", KNOBS, ids=" ".join)
def test_maps_are_what_the_model_computes(knobs: list[str]) -> None:
    model, compared = large(knobs), 0

    def check(module: Attention, given, y) -> None:  # type: ignore[no-untyped-def]
        nonlocal compared
        found, v = weights(module, *given[:3]), module._heads(module.qkv(given[0]))[2]
        v = v.repeat_interleave(module.heads // module.kv_heads, dim=1)
        torch.testing.assert_close(module.out((found @ v).transpose(1, 2).flatten(2)), y, atol=1e-4, rtol=1e-4)
        compared += 1

    handles = [part.register_forward_hook(check) for *_, part in parts(model, "a")]
    seen = look(model, TOKENS)
    for handle in handles:
        handle.remove()
    assert compared == len(seen.maps) == 2 * model.config.layout.count("a")
    assert seen.maps.sum(-1) == pytest.approx(1, abs=1e-5)
    assert (np.triu(seen.maps, 1) == 0).all() == model.config.causal
    ids, odds = lens(model, seen.streams, 300)
    logits = model(torch.tensor([TOKENS]))[0].softmax(-1)
    assert (ids[-1, :, 0] == logits.argmax(-1).numpy()).all() and ids.shape == (3, 40, 3)
    assert odds[-1, :, 0] == pytest.approx(logits.max(-1).values.detach().numpy(), abs=1e-5)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_heads_do() -> None:
    model = large([])
    found = heads(model, [TOKENS, TOKENS[:20]])
    maps = [look(model, tokens).maps for tokens in (TOKENS, TOKENS[:20])]
    row = maps[0][1, 2, 1:]
    assert found.entropy.shape == (2, 4) and found.similarity.shape == (8, 8)
    entropies = [-(np.where(m > 0, m * np.log2(np.where(m > 0, m, 1)), 0)).sum(-1)[:, :, 1:].mean(-1) for m in maps]
    assert found.entropy == pytest.approx(np.mean(entropies, 0), abs=1e-5)
    assert found.first[1, 2] == pytest.approx((row[:, 0].mean() + maps[1][1, 2, 1:, 0].mean()) / 2, abs=1e-6)
    previous = [np.mean([m[0, 1, i, i - 1] for i in range(1, len(m[0, 1]))]) for m in maps]
    assert found.previous[0, 1] == pytest.approx(np.mean(previous), abs=1e-6)
    assert np.diag(found.similarity) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("knobs", [[], ["family=llama"]], ids=["gpt2", "llama"])
def test_neurons_strongest_tokens_are_found(knobs: list[str]) -> None:
    model = large(knobs)
    sequences = np.random.default_rng(1).integers(0, 299, (11, 30))
    found = neurons(model, sequences, keep=3, batch=4)
    assert len(found) == 2 * model.config.hidden
    kept = list[torch.Tensor]()
    part = parts(model, "f")[1][2]
    handle = part.down.register_forward_pre_hook(lambda module, given: kept.append(given[0]))  # type: ignore[union-attr]
    model.features(torch.from_numpy(sequences))
    handle.remove()
    values = kept[0].detach().flatten(0, 1).numpy()
    for neuron in found[model.config.hidden :: 17]:
        mine = values[:, neuron.index]
        order = np.argsort(-mine)[:3]
        assert [s * 30 + t for _, s, t in neuron.strongest] == order.tolist()
        assert neuron.mean == pytest.approx(mine.mean(), abs=1e-4) and neuron.active == pytest.approx((mine > 0).mean())
        assert neuron.deviation == pytest.approx(mine.std(), rel=1e-3)
    shown = telling(found, 2)
    assert [n.block for n in shown] == [0, 0, 1, 1] and shown[0].selectivity >= shown[1].selectivity


class Reader(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.attributes, self.data, self.tags = list[tuple[str, str | None]](), [""], list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.data.append(data)


def made(folder: Path, knobs: list[str]) -> Path:
    run, generator = override(RUN, knobs), torch.Generator().manual_seed(0)
    model = Transformer(run)
    tensors = {f"model.{n}": torch.randn(p.shape, generator=generator) / 3 for n, p in model.named_parameters()}
    run = override(run, ["data.tokenizer=bpe:299"])
    save_checkpoint(folder / "checkpoints" / "step-00000001.safetensors", tensors, {"step": 1, "run": to_dict(run)})
    train_tokenizer(["the man of snow <script>alert(1)</script>\n"] * 30, 299, folder / "tokenizer.json")
    return folder


def test_a_page_of_two_models_without_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = made(tmp_path / "a", []), made(tmp_path / "b<script>", ["family=bert"])
    (tmp_path / "text.txt").write_text("the man </script><script>alert(2)</script> of snow\n" * 80)
    argv = ["--prompt", "the <script>alert(3)</script> <|mask|> snow", "--corpus", str(tmp_path / "text.txt")]
    out = tmp_path / "page.html"
    assert main([str(one), "--against", str(other), *argv, "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["models"]) == 2 and np.shape(found["models"][0]["entropy"]) == (2, 4)
    page = out.read_text()
    reader = Reader()
    reader.feed(page)
    assert reader.tags.count("script") == 3 and "img" not in reader.tags  # two of data, one that draws
    assert not [v for n, v in reader.attributes if n in ("src", "href") or n.startswith("on")] and "http" not in page
    shown = "".join(reader.data)
    assert "causal" in shown and "masked" in shown and "feed_forward" in shown
    texts = [json.loads(t) for t in reader.data if t.startswith('{"tokens"')]
    assert len(texts) == 2 and "<|mask|>" in texts[1]["tokens"] and "<|mask|>" not in texts[0]["tokens"]


def test_without_its_corpus_and_with_too_long_a_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(tmp_path / "a", ["data.corpus=/nowhere/at/all"])
    assert main([str(run), "--prompt", "the man"]) == 0
    assert "no neurons are shown" in capsys.readouterr().out.replace("\n", " ")
    assert "Neurons" not in (run / "inspect.html").read_text()
    for prompt in ("", "the man of snow " * 40):
        with pytest.raises(UserError, match="--prompt has .* tokens, and"):
            main([str(run), "--prompt", prompt])
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match="holds no text"):
        main([str(run), "--corpus", str(tmp_path / "empty.txt")])
