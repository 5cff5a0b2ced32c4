"""One contract over every family and over knobs drawn at random: counts, training, exact resume, exchange, cohorts,
generation. What a part of hpt does not carry it refuses by name."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokens_made import make_data
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trainer.architecture.attention import attention_mask, local_attention
from trainer.architecture.counts import flops_per_token, parameters
from trainer.architecture.loss import linear_cross_entropy
from trainer.architecture.model import KVCache, Transformer, role
from trainer.cohorts.cohort import Cohort
from trainer.cohorts.packing import activation_bytes
from trainer.cohorts.population import not_carried
from trainer.config import DataConfig, ModelConfig, RunConfig, override
from trainer.coordcheck import coordinate_check
from trainer.data import Prepared
from trainer.data.shards import read_shard, write_shard
from trainer.errors import UserError
from trainer.exchange import come, leave
from trainer.exchange.plain import Plain, fold
from trainer.families import FAMILIES
from trainer.generate import generate
from trainer.loop import Training

CPU = torch.device("cpu")
BASE = RunConfig(
    model=ModelConfig(depth=2, width=32, heads=4, context=24, vocabulary=72), data=DataConfig(val_tokens=240),
    tokens=192 * 12, batch=192, lr=3e-3, precision="fp32", micro_batch=3,
)  # fmt: skip
KNOBS = {
    "model.layout": ["af", "fa", "aff", "aaf"], "model.norm_place": ["pre", "post"], "model.parallel": [True, False],
    "model.qk_dim": [4, 12, None], "model.v_dim": [6, None], "model.qkv_bias": [True, False, None],
    "model.qk_norm": [True, False], "model.scaled_attention": [True, False], "model.windows": ["0", "0,8", "5"],
    "model.ffn_layers": [1, 2], "model.embedding_norm": [True, False], "model.head_transform": [True, False],
    "model.head_bias": [True, False], "model.logit_cap": [0, 5], "model.kv_heads": [2, None], "model.ffn": [40, None],
    "model.activation": ["gelu", "swiglu", "gelu_exact", "relu", "geglu"], "model.bias": [True, False],
    "model.positions": ["learned", "rope", "alibi", "none"], "model.norm": ["layernorm", "rmsnorm"],
    "model.tied": [True, False], "parametrisation": ["sp", "mup"], "data.pack": ["stream", "documents"],
    "objective": ["next", "masked"],
}  # fmt: skip


def drawn(seed: int) -> RunConfig:
    """The first draw that does not contradict itself."""
    dice = random.Random(seed)
    while True:
        chosen = {name: dice.choice(values) for name, values in KNOBS.items()}
        chosen["model.causal"] = chosen["objective"] == "next"
        try:
            return override(BASE, [f"{name}={value}" for name, value in chosen.items()])
        except UserError:
            continue


RUNS = {family: override(BASE, [f"family={family}"]) for family in FAMILIES}
RUNS["gptneo"] = override(RUNS["gptneo"], ["model.windows=0,8"])
RUNS |= {f"drawn {seed}": drawn(seed) for seed in range(6)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Documents of 15 tokens or so, some longer than a sequence; small numbers are more common."""
    folder = tmp_path_factory.mktemp("tokens")
    made = make_data(folder)
    for file in (*made.train, *made.val):
        tokens = read_shard(file).astype(np.int64) ** 2 // 64
        lengths = np.random.default_rng(0).choice((6, 15, 40), len(tokens))
        tokens[np.cumsum(lengths)[np.cumsum(lengths) < len(tokens)]] = tokens[0] = 63
        write_shard(file, [tokens], 64)
    return made


def shaken(model: Transformer) -> Transformer:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model.eval()


@given(st.integers(100, 10**6))
@settings(max_examples=20, deadline=None)
def test_counts_equal_the_instantiated_model(seed: int) -> None:
    run = drawn(seed)
    model = Transformer(run)
    assert parameters(run.model).total == sum(p.numel() for p in model.parameters())
    outside = [p.numel() for n, p in model.named_parameters() if n.startswith(("embedding", "positions", "head"))]
    assert parameters(run.model).non_embedding == parameters(run.model).total - sum(outside)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, run.model.context, dtype=torch.long))
    counted = flops_per_token(run.model) * run.model.context  # a whole number a token
    assert abs(counted - 3 * counter.get_total_flops()) < run.model.context
    roles = {role(name, parameter) for name, parameter in model.named_parameters()}
    assert {"embedding", "hidden", "residual"} <= roles


