"""Somebody else's trainers, as small as they can be: what each says is a function of its flags alone."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from typing import Any

HERE = os.path.abspath(__file__)


def loss(lr: float, depth: int, width: int, steps: int, seed: int) -> float:
    """A valley in ln lr whose best lr falls with the width; infinite above it."""
    z = math.log(lr / (3e-3 * (64 / width) ** 0.5))
    if z > 2.5:
        return math.nan
    return 2 + 20 / width + 3 / steps**0.5 + 0.05 * z * z + 0.001 * math.sin(seed + 1e4 * lr)


def train(run: Any, report: Any) -> float:
    """A callable trainer."""
    for step in (run.steps // 2, run.steps):
        report(step, loss=loss(run.lr, run.model.depth, run.model.width, step, run.seed), train_loss=3.0)
    return loss(run.lr, run.model.depth, run.model.width, run.steps, run.seed)


def raises(run: Any, report: Any) -> float:
    raise RuntimeError("no such layer")


def backwards(run: Any, report: Any) -> float:
    report(5, loss=3.0)
    report(4, loss=3.0)
    return 3.0


def returns_a_bool(run: Any, report: Any) -> bool:
    return True


def main(argv: list[str]) -> None:
    given = dict(part.removeprefix("--").split("=", 1) for part in argv)
    how = given.get("how", "well")
    steps = int(given["steps"])
    if how == "crash":
        raise SystemExit(f"crashed at lr {given['lr']}" if len(given) > 3 else 3)
    if how == "forks":  # a worker in a session of its own that does not heed SIGTERM, as torchrun's may
        code = "import signal as s, time; s.signal(s.SIGTERM, s.SIG_IGN); print('up', flush=True); time.sleep(600)"
        worker = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
        assert worker.stdout is not None
        worker.stdout.readline()
        print(f"worker {worker.pid}", flush=True)
        time.sleep(600 if given.get("stay", "1") == "1" else 0)
    if how == "floods":
        for k in range(300_000):
            sys.stdout.write(f"iter {k}: nothing to see\n")
    if how == "silent":
        time.sleep(600)
    every = steps if how != "early" else max(1, steps // 2 + 1)
    for step in range(every, steps + 1, every):
        value = loss(float(given["lr"]), int(given.get("depth", 2)), int(given.get("width", 64)), step,
                     int(given.get("seed", 0)))  # fmt: skip
        shown = {"nan": "-nan", "text": "n/a"}.get(how, f"{value:.4f}")
        print(f"\x1b[32mstep {step}: train loss 3.0, val loss {shown}\x1b[0m", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
