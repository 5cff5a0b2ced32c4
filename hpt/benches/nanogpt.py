"""Beside a nanoGPT checkout: its model and the settings of its loop, on the same batches from the same weights."""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpt.benches.common import Options, Row, in_time, seconds
from hpt.benches.common import shapes as step_shapes
from trainer.architecture.model import Transformer
from trainer.config import RunConfig
from trainer.data import Batches, Prepared, prepare
from trainer.data.synthetic import random_data
from trainer.errors import UserError
from trainer.loop import Training
from trainer.schedule import multiplier


def measure(options: Options) -> list[Row]:
    theirs, rows = load(options.nanogpt or Path()), list[Row]()
    for name, run in in_time(step_shapes(options), options):
        run = replace(run, schedule="cosine", final_fraction=0.1)
        small = run.model.vocabulary == 4096
        if small:  # real text: then equal losses mean something
            found = compare(theirs, run, prepare(run.data), options)
        else:
            with random_data(run.model.vocabulary, 8 * run.batch + 1) as data:
                found = compare(theirs, run, data, options)
        rows += [{"shape": name, **row} for row in found]
    return rows


def load(checkout: Path) -> ModuleType:
    path = checkout / "model.py"
    if not path.is_file():
        raise UserError(f"{checkout} is no nanoGPT checkout: it has no model.py.")
    spec = importlib.util.spec_from_file_location("nanogpt_model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    return module


def compare(module: ModuleType, run: RunConfig, data: Prepared, options: Options) -> list[Row]:
    """Losses first, both in fp32 from the same weights; then time, each as it would train here."""
    steps = 3 if options.quick else 30
    exact = Training(replace(run, precision="fp32"), data, options.device)
    peer = Peer(module, run, data, options.device, fp32=True)
    copy_weights(peer.model, exact.model)
    ours = [float(exact.train_step()[0]) for _ in range(steps)]
    theirs = [float(peer.step()) for _ in range(steps)]
    differ = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    del exact, peer
    ways: dict[str, Callable[[], Any]] = {
        "nanoGPT": Peer(module, run, data, options.device).step,
        "ours": Training(run, data, options.device).train_step,
    }
    if options.compiled:
        ways["nanoGPT compiled"] = Peer(module, run, data, options.device, compiled=True).step
    taken = seconds(ways, options.repeats, options.device)
    last = {"nanoGPT": theirs[-1], "ours": ours[-1]}
    return [
        {
            "way": name,
            "ms": 1e3 * time,
            "tokens_per_second": run.batch / time,
            "speedup": taken["nanoGPT"] / time,
            "loss": last.get(name),
            "steps": steps,
            "largest_difference": differ,
        }
        for name, time in taken.items()
    ]


class Peer:
    """nanoGPT's model and optimiser, stepped as its train.py does: bf16 autocast on CUDA, fp32 on a CPU."""

    def __init__(
        self,
        module: ModuleType,
        run: RunConfig,
        data: Prepared,
        device: torch.device,
        *,
        fp32: bool = False,
        compiled: bool = False,
    ) -> None:
        model, self.run, self.device, self.count = run.model, run, device, 0
        settings = module.GPTConfig(
            block_size=model.context, vocab_size=model.vocabulary, n_layer=model.depth, n_head=model.heads,
            n_embd=model.width, dropout=0.0, bias=model.bias,
        )  # fmt: skip
        with redirect_stdout(io.StringIO()):  # it counts its parameters aloud
            self.model = module.GPT(settings).to(device)
            self.optimizer = self.model.configure_optimizers(run.weight_decay, run.lr, run.betas, device.type)
        self.forward = torch.compile(self.model) if compiled else self.model
        self.batches = Batches(data.train, model.context, run.seed)
        bf16 = device.type == "cuda" and not fp32
        self.autocast = torch.autocast("cuda", dtype=torch.bfloat16) if bf16 else nullcontext()

    def step(self) -> Tensor:
        run, sequences = self.run, self.run.batch // self.run.model.context
        for group in self.optimizer.param_groups:
            group["lr"] = (run.lr or 0.0) * multiplier(run, self.count)
        total = torch.zeros((), device=self.device)
        passes = -(-run.batch // (16384 if self.device.type == "cuda" else run.batch))  # 12 x 1024 are its default
        for part in np.array_split(self.batches.sequences(self.count * sequences, sequences), passes):
            tokens = torch.from_numpy(part).to(self.device)
            with self.autocast:
                _, loss = self.forward(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
            loss = loss * (len(part) / sequences)
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), run.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.count += 1
        return total


@torch.no_grad()
def copy_weights(theirs: torch.nn.Module, ours: Transformer) -> None:
    """Ours take the weights of theirs."""
    names = {
        "embedding": "wte", "positions": "wpe", "norm": "ln_f", "norm1": "ln_1", "norm2": "ln_2",
        "attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj",
        "feed_forward.up": "mlp.c_fc", "feed_forward.down": "mlp.c_proj",
    }  # fmt: skip
    source = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        module, _, kind = name.rpartition(".")
        block = ""
        if module.startswith("blocks."):
            _, depth, module = module.split(".", 2)
            block = f"h.{depth}."
        parameter.copy_(source[f"transformer.{block}{names[module]}.{kind}"])