@pytest.mark.parametrize("name", RUNS)
def test_activations_are_what_autograd_keeps(name: str) -> None:
    run = replace(RUNS[name], model=replace(RUNS[name].model, width=64, heads=4, depth=3))
    model, kept = Transformer(run), dict[int, int]()
    ours = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ours and tensor.is_floating_point():
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.zeros(16, run.model.context, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        features = model.features(tokens)
    assert features.requires_grad
    assert 0.8 < activation_bytes(run.model, bf16=False) / (sum(kept.values()) / tokens.numel()) < 1.4


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_any_knobs_trains_resumes_leaves_and_is_fused_or_refused(
    name: str, data: Prepared, tmp_path: Path
) -> None:
    run = RUNS[name]
    whole, part = Training(run, data, CPU), Training(run, data, CPU)
    losses = [float(whole.train_step()[0]) for _ in range(12)]
    before = [float(part.train_step()[0]) for _ in range(5)]
    part.save(tmp_path / "part.safetensors")
    again = Training(run, data, CPU)
    again.load(tmp_path / "part.safetensors")
    assert before + [float(again.train_step()[0]) for _ in range(7)] == losses
    assert again.evaluate() == whole.evaluate() < Training(run, data, CPU).evaluate()

    plain = Plain(run=run, tensors={n: p.detach() for n, p in whole.model.named_parameters()})
    leave(plain, "pt", tmp_path / "model.pt")
    back = come(tmp_path / "model.pt")
    model = Transformer(back.run)
    model.load_state_dict(back.tensors)
    tokens = torch.arange(24)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), whole.model(tokens), atol=2e-5, rtol=1e-4)

    if odd := not_carried(run):
        with pytest.raises(UserError, match="A fused cohort does not carry .*="):
            Cohort([run, run], data, CPU, fused=True)
        assert all("=" in setting for setting in odd)
    else:
        fused = Cohort([run, run], data, CPU, fused=True)
        assert fused.engine.train_step()[0].tolist() == pytest.approx([losses[0]] * 2, rel=1e-5)
    in_turn = Cohort([run, replace(run, lr=1e-3)], data, CPU)
    assert in_turn.engine.train_step()[0].tolist() == [losses[0]] * 2

    if run.model.causal:
        assert len(list(generate(whole.model, [1, 2, 3], max_tokens=30, temperature=0))) == 30
    else:
        with pytest.raises(UserError, match="cannot write from left to right"):
            next(generate(whole.model, [1]))


