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

    x [n, C], weight [V, C], targets [n] int64. Products run in the autocast dtype, sums in fp32. Gradients of x and
    weight are computed in the forward pass, while a chunk's logits are at hand, so there is no second derivative.
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    return _LinearCrossEntropy.apply(x, weight, targets, scale)  # type: ignore[no-any-return]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, scale: float) -> Tensor:
        differentiate = any(ctx.needs_input_grad)
        rows, vocabulary = x.shape[0], weight.shape[0]
        chunk = max(1, CHUNK_BYTES.get(x.device.type, 2**28) // (4 * vocabulary))
        total = torch.zeros((), device=x.device)
        grad_x = torch.empty_like(x) if differentiate else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if differentiate else None
        with torch.autocast(x.device.type, enabled=False):
            for start in range(0, rows, chunk):
                part, wanted = x[start : start + chunk], targets[start : start + chunk, None]
                logits = (part @ weight.t()).float()
                if scale != 1.0:
                    logits *= scale
                logits -= logits.amax(dim=1, keepdim=True)
                total -= logits.gather(1, wanted).sum()
                normaliser = logits.exp_().sum(dim=1, keepdim=True)
                total += normaliser.log().sum()
                if grad_x is None or grad_weight is None:
                    continue
                logits /= normaliser  # now probabilities
                logits.scatter_add_(1, wanted, logits.new_full((1, 1), -1.0).expand_as(wanted))
                logits *= scale / rows
                gradient = logits.to(x.dtype)
                torch.mm(gradient, weight, out=grad_x[start : start + chunk])
                grad_weight += gradient.t() @ part
        ctx.save_for_backward(grad_x, grad_weight)
        ctx.dtype = weight.dtype
        return total / rows

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_x, grad_weight = ctx.saved_tensors
        return (
            grad_x * grads[0].to(grad_x.dtype),
            (grad_weight * grads[0]).to(ctx.dtype),
            None,
            None,
        )
