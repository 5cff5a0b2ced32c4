"""The transformer against Hugging Face's, and its counts against the instantiated model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trainer.architecture.counts import flops_per_token, parameters
from trainer.architecture.model import Transformer, document_mask
from trainer.config import ModelConfig, RunConfig
from trainer.errors import UserError

GPT2 = ModelConfig(depth=2, width=48, heads=3, context=32, vocabulary=101)
LLAMA = ModelConfig(
    depth=2, width=48, heads=6, kv_heads=2, context=32, vocabulary=101,
    positions="rope", norm="rmsnorm", activation="swiglu", bias=False, tied=False,
)  # fmt: skip


def run_of(model: ModelConfig, **more: object) -> RunConfig:
    return RunConfig(model=model, tokens=3200, batch=model.context, **more)  # type: ignore[arg-type]


def shaken(model: Transformer) -> Transformer:
    """Random biases and norms too: at their initial 0 and 1 a mix-up would not show."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model.eval()


def test_equals_gpt2_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    ours = shaken(Transformer(run_of(GPT2)))
    config = transformers.GPT2Config(
        n_layer=2, n_embd=48, n_head=3, n_positions=32, vocab_size=101,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
    )  # fmt: skip
    theirs = transformers.GPT2LMHeadModel(config).eval()
    mine = ours.state_dict()
    names = {
        "norm1": "ln_1", "norm2": "ln_2", "attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj",
        "feed_forward.up": "mlp.c_fc", "feed_forward.down": "mlp.c_proj",
    }  # fmt: skip
    state = {
        "transformer.wte.weight": mine["embedding.weight"],
        "transformer.wpe.weight": mine["positions.weight"],
        "lm_head.weight": mine["embedding.weight"],
        "transformer.ln_f.weight": mine["norm.weight"],
        "transformer.ln_f.bias": mine["norm.bias"],
    }
    for layer in range(2):
        for ours_name, their_name in names.items():
            for kind in ("weight", "bias"):
                value = mine[f"blocks.{layer}.{ours_name}.{kind}"]
                transposed = value.t() if value.dim() == 2 else value  # Conv1D keeps [in, out]
                state[f"transformer.h.{layer}.{their_name}.{kind}"] = transposed
    theirs.load_state_dict(state)
    tokens = torch.randint(101, (2, 32), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


def test_equals_llama_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    ours = shaken(Transformer(run_of(LLAMA)))
    config = transformers.LlamaConfig(
        num_hidden_layers=2, hidden_size=48, num_attention_heads=6, num_key_value_heads=2,
        intermediate_size=LLAMA.hidden, max_position_embeddings=32, vocab_size=101,
        rms_norm_eps=LLAMA.norm_eps, tie_word_embeddings=False,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    mine = ours.state_dict()
    state = {
        "model.embed_tokens.weight": mine["embedding.weight"],
        "model.norm.weight": mine["norm.weight"],
        "lm_head.weight": mine["head.weight"],
    }
    for i in range(2):
        theirs_at, ours_at = f"model.layers.{i}.", f"blocks.{i}."
        q, k, v = mine[ours_at + "attention.qkv.weight"].split([48, 16, 16])
        state |= {
            theirs_at + "self_attn.q_proj.weight": q,
            theirs_at + "self_attn.k_proj.weight": k,
            theirs_at + "self_attn.v_proj.weight": v,
            theirs_at + "self_attn.o_proj.weight": mine[ours_at + "attention.out.weight"],
            theirs_at + "input_layernorm.weight": mine[ours_at + "norm1.weight"],
            theirs_at + "post_attention_layernorm.weight": mine[ours_at + "norm2.weight"],
        }
        for name in ("up", "gate", "down"):
            state[theirs_at + f"mlp.{name}_proj.weight"] = mine[ours_at + f"feed_forward.{name}.weight"]
    theirs.load_state_dict(state)
    tokens = torch.randint(101, (2, 32), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


models = st.builds(
    lambda depth, head, heads, groups, activation, norm, positions, bias, tied, ffn: ModelConfig(
        depth=depth, width=2 * head * heads * groups, heads=heads * groups, kv_heads=heads, context=16,
        vocabulary=37, activation=activation, norm=norm, positions=positions, bias=bias, tied=tied, ffn=ffn,
    ),
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 2),
    st.sampled_from(["gelu", "swiglu"]), st.sampled_from(["layernorm", "rmsnorm"]),
    st.sampled_from(["learned", "rope"]), st.booleans(), st.booleans(), st.sampled_from([None, 24]),
)  # fmt: skip


@given(models)
@settings(max_examples=40, deadline=None)
def test_counts_equal_the_instantiated_model(config: ModelConfig) -> None:
    model = Transformer(run_of(config))
    counted = parameters(config)
    assert counted.total == sum(p.numel() for p in model.parameters())
    outside = [p.numel() for n, p in model.named_parameters() if n.startswith(("embedding", "positions", "head"))]
    assert counted.non_embedding == counted.total - sum(outside)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, config.context, dtype=torch.long))
    assert flops_per_token(config) * config.context == 3 * counter.get_total_flops()


def test_backward_is_twice_the_forward() -> None:
    """The factor 3 of flops_per_token, by torch's own count (the embedding's gradient is no matrix product)."""
    model, tokens = Transformer(run_of(GPT2)), torch.zeros(1, 32, dtype=torch.long)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.loss(tokens, tokens).backward()
    assert counter.get_total_flops() == flops_per_token(GPT2) * 32


def test_gpt2_124m_has_the_published_size() -> None:
    model = ModelConfig(depth=12, width=768, heads=12, context=1024, vocabulary=50257)
    assert parameters(model).total == 124_439_808
    assert parameters(model).non_embedding == 85_056_000


def test_document_mask_separates_documents() -> None:
    """Packed behind another document, a text gets the logits that it gets alone (without position embeddings)."""
    model = shaken(Transformer(run_of(LLAMA)))
    one, two = torch.arange(1, 9)[None], torch.arange(20, 30)[None]
    packed = torch.cat([one, two], dim=1)
    documents = torch.tensor([[0] * 8 + [1] * 10])
    alone = model(two)
    torch.testing.assert_close(model(packed, documents)[:, 8:], alone, atol=1e-5, rtol=1e-4)
    assert (model(packed)[:, 8:] - alone).abs().max() > 1e-3
    assert document_mask(documents)[0, 0, 8:, :8].sum() == 0


def test_same_seed_same_weights_other_seed_other_weights() -> None:
    one, same, other = (Transformer(run_of(GPT2, seed=s)).embedding.weight for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_heads_must_divide_width() -> None:
    with pytest.raises(UserError, match="does not divide model.width=64: choose heads from 1, 2, 4"):
        ModelConfig(depth=1, width=64, heads=3)
