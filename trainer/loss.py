"""Linear head and cross-entropy in one, by chunks: the logits of a whole batch never exist."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = {
    "cpu": 2 * 2**20,
    "cuda": 512 * 2**20,
}  # of fp32 logits: what stays in cache, or keeps a GPU busy


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, scale: float = 1.0) -> Tensor:
    """Mean of -log softmax(scale * x @ weight.T)[target], nats.

    x [n, C], weight [V, C], targets [n] int64 -> a scalar; or of P models on the same targets, x [P, n, C], weight
    [P, V, C] -> [P]. Products run in the autocast dtype, sums in fp32. Gradients of x and weight are computed in the
    forward pass, while a chunk's logits are at hand, so there is no second derivative.
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    if x.dim() == 2:
        return _LinearCrossEntropy.apply(x[None], weight[None], targets, scale)[0]  # type: ignore[no-any-return]
    return _LinearCrossEntropy.apply(x, weight, targets, scale)  # type: ignore[no-any-return]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, scale: float) -> Tensor:
        differentiate = any(ctx.needs_input_grad)
        members, rows, _ = x.shape
        height = max(1, CHUNK_BYTES.get(x.device.type, 2**28) // (4 * weight.shape[1]))  # rows of logits at a time
        together = min(members, max(1, height // rows))  # whole members first: taller products, fewer sums of them
        total = torch.zeros(members, device=x.device)
        grad_x = torch.empty_like(x) if differentiate else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if differentiate else None
        with torch.autocast(x.device.type, enabled=False):
            for first in range(0, members, together):
                some = slice(first, first + together) if together > 1 else first  # a batch of one is slower on a CPU
                w = weight[some]
                for start in range(0, rows, height):
                    part, wanted = x[some, start : start + height], targets[start : start + height, None]
                    log_p = _log_softmax(part @ w.mT, scale)
                    wanted = wanted.expand(*part.shape[:-1], 1)
                    log_p_wanted = log_p.gather(-1, wanted)
                    total[some] -= log_p_wanted.sum((-2, -1))
                    if grad_x is None or grad_weight is None:
                        continue
                    gradient = log_p.exp_().to(x.dtype)
                    gradient.scatter_(-1, wanted, log_p_wanted.expm1_().to(x.dtype))
                    torch.matmul(gradient, w, out=grad_x[some, start : start + height])
                    grad_weight[some] += gradient.mT @ part
        ctx.save_for_backward(grad_x, grad_weight)
        ctx.factor, ctx.dtype = scale / rows, weight.dtype
        return total / rows

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_x, grad_weight = ctx.saved_tensors
        factor = (grads[0] * ctx.factor)[:, None, None]
        return grad_x * factor.to(grad_x.dtype), (grad_weight * factor).to(ctx.dtype), None, None


def _log_softmax(logits: Tensor, scale: float) -> Tensor:
    """In fp32. CUDA converts inside the kernel; on a CPU that is four times slower than converting first."""
    if scale != 1.0 or logits.device.type == "cpu":
        logits = logits.float() * scale if scale != 1.0 else logits.float()
    return torch.log_softmax(logits, -1, dtype=torch.float32)
