"""The table of families: published sizes, transformers' logits both ways, and knobs that contradict each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trainer.architecture.counts import parameters
from trainer.architecture.model import Transformer
from trainer.checkpoints.trained import Trained
from trainer.config import ModelConfig, RunConfig, from_dict, override, to_dict
from trainer.data.tokenizer import load_tokenizer, train_tokenizer
from trainer.errors import UserError
from trainer.exchange import come, from_trained, leave
from trainer.exchange.hf import KINDS
from trainer.families import FAMILIES
from trainer.presets import preset

TEXT = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
SMALL = ModelConfig(depth=3, width=64, heads=4, context=96, vocabulary=320)
RUN = RunConfig(model=SMALL, tokens=9600, batch=96, lr=1e-3, precision="fp32")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer([TEXT], 300, path)
    return path


def run_of(family: str, *more: str) -> RunConfig:
    """With a window that is shorter than the context."""
    window = ["model.windows=0,16"] if family == "gptneo" else []
    return override(RUN, [f"family={family}", *window, *more])


def trained(run: RunConfig, tokenizer: Path) -> Trained:
    """Random weights, biases included: what is zero at the start would prove nothing."""
    network, generator = Transformer(run).eval(), torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return Trained(run=run, model=network, encoding=load_tokenizer(str(tokenizer)), step=7, path=Path("x"))


def text_tokens(tokenizer: Path) -> Tensor:
    ids = load_tokenizer(str(tokenizer)).encode_ordinary(TEXT)
    return torch.tensor(ids[: 2 * 96]).view(2, 96)


def theirs_of(folder: Path, run: RunConfig) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    auto = AutoModelForCausalLM if run.model.causal else AutoModelForMaskedLM
    return auto.from_pretrained(folder).eval()


@torch.no_grad()
def close(theirs: torch.nn.Module, ours: torch.nn.Module, tokens: Tensor) -> None:
    a, b = theirs(tokens).logits, ours(tokens)
    assert a.abs().max() > 0.3  # or there would be nothing to compare
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["sp", "mup"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_leaves_computes_the_same_in_transformers(family: str, kind: str, tokenizer: Path, tmp_path: Path) -> None:
    run = run_of(family)
    if kind == "mup" and not run.model.scaled_attention:
        pytest.skip("refused: see the contradictions")
    ours = trained(replace(run, parametrisation=kind, base_width=16), tokenizer)  # type: ignore[arg-type]
    leave(from_trained(ours), "hf", tmp_path)
    tokens = text_tokens(tokenizer)
    close(theirs_of(tmp_path, run), ours.model, tokens)
    again = come(tmp_path)
    back = Transformer(again.run)
    back.load_state_dict(again.tensors)
    with torch.no_grad():
        torch.testing.assert_close(back(tokens), ours.model(tokens), atol=2e-5, rtol=2e-5)


def their_model(family: str) -> torch.nn.Module:
    """Made by transformers itself."""
    import transformers

    kind = next(k for k in KINDS.values() if k.family == family)
    config = getattr(transformers, kind.architecture).config_class
    if family == "gptneo":
        sizes = {"num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]], "window_size": 16}
    elif family == "gpt2":
        sizes = {"n_layer": 4, "n_head": 4}
    else:
        sizes = {"num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
    if family == "qwen3":
        sizes |= {"num_key_value_heads": 2, "head_dim": 32}
    sizes["max_position_embeddings"] = 98 if family == "roberta" else 96
    return getattr(transformers, kind.architecture)(config(**sizes, hidden_size=64, vocab_size=320))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_made_is_read(family: str, tokenizer: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    theirs = their_model(family).eval()
    for parameter in theirs.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    theirs.save_pretrained(tmp_path / "theirs")
    plain = come(tmp_path / "theirs")
    ours = Transformer(plain.run).eval()
    ours.load_state_dict(plain.tensors)
    tokens = text_tokens(tokenizer)
    tokens[tokens == 1] = 2  # transformers' RoBERTa takes it for padding
    close(theirs, ours, tokens)
    leave(plain, "hf", tmp_path / "again")  # RoBERTa comes back as BERT, which computes the same
    close(theirs_of(tmp_path / "again", plain.run), ours, tokens)


def test_the_presets_have_the_sizes_of_the_course() -> None:
    neo, bert, roberta = (parameters(preset(f"{name}-9m").model) for name in ("gptneo", "bert", "roberta"))
    assert (neo.total, neo.blocks) == (13_788_160, 8_404_992)
    assert (bert.total, bert.blocks) == (roberta.total, roberta.blocks) == (14_067_984, 8_411_136)


def test_a_family_is_a_whole_row() -> None:
    """Whatever the run was before; and GPT-2's is what the defaults are."""
    for family in FAMILIES:
        assert override(override(RUN, ["family=bert"]), [f"family={family}"]) == override(RUN, [f"family={family}"])
    assert override(RUN, ["family=gpt2"]) == RUN
    with pytest.raises(UserError, match="no family of models called 'gpt-neo': did you mean gptneo"):
        override(RUN, ["family=gpt-neo"])