@pytest.mark.parametrize("name", [name for name, run in RUNS.items() if run.model.causal])
def test_a_cache_gives_what_the_whole_text_gives(name: str) -> None:
    run = RUNS[name]
    model, tokens = shaken(Transformer(run)), torch.arange(40, 60)[None]
    cache = KVCache(run.model, 1, CPU)
    with torch.no_grad():
        steps = [model.features(tokens[:, :9], cache=cache)]
        steps += [model.features(tokens[:, i : i + 1], cache=cache) for i in range(9, 20)]
        torch.testing.assert_close(torch.cat(steps, dim=1), model.features(tokens), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", RUNS)
def test_only_who_may_look_sees(name: str) -> None:
    """A changed token moves the features of those that see it, and no others: causal, windows, documents."""
    run = replace(RUNS[name], model=replace(RUNS[name].model, depth=1))
    model, tokens = shaken(Transformer(run)), torch.arange(24)[None]
    other, documents = tokens.clone(), torch.tensor([[0] * 14 + [1] * 10])
    other[0, 10] = 70
    with torch.no_grad():
        for numbers in (None, documents):
            moved = (model.features(tokens, numbers) - model.features(other, numbers)).abs().amax(-1)[0] > 1e-6
            seen = torch.zeros(24, dtype=torch.bool)
            reach = (run.model.window(0) - 1) * run.model.layout.count("a") + 11 if run.model.window(0) else 24
            if run.model.parallel and run.model.window(0):
                reach = run.model.window(0) + 10
            seen[10 if run.model.causal else 0 : min(reach, 24)] = True
            if numbers is not None:
                seen[14:] = False
            assert torch.equal(moved, seen)


def test_local_attention_by_chunks_is_the_masked_square() -> None:
    model = ModelConfig(depth=1, width=24, heads=3, context=40, vocabulary=8, windows=(8,))
    q, k, v = torch.randn(3, 2, 3, 40, 8, generator=torch.Generator().manual_seed(0), requires_grad=True).unbind()
    assert attention_mask(model, 8, 0, 40, None, CPU) is None
    mask = attention_mask(model, 8, 0, 40, torch.zeros(2, 40, dtype=torch.long), CPU)
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.5)
    ours = local_attention(q, k, v, 8, 0.5)
    torch.testing.assert_close(ours, dense, atol=1e-6, rtol=1e-5)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    for a, b in zip(torch.autograd.grad((ours * weight).sum(), (q, k, v), retain_graph=True),
                    torch.autograd.grad((dense * weight).sum(), (q, k, v)), strict=True):  # fmt: skip
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("cap", "scale"), [(0.0, 1.0), (3.0, 0.7)])
def test_the_loss_with_bias_and_cap_is_what_autograd_says(cap: float, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=generator, requires_grad=True) for shape in ((50, 16), (72, 16), (72,))
    )
    targets = torch.randint(72, (50,), generator=generator)
    logits = scale * (x @ weight.T + bias)
    plain = torch.nn.functional.cross_entropy(cap * torch.tanh(logits / cap) if cap else logits, targets)
    ours = linear_cross_entropy(x, weight, targets, scale, bias, cap)
    torch.testing.assert_close(ours, plain)
    for a, b in zip(torch.autograd.grad(ours * 2, (x, weight, bias)), torch.autograd.grad(plain * 2, (x, weight, bias)),
                    strict=True):  # fmt: skip
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    assert linear_cross_entropy(x[:0], weight, targets[:0], scale, bias, cap) == 0


@pytest.mark.parametrize("seed", range(20, 26))
def test_multipliers_fold_into_weights_whatever_the_knobs(seed: int) -> None:
    run = drawn(seed)
    if not run.model.scaled_attention:
        run = replace(run, model=replace(run.model, scaled_attention=True))
    kind = "mup" if run.model.norm_place == "post" else "completep"
    run = replace(run, parametrisation=kind, base_width=8, base_depth=1)  # type: ignore[arg-type]
    model = shaken(Transformer(run))
    folded = fold(Plain(run=run, tensors={n: p.detach() for n, p in model.named_parameters()}))
    plain, tokens = Transformer(folded.run), torch.arange(24)[None]
    plain.load_state_dict(folded.tensors)
    with torch.no_grad():
        torch.testing.assert_close(plain(tokens), model(tokens), atol=2e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [["family=bert"], ["family=qwen3"], ["model.ffn_layers=2"], ["model.parallel=True", "model.qk_dim=16"]]
)
def test_mup_transfers_over_width_with_the_knobs(changes: list[str]) -> None:
    model = ModelConfig(depth=2, width=64, heads=2, context=32, vocabulary=256)
    run = override(RunConfig(model=model, tokens=3200, batch=32, parametrisation="mup"), changes)
    assert not [m.name for m in coordinate_check(run, widths=(128, 256, 512)) if not m.passes]


def test_models_of_a_family_keep_it_when_they_shrink() -> None:
    for run in RUNS.values():
        small = run.shaped(1, 16, 2)
        assert {**vars(small.model), **dict.fromkeys(("depth", "width", "heads", "ffn", "kv_heads"))} == {
            **vars(run.model), **dict.fromkeys(("depth", "width", "heads", "ffn", "kv_heads"))
        }  # fmt: skip
