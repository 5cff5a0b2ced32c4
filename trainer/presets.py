"""Named runs: each a function that returns a RunConfig. Add one by writing it and naming it in PRESETS."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from trainer.config import DataConfig, ModelConfig, RunConfig, override
from trainer.errors import UserError
from trainer.targets import read_target

GPT2_BATCH = 524_288  # 2^19 tokens, as in llm.c's and nanoGPT's reproductions


GPT2_STEPS, GPT2_WARMUP = 4725, 470  # 2.48B tokens


def gpt2(depth: int, width: int, heads: int, tokens: int = GPT2_STEPS * GPT2_BATCH) -> RunConfig:
    """llm.c's GPT-2 recipe: 2^19 tokens a step, 10 % warmup, cosine to 0, weight decay 0.1 (llm.c discussion 481)."""
    model = ModelConfig(depth=depth, width=width, heads=heads, context=1024, vocabulary=50304)
    data = DataConfig(corpus="fineweb10b", tokenizer="gpt2", val_tokens=1_048_576)
    warmup = tokens * GPT2_WARMUP // GPT2_STEPS
    return RunConfig(model=model, data=data, tokens=tokens, batch=GPT2_BATCH, warmup=warmup)


def llama(depth: int, width: int, heads: int, kv_heads: int | None = None, tokens: int | None = None) -> RunConfig:
    """LLaMA's block at any size; tokens default to 20 a parameter of the blocks."""
    model = ModelConfig(
        depth=depth, width=width, heads=heads, kv_heads=kv_heads, context=1024, vocabulary=50304,
        positions="rope", norm="rmsnorm", activation="swiglu", bias=False, tied=False,
    )  # fmt: skip
    tokens = tokens or 20 * 12 * depth * width**2
    data = DataConfig(corpus="fineweb10b", tokenizer="gpt2", val_tokens=1_048_576)
    return RunConfig(model=model, data=data, tokens=tokens, batch=GPT2_BATCH, warmup=tokens // 50)


def nine_million(family: str) -> RunConfig:
    """The tiny-transformers course's "9M" (of which 8.4M in blocks) on TinyStories (arXiv 2305.07759): a story a
    sequence, 256 of them a step, about one epoch of 2.1 million stories. Of 10,000 ids one is the mask's where there is
    one, so the tokenizer has 9,999 for all."""
    model = ModelConfig(depth=4, width=512, heads=8, ffn=1024, context=512, vocabulary=10_000)
    data = DataConfig(corpus="tinystories", tokenizer="bpe:9999", val_tokens=524_288, pack="documents")
    tokens = 8_200 * 131_072
    run = RunConfig(model=model, data=data, tokens=tokens, batch=131_072, warmup=tokens // 50)
    return override(run, [f"family={family}"])


def laptop() -> RunConfig:
    """A GPT of 0.37M parameters on the running interpreter's standard library: minutes on two cores."""
    model = ModelConfig(depth=2, width=64, heads=2, context=128, vocabulary=4096)
    tokens = 2_457_600  # 600 steps
    return RunConfig(
        model=model, data=DataConfig(), tokens=tokens, batch=4096, warmup=tokens // 20, schedule="wsd"
    )  # fmt: skip


PRESETS: dict[str, Callable[[], RunConfig]] = {
    "laptop": laptop,
    "gptneo-9m": lambda: nine_million("gptneo"),
    "bert-9m": lambda: nine_million("bert"),
    "roberta-9m": lambda: nine_million("roberta"),
    "tiniest": lambda: gpt2(1, 64, 1),
    "tinier": lambda: gpt2(2, 128, 2),
    "tiny": lambda: gpt2(3, 192, 3),
    "gpt2-124m": lambda: gpt2(12, 768, 12),
    "gpt2-355m": lambda: gpt2(24, 1024, 16),
    "gpt2-774m": lambda: gpt2(36, 1280, 20),
    "gpt2-1.5b": lambda: gpt2(48, 1600, 25),
    "llama-60m": lambda: llama(8, 512, 8),
    "llama-130m": lambda: llama(12, 768, 12),
    "llama-1b": lambda: llama(24, 2048, 32, 8),
    "llama-7b": lambda: replace(llama(32, 4096, 32), tokens=140_000_000_000),
}


def preset(name: str) -> RunConfig:
    """The run called so, or the one that a .toml file describes."""
    if name.endswith(".toml"):
        return read_target(Path(name), preset)
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(PRESETS)}."
        raise UserError(f"There is no target called {name!r}: {hint}")
    return PRESETS[name]()
