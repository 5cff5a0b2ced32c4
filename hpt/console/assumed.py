"""A plan for a device that is not here: what its steps are assumed to take, from the table of devices. No data, no
network, no Ray; a search on the device itself times its steps and needs none of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from search.budget import Timing, shape_key
from trainer.architecture.counts import evaluation_flops, flops_per_token, parameters
from trainer.cohorts.memory import STATE_BYTES
from trainer.cohorts.packing import activation_bytes
from trainer.config import RunConfig
from trainer.devices import free_memory, measured_flops, pick_device
from trainer.hardware import Device, offered, typical_mfu

STARTUP_SECONDS = 5.0
"""Of a trial in a warm process: building the model, and a first step that compiles kernels. Assumed."""
LAUNCH_SECONDS = 20.0
"""Of a worker process: its imports, CUDA's context, what is cold. Assumed."""


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """A device by its name: h100 ..., or cpu (this machine's)."""

    device: Device
    usd_per_hour: float = 0.0
    """0: the table's."""
    mfu: float | None = None
    """None: typical of the size."""

    @staticmethod
    def of(name: str, usd_per_hour: float = 0.0, mfu: float | None = None) -> Assumed:
        if name == "cpu":
            cpu = pick_device("cpu")
            peak, memory = measured_flops("fp32") / 1e12, 2 * free_memory(cpu) // 2**30
            device = Device("this machine's cpu", peak, memory, "measured: a matrix product in fp32", 0.0)
        else:
            device = offered(name)
        return Assumed(device=device, usd_per_hour=usd_per_hour, mfu=mfu)

    @property
    def price(self) -> float:
        return self.usd_per_hour or self.device.usd_per_hour or 0.0

    @property
    def listed(self) -> bool:
        """Whether the price is the table's."""
        return self.price == (self.device.usd_per_hour or 0.0)

    def share(self, run: RunConfig) -> float:
        return self.mfu or typical_mfu(parameters(run.model).total)

    def step_seconds(self, run: RunConfig) -> float:
        return flops_per_token(run.model) * run.batch / self._speed(run)

    def _speed(self, run: RunConfig) -> float:
        return self.device.peak_tflops * 1e12 * self.share(run)

    def timings(self, runs: Iterable[RunConfig]) -> dict[str, Timing]:
        """By `shape_key`, as if these runs had been timed."""
        return {
            shape_key(run): Timing(
                step_seconds=self.step_seconds(run),
                eval_seconds=evaluation_flops(run) / self._speed(run),
                startup_seconds=STARTUP_SECONDS,
            )
            for run in runs
        }

    def memory_gib(self, run: RunConfig) -> float:
        """Of training one sequence a pass on one device."""
        state = STATE_BYTES * parameters(run.model).total
        return (state + activation_bytes(run.model, True) * run.model.context) / 2**30

    def sentences(self, run: RunConfig) -> list[str]:
        """What the plan rests on, and what speaks against it."""
        d = self.device
        price = f"${self.price:g} an hour" if self.price else "no price"
        whose = d.priced if self.listed else "given"
        share = f"{self.share(run):.0%} of {d.peak_tflops:g} TFLOP/s"
        rests = "given" if self.mfu else "typical of its size"
        found = [
            f"assumed of one {d.match} ({d.memory_gib} GiB): {share} for the target ({rests}), {price}"
            + (f" ({whose})" if whose else "")
            + "; a search there times 20 steps instead"
        ]
        if (need := self.memory_gib(run)) > d.memory_gib:
            found.append(
                f"the target needs about {need:.0f} GiB even with one sequence a pass: more than one {d.match}"
            )
        return found

    def to_json(self, run: RunConfig) -> dict[str, object]:
        return {
            "device": self.device.match,
            "peak_tflops": self.device.peak_tflops,
            "memory_gib": self.device.memory_gib,
            "mfu": self.share(run),
            "usd_per_hour": self.price,
            "priced": self.device.priced if self.listed else "given",
            "target_memory_gib": self.memory_gib(run),
        }
