"""llm.c's model_%08d.bin: 256 int32 of header, then the tensors of GPT-2, each stacked over the layers.

Header: magic 20240326, version (3 fp32, 5 bf16), context, vocabulary, layers, heads, channels, padded vocabulary
(karpathy/llm.c, train_gpt2.py and train_gpt2.cu). llm.c's softmax passes over the rows that pad the embedding; ours
does not, so they stay behind on import: with logits of 0 they would take most of GPT-2's probability.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainer.config import DataConfig, ModelConfig, RunConfig
from trainer.errors import UserError
from trainer.exchange.plain import UNKNOWN, Plain
from trainer.files import write_atomic

MAGIC = 20240326
VERSIONS = {3: torch.float32, 5: torch.bfloat16}
LAYER = (
    "norm1.weight", "norm1.bias", "attention.qkv.weight", "attention.qkv.bias", "attention.out.weight",
    "attention.out.bias", "norm2.weight", "norm2.bias", "feed_forward.up.weight", "feed_forward.up.bias",
    "feed_forward.down.weight", "feed_forward.down.bias",
)  # fmt: skip


def found(path: Path) -> bool:
    if not path.is_file() or path.suffix != ".bin":
        return False
    with path.open("rb") as file:
        return int.from_bytes(file.read(4), "little") == MAGIC


def write(plain: Plain, path: Path, version: int = 3) -> None:
    model, tensors = plain.run.model, plain.tensors
    sizes = ("depth", "width", "heads", "kv_heads", "ffn", "context", "vocabulary", "norm_eps", "rope_base")
    gpt2 = ModelConfig(**{name: getattr(model, name) for name in sizes})
    if (
        replace(model, qkv_bias=None, qk_dim=None, v_dim=None) != gpt2
        or model.hidden != 4 * model.width
        or ((model.query_dim, model.value_dim, model.has_qkv_bias) != (model.head_dim, model.head_dim, True))
    ):
        raise UserError("llm.c knows GPT-2 only (learned positions, biases, tied embedding): use --to hf or --to pt.")
    if model.n_kv_heads != model.heads:
        raise UserError("llm.c has no grouped key/value heads: use --to pt.")
    used = plain.encoding.n_vocab if plain.encoding else model.vocabulary
    padded = -(-model.vocabulary // 128) * 128
    header = np.zeros(256, "<i4")
    header[:8] = MAGIC, version, model.context, used, model.depth, model.heads, model.width, padded
    embedding = torch.zeros(padded, model.width)
    embedding[: model.vocabulary] = tensors["embedding.weight"]
    parts = [embedding, tensors["positions.weight"]]
    parts += [torch.stack([tensors[f"blocks.{i}.{name}"] for i in range(model.depth)]) for name in LAYER]
    parts += [tensors["norm.weight"], tensors["norm.bias"]]
    write_atomic(path, header.tobytes() + b"".join(_bytes(part, VERSIONS[version]) for part in parts))


def write_bf16(plain: Plain, path: Path) -> None:
    write(plain, path, version=5)


def _bytes(tensor: Tensor, dtype: torch.dtype) -> bytes:
    return tensor.to(dtype).contiguous().view(torch.uint8).numpy().tobytes()


def read(path: Path) -> Plain:
    header = np.fromfile(path, "<i4", 256)
    if len(header) < 256:
        raise UserError(f"{path} is cut short: it ends within its header.")
    version, context, used, depth, heads, width, padded = map(int, header[1:8])
    if version not in VERSIONS:
        raise UserError(f"{path} is of version {version}: hpt reads llm.c's 3 (fp32) and 5 (bf16).")
    if not 0 < used <= padded:
        raise UserError(f"{path} is damaged: its header has {used:,} tokens in an embedding of {padded:,} rows.")
    shapes = _shapes(ModelConfig(depth=depth, width=width, heads=heads, context=context, vocabulary=padded))
    size = 2 if version == 5 else 4
    promised, held = sum(math.prod(shape) for _, shape in shapes), (path.stat().st_size - 1024) / size
    if promised != held:
        raise UserError(
            f"{path} is cut short or damaged: it holds {held:,.0f} numbers and its header says {promised:,}."
        )
    tensors = dict[str, Tensor]()
    with path.open("rb") as file:
        file.seek(1024)
        for name, shape in shapes:
            numbers = np.fromfile(file, f"<i{size}", math.prod(shape))
            part = torch.from_numpy(numbers).view(VERSIONS[version]).float().view(shape)
            tensors |= {name.format(i): part[i] for i in range(depth)} if "{}" in name else {name: part}
    tensors["embedding.weight"] = tensors["embedding.weight"][:used]
    step = path.stem.rpartition("_")[2]
    model = ModelConfig(depth=depth, width=width, heads=heads, context=context, vocabulary=used)
    data = DataConfig(tokenizer="gpt2" if used == 50257 else UNKNOWN)
    run = RunConfig(model=model, data=data, tokens=context, batch=context, lr=1e-4)
    return Plain(run=run, tensors=tensors, step=int(step) if step.isdigit() else 0)


def _shapes(model: ModelConfig) -> list[tuple[str, tuple[int, ...]]]:
    c, depth = model.width, model.depth
    sizes = ((c,), (c,), (3 * c, c), (3 * c,), (c, c), (c,), (c,), (c,), (4 * c, c), (4 * c,), (c, 4 * c), (c,))
    layers = [(f"blocks.{{}}.{name}", (depth, *size)) for name, size in zip(LAYER, sizes, strict=True)]
    first = [("embedding.weight", (model.vocabulary, c)), ("positions.weight", (model.context, c))]
    return [*first, *layers, ("norm.weight", (c,)), ("norm.bias", (c,))]
