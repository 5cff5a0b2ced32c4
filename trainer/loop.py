"""The training loop of one run, as an iterator of reports. Runs without Ray."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from trainer import passes
from trainer.architecture.counts import run_flops
from trainer.checkpoints.file import load_checkpoint, save_checkpoint, step_of
from trainer.config import RunConfig, to_dict
from trainer.data import Batches, Prepared
from trainer.devices import pick_device, use_bf16
from trainer.errors import UserError
from trainer.inputs import make_inputs, masking, model_inputs, train_batches, val_batches
from trainer.optimizer import make_optimizer, set_lr
from trainer.parallel import Parallel, like, whole
from trainer.schedule import decay_start, multiplier, warmup_steps

Status = Literal["running", "finished", "diverged", "stopped"]
CHECK_EVERY = 10  # steps between looks at the losses: each look waits for the device


@dataclass(frozen=True, kw_only=True)
class Report:
    """What training says of itself. The last report of a run has another status than "running"."""

    status: Status
    step: int
    tokens: int
    """Trained so far on this run's schedule, a resumed part included."""
    train_loss: float | None = None
    """Mean since the report before, nats a token."""
    lr: float = 0.0
    grad_norm: float | None = None
    """Before clipping, of the newest step."""
    val_loss: float | None = None
    """Nats a token on the held-out tokens, where this report measured it."""
    bits_per_byte: float | None = None
    seconds: float = 0.0
    """Since training (or resuming) began."""
    flops: float = 0.0
    """Spent since then, evaluations not counted."""
    reason: str = ""
    """Why it diverged or stopped."""
    scores: dict[str, float] = field(default_factory=dict[str, float])
    """On tasks, by TASK/SCORE, where a finished member of a cohort was asked for them."""


