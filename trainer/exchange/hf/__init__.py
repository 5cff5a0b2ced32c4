"""Models of `transformers`: one file a kind, one table. What each of them cannot say is refused, not approximated."""

from __future__ import annotations

from trainer.exchange.hf import bert, gpt2, gptneo, llama
from trainer.exchange.hf.kind import Kind as Kind

KINDS: dict[str, Kind] = {
    "gpt2": gpt2.KIND, "llama": llama.KIND, "qwen3": llama.QWEN3, "gpt_neo": gptneo.KIND, "bert": bert.KIND,
    "roberta": bert.ROBERTA,
}  # fmt: skip
"""By the model_type of config.json; a model leaves as the first that it fits."""
