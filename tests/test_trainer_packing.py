"""The memory model against what a forward pass really keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from trainer.cohorts import packing
from trainer.cohorts.fused import make_slabs
from trainer.cohorts.packing import activation_bytes, cohort_bytes, pack_size
from trainer.cohorts.population import PopulationModel
from trainer.config import ModelConfig, RunConfig
from trainer.devices import free_memory, measured_flops, peak_flops, peak_of
from trainer.presets import preset

GPT2 = ModelConfig(depth=3, width=64, heads=4, context=32, vocabulary=64)
LLAMA = replace(GPT2, positions="rope", norm="rmsnorm", activation="swiglu", bias=False, tied=False)
CPU = torch.device("cpu")


@pytest.mark.parametrize("model", [GPT2, LLAMA, replace(LLAMA, kv_heads=2)], ids=["gpt2", "llama", "grouped"])
@pytest.mark.parametrize("members", [1, 3])
def test_activations_are_what_autograd_keeps(model: ModelConfig, members: int) -> None:
    run = RunConfig(model=model, tokens=64, batch=64, precision="fp32")
    kept: dict[int, int] = {}
    weights = {
        name: view.detach().requires_grad_()
        for slab in make_slabs([run] * members, CPU)
        for name, view in slab.views(slab.values).items()
    }
    ours = {weight.untyped_storage().data_ptr() for weight in weights.values()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ours:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.zeros(16, model.context, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        features = PopulationModel(run, CPU).features(weights, tokens)
    assert features.requires_grad
    measured = sum(kept.values()) / (members * tokens.numel())
    assert 0.95 < activation_bytes(model, bf16=False) / measured < 1.25


def test_pack_size_is_the_most_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    run = preset("tiny")
    for fused in (True, False):
        for wanted in (2, 17, 200):
            monkeypatch.setattr(packing, "free_memory", lambda _: cohort_bytes(run, wanted, CPU, fused))  # noqa: B023
            assert pack_size(run, CPU, fused=fused) == wanted
    monkeypatch.setattr(packing, "free_memory", lambda _: 0)
    assert pack_size(run, CPU) == 1
    monkeypatch.setattr(packing, "free_memory", lambda _: 2**60)
    assert pack_size(run, CPU, limit=64) == 64


def test_this_machine_says_what_it_has() -> None:
    assert free_memory(CPU) > 2**28
    for precision in ("fp32", "bf16"):
        run = replace(preset("laptop"), precision=precision)
        assert peak_flops(run, CPU) == measured_flops(precision)
        assert 1e8 < measured_flops(precision) < 1e15


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA L40S", 362.05), ("NVIDIA L40", 181.05), ("NVIDIA L4", 121), ("NVIDIA A10", 125), ("NVIDIA A10G", 70),
        ("NVIDIA B200", 2250), ("NVIDIA GB200", 2500), ("NVIDIA H100 80GB HBM3", 989.5), ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835.5), ("NVIDIA H200", 989.5), ("NVIDIA GH200 480GB", 989.5), ("Tesla T4", 65),
        ("NVIDIA A100-SXM4-80GB", 312), ("Tesla V100-SXM2-16GB", 125), ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)  # fmt: skip
def test_a_device_is_known_by_its_whole_name(name: str, tflops: float) -> None:
    assert peak_of(name) == pytest.approx(tflops * 1e12)


@pytest.mark.parametrize(
    "name", ["NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA T400", "cpu x2", ""]
)
def test_what_only_looks_like_one_is_not_known(name: str) -> None:
    assert peak_of(name) is None
