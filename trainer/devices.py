"""What this machine has, and what it can do by the table of devices (trainer.hardware)."""

from __future__ import annotations

import functools
import os
import re
import time
from typing import TYPE_CHECKING

from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.hardware import DEVICES, Device

if TYPE_CHECKING:  # torch takes 1.5 s to import, and whoever asks for --help needs none of it
    import torch

KIN = {"MIG", "Laptop", "D", "Ti", "SUPER", "Max", "Q"}
"""Words of a name that make it another device than the one it is named after."""


def pick_device(name: str = "auto") -> torch.device:
    """auto: CUDA where there is one; else cpu, cuda or cuda:N. UserError for what is not here."""
    import torch

    if name != "auto":
        try:
            device = torch.device(name)
        except (RuntimeError, ValueError):
            raise UserError(f"There is no device {name!r}: choose cpu, cuda or auto.") from None
        if device.type not in ("cpu", "cuda"):
            raise UserError(f"hpt does not train on {name!r}: choose cpu, cuda or auto.")
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise UserError(f"There is no {name} here (GPUs found: {torch.cuda.device_count()}): choose cpu or auto.")
        return device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu x{torch.get_num_threads()}"


def peak_flops(run: RunConfig, device: torch.device) -> float | None:
    """FLOP/s to judge a run's MFU by: bf16 from the table, None when the device is not in it; on a CPU what a matrix
    product reaches in the run's precision."""
    if device.type == "cpu":
        return measured_flops("bf16" if use_bf16(run, device) else "fp32")
    return peak_of(device_name(device))


def peak_speed(run: RunConfig) -> float:
    """FLOP/s that no step of `run` on this machine's device exceeds: `peak_flops`, that of the fastest device in the
    table where this one is not in it."""
    return peak_flops(run, pick_device()) or max(d.peak_tflops for d in DEVICES) * 1e12


def peak_of(name: str) -> float | None:
    """bf16 FLOP/s from the table by `device_name`, such as a trial records; None when it is not there."""
    found = known(name)
    return found and found.peak_tflops * 1e12


def known(name: str) -> Device | None:
    """The row of the table for a name such as "NVIDIA L40S" or "NVIDIA H100 80GB HBM3": whole words, and of several
    rows the one with the most of them, so that an L40S is no L4 and an H100 PCIe no H100 SXM. None for a part of a
    device (MIG) and for kin that is another chip (an RTX 4090 Laptop)."""
    words = re.split(r"[\s-]+", name)  # NVIDIA A100-SXM4-80GB
    if not KIN.isdisjoint(words):
        return None
    fits = [d for d in DEVICES if _within(d.match.split(), words)]
    return max(fits, key=lambda d: len(d.match), default=None)


def _within(part: list[str], words: list[str]) -> bool:
    return any(words[i : i + len(part)] == part for i in range(len(words)))


ENOUGH_SECONDS = 2.0  # of measuring: where bf16 is emulated, one product takes seconds


@functools.cache
def measured_flops(precision: str = "bf16", size: int = 1024, repeats: int = 20) -> float:
    """FLOP/s of square matrix products on this CPU with the threads that torch uses now: the peak that can be had,
    where no maker's figure says it. The best of `repeats`, fewer where they are slow."""
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.ones(size, size, dtype=dtype) for _ in range(2))
    seconds = []
    while len(seconds) < 2 or (len(seconds) <= repeats and sum(seconds) < ENOUGH_SECONDS):
        start = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds[1:])


def free_memory(device: torch.device) -> int:
    """Bytes that may be allocated: what CUDA has free; half of the machine's memory on a CPU."""
    import torch

    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def use_bf16(run: RunConfig, device: torch.device) -> bool:
    """Whether matrix products run in bf16 (autocast; weights, optimiser and loss stay fp32)."""
    import torch

    if run.precision != "auto":
        return run.precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return cpu_has_bf16()


@functools.cache
def cpu_has_bf16() -> bool:
    """Where bf16 products have units of their own they are 2 to 3 times as fast as fp32 (Intel since Sapphire Rapids,
    AMD since Zen 4); elsewhere they are emulated and slower."""
    import torch

    known = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("amx_bf16") or known.get("avx512_bf16"))


def usable_cpus() -> int:
    """Cores this process may run on (a container or cgroup may own fewer than the machine has)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