def test_files_of_default_models_are_as_before() -> None:
    """What earlier versions wrote is what is written today, and is read."""
    values = to_dict(RUN)
    assert set(values["model"]) == {
        "depth", "width", "heads", "kv_heads", "ffn", "context", "vocabulary", "positions", "norm", "activation",
        "bias", "tied", "norm_eps", "rope_base",
    }  # fmt: skip
    assert "objective" not in values and "pack" not in values["data"]
    for family in FAMILIES:
        run = run_of(family)
        assert from_dict(RunConfig, to_dict(run)) == run


def test_default_models_keep_their_names() -> None:
    """Checkpoints go by them."""
    block = [
        "norm1.weight", "norm1.bias", "attention.qkv.weight", "attention.qkv.bias", "attention.out.weight",
        "attention.out.bias", "norm2.weight", "norm2.bias", "feed_forward.up.weight", "feed_forward.up.bias",
        "feed_forward.down.weight", "feed_forward.down.bias",
    ]  # fmt: skip
    blocks = [f"blocks.{i}.{name}" for i in range(3) for name in block]
    found = [name for name, _ in Transformer(RUN).named_parameters()]
    assert found == ["embedding.weight", "positions.weight", *blocks, "norm.weight", "norm.bias"]
    llama = [name for name, _ in Transformer(run_of("llama")).named_parameters()]
    part = ["norm1", "attention.qkv", "attention.out", "norm2", "feed_forward.up", "feed_forward.gate"]
    blocks = [f"blocks.{i}.{name}.weight" for i in range(3) for name in (*part, "feed_forward.down")]
    assert llama == ["embedding.weight", *blocks, "norm.weight", "head.weight"]


CONTRADICTIONS = {
    ("model.causal=False", "objective=masked", "model.windows=0,16"): "model.windows=0,16 looks back from a token",
    ("model.positions=rope", "model.qk_dim=7"): "rope needs an even head size, and model.qk_dim is 7",
    ("model.layout=aa",): "model.layout=aa must hold at least one a .attention. and one f",
    ("model.layout=afx",): "model.layout=afx must hold",
    ("model.parallel=True", "model.norm_place=post"): "model.parallel=True adds all parts to one stream",
    ("model.ffn_layers=2", "model.activation=swiglu"): "model.ffn_layers=2 stacks plain layers, and swiglu has a gate",
    ("model.causal=False", "objective=masked", "model.positions=none"): "cannot tell the order of tokens",
    ("objective=masked",): "objective=masked needs a model that sees both ways",
    ("model.causal=False",): "model.causal=False sees the very token",
    ("family=bert", "mask_shares=0.8,0.3"): "mask_shares=0.8,0.3 are parts .* sum to more than 1",
    ("family=bert", "mask_rate=0"): "mask_rate=0.0 must be a number above 0",
    ("family=gptneo", "parametrisation=mup"): "parametrisation=mup divides attention by the size of a head",
    ("family=bert", "parametrisation=completep"): "model.norm_place=post takes the weight away",
    ("data.pack=documents", "data.mask_documents=True"): "use one of the two",
    ("model.windows=-1",): "model.windows=-1 must be a whole number from 0",
}


@pytest.mark.parametrize("changes", CONTRADICTIONS, ids=" ".join)
def test_knobs_that_contradict_each_other_are_a_sentence(changes: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=CONTRADICTIONS[changes]):
        override(RUN, changes)


def test_a_model_that_nobody_else_has_says_what_the_nearest_lacks(tokenizer: Path, tmp_path: Path) -> None:
    for changes, match in [
        (["model.layout=fa"], "GPT2LMHeadModel, has no layout=fa; --to pt takes any"),
        (["family=bert", "model.norm_place=pre"], "BertForMaskedLM, has no norm_place=pre"),
        (["family=gptneo", "model.windows=0,8,16"], "GPTNeoForCausalLM, has no windows of several sizes"),
    ]:
        odd = trained(override(RUN, changes), tokenizer)
        with pytest.raises(UserError, match=match):
            leave(from_trained(odd), "hf", tmp_path)
        with pytest.raises(UserError, match="llm.c knows GPT-2 only"):
            leave(from_trained(odd), "llmc", tmp_path / "x.bin")
