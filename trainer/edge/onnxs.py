"""ONNX: one graph for texts of any length and any number of them; of a causal model the keys and values of what was
read before go in and come out, so that it generates.

Shapes: A attention parts, B texts, P tokens read before, T tokens, K key/value heads, E channels of a head.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.architecture import attention as attention_module
from trainer.architecture.attention import slopes
from trainer.architecture.model import Transformer
from trainer.edge.form import package
from trainer.exchange.plain import Plain, check
from trainer.files import write_atomic


class _Past:
    """Stands for a layer's cache in a graph."""

    def __init__(self, k: Tensor, v: Tensor) -> None:
        self.k, self.v = k, v

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.k, self.v = torch.cat([self.k, k], 2), torch.cat([self.v, v], 2)
        return self.k, self.v


class _Pasts:
    def __init__(self, k: Tensor, v: Tensor) -> None:
        self.layers = [_Past(k[i], v[i]) for i in range(k.shape[0])]


class Causal(nn.Module):
    """(tokens [B, T], past_k and past_v [A, B, K, P, E]) -> logits [B, T, V], and both with T more."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, past_k: Tensor, past_v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        model, config = self.model, self.model.config
        start, time = past_k.shape[3], tokens.shape[1]
        place = torch.arange(time, device=tokens.device) + start
        x = model.embedding(tokens)
        if model.positions is not None:
            x = x + model.positions.weight[place]
        if model.embedding_norm is not None:
            x = model.embedding_norm(x)
        rope = model.rope[:, place] if config.positions == "rope" else None
        cache = _Pasts(past_k, past_v)
        distance = place[:, None] - torch.arange(start + time, device=tokens.device)
        for i, block in enumerate(model.blocks):
            mask = self._mask(distance, config.window(i))
            x = block(x, rope, mask, cache, i * config.layout.count("a"))
        if model.norm is not None:
            x = model.norm(x)
        if model.head_transform is not None:
            x = model.head_transform(x)
        k, v = (torch.stack([getattr(layer, name) for layer in cache.layers]) for name in "kv")
        return model.logits(x), k, v

    def _mask(self, distance: Tensor, window: int) -> Tensor:
        seen = distance >= 0
        if window:
            seen = seen & (distance < window)
        if self.model.config.positions != "alibi":
            return seen[None, None]
        penalty = -slopes(self.model.config.heads)[:, None, None] * distance
        return penalty[None].masked_fill(~seen, -torch.inf)


def _built(plain: Plain) -> Transformer:
    model = Transformer(check(plain, "the model").run)
    for name, parameter in model.named_parameters():
        parameter.data.copy_(plain.tensors[name])
    return model.eval()


def write(plain: Plain, path: Path) -> None:
    onnx = package("onnx")
    package("onnxscript")
    model, config = _built(plain), plain.run.model
    auto, tokens = torch.export.Dim.AUTO, torch.zeros(2, 5, dtype=torch.int64)
    given, names, out = (tokens,), ["tokens"], ["logits"]
    shapes: dict[str, Any] = {"tokens": {0: auto, 1: auto}}
    graph: nn.Module = model
    if config.causal:
        layers = config.depth * config.layout.count("a")
        pasts = [torch.zeros(layers, 2, config.n_kv_heads, 3, size) for size in (config.query_dim, config.value_dim)]
        graph, given, names, out = Causal(model), (tokens, *pasts), [*names, "past_k", "past_v"], [*out, "k", "v"]
        shapes |= {name: {1: auto, 3: auto} for name in ("past_k", "past_v")}
    with _exporting():
        program = torch.onnx.export(
            graph, given, dynamo=True, input_names=names, output_names=out, dynamic_shapes=shapes, verbose=False
        )
    assert program is not None
    about = {"vocabulary": config.vocabulary, "context": config.context, "causal": config.causal, "depth": config.depth}
    about |= {"layers": config.depth * config.layout.count("a"), "kv_heads": config.n_kv_heads}
    about |= {"query_dim": config.query_dim, "value_dim": config.value_dim}
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {"hpt": json.dumps(about)})
    write_atomic(path, proto.SerializeToString())


def write_int8(plain: Plain, path: Path) -> None:
    quantization = package("onnxruntime.quantization")
    with tempfile.TemporaryDirectory() as folder:
        whole, small = Path(folder) / "whole.onnx", Path(folder) / "small.onnx"
        write(plain, whole)
        logging.disable(logging.WARNING)  # it advises a step that its own exporter has made already
        try:
            quantization.quantize_dynamic(str(whole), str(small), weight_type=quantization.QuantType.QInt8)
        finally:
            logging.disable(logging.NOTSET)
        write_atomic(path, small.read_bytes())


@contextmanager
def _exporting() -> Iterator[None]:
    """Without what the exporter tells of itself, and without a branch on the number of tokens that is about speed."""
    before = attention_module.FP32_ATTENTION
    attention_module.FP32_ATTENTION = -1
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            yield
    finally:
        logging.disable(logging.NOTSET)
        attention_module.FP32_ATTENTION = before


class Session:
    """An ONNX file of hpt, run by onnxruntime on this machine's processors."""

    def __init__(self, path: Path) -> None:
        runtime = package("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.about = json.loads(self.session.get_modelmeta().custom_metadata_map["hpt"])

    def _run(self, tokens: np.ndarray, past: list[np.ndarray] | None) -> list[np.ndarray]:
        given = {"tokens": tokens}
        if self.about["causal"]:
            past = past or self._empty(len(tokens))
            given |= {"past_k": past[0], "past_v": past[1]}
        return self.session.run(None, given)

    def _empty(self, batch: int) -> list[np.ndarray]:
        shape = (self.about["layers"], batch, self.about["kv_heads"], 0)
        return [np.zeros((*shape, self.about[size]), np.float32) for size in ("query_dim", "value_dim")]

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        return self._run(tokens, None)[0]

    def decode(self, prompt: np.ndarray, count: int) -> np.ndarray:
        found, fresh, past = list[int](), prompt, None
        for _ in range(count):
            logits, *past = self._run(fresh, past)
            found.append(int(logits[0, -1].argmax()))
            fresh = np.array([[found[-1]]])
        return np.array(found)


def read(path: Path) -> Session:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return Session(path)
