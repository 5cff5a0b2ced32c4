"""Devices that are bought and rented: one table of peak, memory and price, and what share of the peak a run reaches."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from trainer.errors import UserError

RUNPOD = "RunPod, its cheaper tier, as reported in March 2026"
AWS_G5 = "AWS g5.xlarge, us-east-1, on demand, June 2026"
AWS_G4 = "AWS g4dn.xlarge, us-east-1, on demand, from memory"


@dataclass(frozen=True)
class Device:
    """Dense bf16 peak as the maker publishes it (without sparsity)."""

    match: str
    """Words that follow each other in torch.cuda.get_device_name()."""
    peak_tflops: float
    memory_gib: int
    source: str
    usd_per_hour: float | None = None
    """What one costs to rent; None: no price was found that is worth a plan."""
    priced: str = ""
    """Whose price, and of when."""

    @property
    def name(self) -> str:
        """As a flag has it: `h100`, `rtx4090`, `h100-pcie`."""
        words = self.match.lower().split()
        return "".join(words) if words[0] == "rtx" else "-".join(words)


DEVICES = (
    Device("B300", 2250, 288, "NVIDIA Blackwell Ultra data sheet, HGX B300: 18 PFLOP/s dense for eight"),
    Device("GB200", 2500, 186, "NVIDIA GB200 NVL72 data sheet: 180 PFLOP/s dense for 72"),
    Device("B200", 2250, 180, "NVIDIA HGX B200 data sheet: 18 PFLOP/s dense for eight", 5.98, RUNPOD),
    Device("GH200", 989.5, 96, "NVIDIA GH200 data sheet, the H100's chip"),
    Device("H200 NVL", 835.5, 141, "NVIDIA H200 data sheet, NVL"),
    Device("H200", 989.5, 141, "NVIDIA H200 data sheet, SXM", 3.59, RUNPOD),
    Device("H100 NVL", 835.5, 94, "NVIDIA H100 data sheet, NVL"),
    Device("H100 PCIe", 756, 80, "NVIDIA H100 data sheet, PCIe", 1.99, RUNPOD),
    Device("H100", 989.5, 80, "NVIDIA H100 data sheet, SXM", 2.69, RUNPOD),
    Device("H800", 989.5, 80, "the H100's chip with slower links"),
    Device("H20", 148, 96, "NVIDIA H20 data sheet as the trade press gives it: not seen at the maker"),
    Device("MI300X", 1307.4, 192, "AMD Instinct MI300X data sheet, without sparsity"),
    Device("A100", 312, 80, "NVIDIA A100 data sheet; there is one of 40 GB as well", 1.39, RUNPOD),
    Device("A800", 312, 80, "the A100's chip with slower links"),
    Device("A10G", 70, 24, "half of the A10 data sheet's 125 TFLOP/s at AWS's clocks: an assumption", 1.006, AWS_G5),
    Device("A10", 125, 24, "NVIDIA A10 data sheet"),
    Device("A30", 165, 24, "NVIDIA A30 data sheet"),
    Device("A40", 149.7, 48, "NVIDIA A40 data sheet, without sparsity"),
    Device("L40S", 362.05, 48, "NVIDIA L40S data sheet, without sparsity", 0.79, RUNPOD),
    Device("L40", 181.05, 48, "NVIDIA L40 data sheet, without sparsity", 0.69, RUNPOD),
    Device("L4", 121, 24, "NVIDIA L4 data sheet, without sparsity", 0.44, RUNPOD),
    Device("T4", 65, 16, "NVIDIA T4 data sheet, fp16 (no bf16)", 0.526, AWS_G4),
    Device("V100", 125, 32, "NVIDIA V100 data sheet, fp16 (no bf16)"),
    Device("RTX A6000", 154.8, 48, "NVIDIA RTX A6000 data sheet, half of its figure with sparsity"),
    Device("RTX 6000 Ada Generation", 364.2, 48, "NVIDIA Ada whitepaper, half of 1457 FP8 with sparsity, halved again"),
    Device("RTX 5090", 209.5, 32, "NVIDIA RTX Blackwell whitepaper, fp32 accumulation", 0.69, RUNPOD),
    Device("RTX 4090", 165.2, 24, "NVIDIA Ada whitepaper, fp32 accumulation", 0.34, RUNPOD),
    Device("RTX 3090", 71, 24, "NVIDIA GA102 whitepaper, fp32 accumulation", 0.22, RUNPOD),
)

MFU = ((1e7, 0.05), (5e7, 0.15), (2.5e8, 0.30), (1e9, 0.38), (float("inf"), 0.42))
"""(parameters below, share of the peak that a training step reaches): assumed from what trainers of such sizes are said
to reach on one GPU, not measured with hpt. Small models leave a large device waiting for memory and for launches."""


def typical_mfu(parameters: float) -> float:
    """For a model of so many parameters, embeddings included."""
    return next(share for below, share in MFU if parameters < below)


def offered(name: str) -> Device:
    """The row of the table that a flag names. UserError, with near names, for one that is not there."""
    wanted = name.lower().replace("_", "-").replace(" ", "-")
    table = {device.name: device for device in DEVICES}
    found = table.get(wanted) or table.get(wanted.replace("-", ""))
    if found is None:
        near = difflib.get_close_matches(wanted, table, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose from cpu, {', '.join(sorted(table))}."
        raise UserError(f"There is no device {name!r} in hpt's table: {hint}")
    return found