class Training:
    """A run in progress: weights, optimiser and position. Data order and weights depend on run.seed alone."""

    def __init__(
        self,
        run: RunConfig,
        data: Prepared,
        device: torch.device | None = None,
        parallel: Parallel | None = None,
    ) -> None:
        if run.lr is None:
            raise UserError("This run has no learning rate: give --lr, or search for one.")
        self.run, self.data, self.peak_lr = run, data, run.lr
        if run.objective == "masked":
            masking(run, data)  # tells at once where there is no mask token
        self.device, self.parallel = device or pick_device(), parallel or Parallel()
        self.model = self.parallel.build(run, self.device)
        self.loss_function = self.parallel.loss_function(self.model)
        self.optimizer = make_optimizer(self.model, run)
        if run.init_from:
            self.restore(load_checkpoint(Path(run.init_from))[0], run.init_from, moments=False)
        self.step = 0
        self.grad_norm: Tensor | None = None
        self.interrupted = ""
        """Why to stop after the step under way, for a signal handler to say."""
        self.saved_trunk: int | None = None
        """Tokens at which `reports` saved a trunk."""
        self.train_batches, self.val_batches = train_batches(run, data), val_batches(run, data)
        self.autocast = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=use_bf16(run, self.device))

    # --- one step -----------------------------------------------------------------------------------------------

    def train_step(self) -> tuple[Tensor, Tensor]:
        """One optimiser step; returns (mean loss, gradient norm) still on the device."""
        run, workers = self.run, self.parallel
        set_lr(self.optimizer, self.peak_lr * multiplier(run, self.step))
        while (total := self._gradients()) is None:
            self.optimizer.zero_grad(set_to_none=True)
        norm = whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), run.clip or math.inf))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return workers.sum(total), norm

    def _gradients(self) -> Tensor | None:
        """Of this step's mean loss, which is returned (this worker's part of it). None: memory ran out, and the passes
        are smaller now."""
        try:
            return self._accumulated()
        except torch.OutOfMemoryError:
            # Of several workers, the others wait in the middle of a step: trainer.final keeps what was learnt.
            if self.parallel.size > 1 or self.micro_batch == 1:
                raise
            passes.learn(self.run, self.device, self.micro_batch // 2)
            return None

    def _accumulated(self) -> Tensor:
        run, workers = self.run, self.parallel
        sequences = run.batch // run.model.context
        total = torch.zeros((), device=self.device)
        parts = workers.passes(sequences, self.micro_batch)
        losses = self._losses(self.train_batches, self.step * sequences, sequences, parts)
        for i in range(len(parts)):
            with workers.accumulate(self.model, last=i + 1 == len(parts)):
                mean, share = next(losses)
                loss = mean * share
                (loss * workers.size).backward()  # workers' gradients are averaged
            total += loss.detach()
        return total

    @property
    def micro_batch(self) -> int:
        """Sequences a forward pass."""
        return passes.sequences(self.run, self.device)

    def _losses(
        self, batches: Batches, first: int, sequences: int, parts: Sequence[range]
    ) -> Iterator[tuple[Tensor, float]]:
        """Of each part of the windows first ... first + sequences - 1: its mean loss, and its share of what is asked
        for in all of them. An empty part reads one window, with share 0."""
        run, data = self.run, self.data
        whole = make_inputs(run, data, batches, first, sequences) if run.ragged else None
        for part in parts:
            size = len(part) or 1
            if whole is None:
                yield self._loss(batches.sequences(first + part.start, size)), len(part) / sequences
                continue
            start = min(part.start, sequences - 1)
            mine = whole.part(slice(start, start + size))
            with self.autocast:
                loss = self.loss_function(*mine.to(self.device))
            yield loss, float(mine.asked.sum() / max(1, whole.asked.sum())) if part else 0.0

    def _loss(self, sequences: np.ndarray) -> Tensor:
        """Mean loss of the next tokens of sequences [B, context + 1]."""
        tokens, targets, documents = model_inputs(self.run, self.data, sequences, self.device)
        with self.autocast:
            return self.loss_function(tokens, targets, documents)

    def evaluate(self) -> float:
        """Mean loss on the run's held-out tokens, nats a token: the same tokens for every run on this data."""
        return self.evaluate_some(self.run.data.val_tokens // self.run.model.context)

    @torch.no_grad()
    def evaluate_some(self, sequences: int) -> float:
        """Mean loss on the first `sequences` held-out sequences."""
        total = torch.zeros((), dtype=torch.float64)
        parts = self.parallel.passes(sequences, self.micro_batch)
        for part, (loss, share) in zip(parts, self._losses(self.val_batches, 0, sequences, parts), strict=True):
            total += loss.item() * (share if self.run.ragged else len(part))
        return self.parallel.sum(total.to(self.device)).item() / (1 if self.run.ragged else sequences)

    # --- checkpoints --------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Weights and moments, whole; every worker must ask for them. There is no other state than these and the
        step: data order is a function of the step, and nothing in training draws random numbers.

        Of a sharded model they come to the first worker's main memory one by one: no device ever holds more than one.
        """
        self.parallel.give_back(self.model)
        held: dict[str, Tensor] = {f"model.{n}": p.detach() for n, p in self.model.named_parameters()}
        for name, parameter in self.model.named_parameters():
            held |= {f"optimizer.{key}.{name}": v for key, v in self.optimizer.state.get(parameter, {}).items()}
        if self.parallel.kind != "fsdp":
            return held
        found = dict[str, Tensor]()
        for name, tensor in held.items():
            gathered = whole(tensor)
            if self.parallel.rank == 0:
                found[name] = gathered.to("cpu", copy=True)
        return found

    def state(self) -> dict[str, Any]:
        return {"step": self.step, "run": to_dict(self.run)}

    def save(self, path: Path) -> None:
        """Everything needed to go on with the same losses as if never interrupted."""
        save_checkpoint(path, self.tensors(), self.state())

    def load(self, path: Path) -> None:
        """Continue from a checkpoint of the same model; schedule and lr are this run's own."""
        tensors, state = load_checkpoint(path)
        step = step_of(state, path)
        self.restore(tensors, str(path))
        self.step = step

    def restore(self, tensors: Mapping[str, Tensor], source: str, moments: bool = True) -> None:
        """Weights, and the optimiser's moments where there are some, from `tensors`; `source` names them in errors."""
        for name, parameter in self.model.named_parameters():
            saved = tensors.get(f"model.{name}")
            if saved is None or saved.shape != parameter.shape:
                shape = "missing" if saved is None else f"of shape {tuple(saved.shape)}"
                raise UserError(f"{source} is of another model: {name} is {shape}, not {tuple(parameter.shape)}.")
            with torch.no_grad():
                parameter.copy_(like(parameter, saved))
            if not moments:
                continue
            found = {
                key: tensors[f"optimizer.{key}.{name}"]
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"optimizer.{key}.{name}" in tensors
            }
            self.optimizer.state[parameter] = {
                key: value.to(self.device) if key == "step" else like(parameter, value) for key, value in found.items()
            }  # type: ignore[assignment]

    # --- the loop -----------------------------------------------------------------------------------------------

    def reports(
        self,
        horizon: int | None = None,
        *,
        evaluate_every: int | None = None,
        trunk: Path | None = None,
        seconds_limit: float = math.inf,
    ) -> Iterator[Report]:
        """Train up to `horizon` tokens (default: the whole schedule), yielding reports; the last tells how it ended.

        evaluate_every: steps between validations, besides the one at the end.
        trunk: save a checkpoint there where the run can be continued to a longer horizon: before wsd's
        cooldown, or at the end.
        """
        run, report = self.run, self._reporter()
        last = run.steps if horizon is None else min(run.steps, run.steps_at(horizon))
        trunk_step = min(decay_start(run), last)
        losses: list[Tensor] = []
        while True:
            if trunk and self.step == trunk_step:
                self.save(trunk)
                self.saved_trunk = self.step * run.batch
            if self.step >= last:
                break
            loss, self.grad_norm = self.train_step()
            losses.append(loss)
            evaluating = evaluate_every is not None and self.step % evaluate_every == 0 and self.step < last
            alone = self.interrupted and self.parallel.size == 1  # of several, all must stop at the same step
            if self.step % CHECK_EVERY and self.step < last and not evaluating and not alone:
                continue
            values = torch.stack(losses).tolist()
            losses.clear()
            if reason := divergence(run, values, warm=self.step > warmup_steps(run)):
                yield report("diverged", reason=reason)
                return
            now = report("running", train_loss=sum(values) / len(values))
            if evaluating:  # also where it stops now: resumed, it would not be measured again
                now = replace(now, val_loss=self.evaluate())
            if self.step < last and self.parallel.agree(bool(self.interrupted), self.device):
                yield replace(now, status="stopped", reason=self.interrupted or "another worker was asked to stop")
                return
            if seconds_limit < math.inf and self.parallel.agree(now.seconds > seconds_limit, self.device):
                yield replace(now, status="stopped", reason=f"its hard stop of {seconds_limit:.0f} s was reached")
                return
            yield now
        val_loss = self.evaluate()
        if reason := divergence(run, [val_loss], warm=True):
            yield report("diverged", reason=reason)
            return
        bits = None  # of a masked model the loss is of some tokens, given all others: no code for the text
        if run.objective == "next" and not math.isnan(self.data.bytes_per_token):
            bits = val_loss / math.log(2) / self.data.bytes_per_token
        yield report("finished", val_loss=val_loss, bits_per_byte=bits)

    def _reporter(self) -> Callable[..., Report]:
        """Makes reports that count time and FLOPs from now on."""
        run, began, first = self.run, time.perf_counter(), self.step

        def report(status: Status, **more: Any) -> Report:
            return Report(
                status=status,
                step=self.step,
                tokens=self.step * run.batch,
                lr=self.peak_lr * multiplier(run, max(0, self.step - 1)),
                grad_norm=None if self.grad_norm is None else float(self.grad_norm),
                seconds=time.perf_counter() - began,
                flops=run_flops(run, (self.step - first) * run.batch),
                **more,
            )

        return report


def divergence(run: RunConfig, losses: list[float], warm: bool) -> str:
    """Why these losses mean divergence; empty when they do not. A spike of one step that is made good within the
    next few is none, so their mean counts; before warmup is over only what is not finite does."""
    if not all(map(math.isfinite, losses)):
        return "the loss is not finite"
    cap = run.loss_cap or 1.5 * math.log(run.model.vocabulary)
    mean = sum(losses) / len(losses)
    return f"a loss of {mean:.2f} is above the cap of {cap:.2f} nats" if warm and mean > cap else ""


def train(
    run: RunConfig,
    data: Prepared,
    *,
    resume: Path | None = None,
    device: torch.device | None = None,
) -> Iterator[Report]:
    """Train `run` to the end of its schedule, from its start or from a checkpoint."""
    training = Training(run, data, device)
    if resume is not None:
        training.load(resume)
    yield from training.reports()
