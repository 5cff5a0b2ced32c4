"""What the hardware can do and costs: one table, and how to choose from it."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

import torch

from trainer.config import RunConfig


@dataclass(frozen=True)
class Device:
    """Dense bf16 peak as the maker publishes it (without sparsity)."""

    match: str
    """Part of torch.cuda.get_device_name()."""
    peak_tflops: float
    memory_gib: int
    source: str


DEVICES = (
    Device("H200", 989.5, 141, "NVIDIA H200 data sheet, SXM"),
    Device("H100 PCIe", 756, 80, "NVIDIA H100 data sheet, PCIe"),
    Device("H100", 989.5, 80, "NVIDIA H100 data sheet, SXM"),
    Device("A100", 312, 80, "NVIDIA A100 data sheet"),
    Device("A10G", 70, 24, "half of the A10 data sheet's 125 TFLOP/s at AWS's clocks: an assumption"),
    Device("L4", 121, 24, "NVIDIA L4 data sheet, without sparsity"),
    Device("T4", 65, 16, "NVIDIA T4 data sheet, fp16 (no bf16)"),
    Device("4090", 165.2, 24, "NVIDIA Ada whitepaper, fp32 accumulation"),
)


def pick_device(name: str = "auto") -> torch.device:
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu x{torch.get_num_threads()}"


def peak_flops(device: torch.device) -> float | None:
    """bf16 FLOP/s from the table; None when the device is not in it."""
    return peak_of(device_name(device))


def peak_of(name: str) -> float | None:
    """The same by `device_name`, such as a trial records."""
    return next((d.peak_tflops * 1e12 for d in DEVICES if d.match in name), None)


def use_bf16(run: RunConfig, device: torch.device) -> bool:
    """Whether matrix products run in bf16 (autocast; weights, optimiser and loss stay fp32)."""
    if run.precision != "auto":
        return run.precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return cpu_has_amx()


@functools.cache
def cpu_has_amx() -> bool:
    return bool(getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16"))


def usable_cpus() -> int:
    """Cores this process may run on (a container or cgroup may own fewer than the machine has)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
