"""Small and elsewhere: ONNX, ONNX in 8 bits, GGUF; each is read back and checked against the model that it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainer.edge import ggufs, onnxs
from trainer.edge.form import Form as Form
from trainer.exchange.plain import Plain


@dataclass(frozen=True)
class Edge:
    write: Callable[[Plain, Path], None]
    read: Callable[[Path], Form]
    """Opened for computing logits."""
    suffix: str
    line: str


EDGES = {
    "onnx": Edge(onnxs.write, onnxs.read, ".onnx", "ONNX in fp32, any length, with the cache that generation needs"),
    "onnx-int8": Edge(onnxs.write_int8, onnxs.read, ".onnx", "the same with weights of 8 bits (onnxruntime, dynamic)"),
    "gguf": Edge(ggufs.writer("Q8_0"), ggufs.read, ".gguf", "GGUF in 8 bits (Q8_0), for llama.cpp"),
    "gguf-q4": Edge(ggufs.writer("Q4_0"), ggufs.read, ".gguf", "GGUF in 4 bits (Q4_0)"),
    "gguf-f32": Edge(ggufs.writer("F32"), ggufs.read, ".gguf", "GGUF in 32 bits"),
}
