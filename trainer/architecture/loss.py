"""Linear head and cross-entropy in one, by chunks: the logits of a whole batch never exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = {
    "cpu": 2 * 2**20,
    "cuda": 512 * 2**20,
}  # of fp32 logits: what stays in cache, or keeps a GPU busy


def linear_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, scale: float = 1.0, bias: Tensor | None = None, cap: float = 0.0
) -> Tensor:
    """Mean of -log softmax(f(scale * (x @ weight.T + bias)))[target], nats; f is cap * tanh(. / cap), with 0 nothing.

    x [n, C], weight [V, C], targets [n] int64, bias [V] -> a scalar; or of P models on the same targets, x [P, n, C],
    weight [P, V, C], without bias -> [P]. Products run in the autocast dtype, sums in fp32. Gradients are computed in
    the forward pass, while a chunk's logits are at hand, so there is no second derivative.
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    # Asked here: inside, autograd is off, and ctx.needs_input_grad is True under no_grad as well.
    differentiate = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    one = x.dim() == 2
    stacked = (x[None], weight[None]) if one else (x, weight)
    loss: Tensor = _LinearCrossEntropy.apply(*stacked, targets, scale, differentiate, bias, cap)  # type: ignore[assignment]
    return loss[0] if one else loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        targets: Tensor,
        scale: float,
        differentiate: bool,
        bias: Tensor | None,
        cap: float,
    ) -> Tensor:
        members, rows, _ = x.shape
        height = max(1, CHUNK_BYTES.get(x.device.type, 2**28) // (4 * weight.shape[1]))  # rows of logits at a time
        together = min(
            members, max(1, height // max(1, rows))
        )  # whole members first: taller products, fewer sums of them
        total = torch.zeros(members, device=x.device)
        grad_x = torch.empty_like(x) if differentiate else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if differentiate else None
        grad_bias = torch.zeros_like(bias) if differentiate and bias is not None else None
        softmax = _softmax_cuda if x.is_cuda else _softmax_cpu
        with torch.autocast(x.device.type, enabled=False):
            for first in range(0, members, together):
                some = slice(first, first + together) if together > 1 else first  # a batch of one is slower on a CPU
                w = weight[some]
                for start in range(0, rows, height):
                    part, wanted = x[some, start : start + height], targets[start : start + height, None]
                    wanted = wanted.expand(*part.shape[:-1], 1)
                    logits = part @ w.mT
                    if bias is not None:
                        logits = logits + bias.to(logits.dtype)
                    if cap:
                        loss, gradient = _capped(softmax, logits, wanted, scale, cap, differentiate)
                    else:
                        loss, gradient = softmax(logits, wanted, scale, differentiate)
                    total[some] += loss
                    if gradient is None or grad_x is None or grad_weight is None:
                        continue
                    torch.matmul(gradient, w, out=grad_x[some, start : start + height])
                    grad_weight[some] += gradient.mT @ part
                    if grad_bias is not None:
                        grad_bias += gradient.float().flatten(0, -2).sum(0)
        ctx.save_for_backward(grad_x, grad_weight, grad_bias)
        rows = max(rows, 1)  # of no rows the loss is 0
        ctx.factor, ctx.dtype = scale / rows, weight.dtype
        return total / rows

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_weight, grad_bias = ctx.saved_tensors
        factor = (grads[0] * ctx.factor)[:, None, None]
        of_bias = None if grad_bias is None else grad_bias * factor[0, 0, 0]
        of_both = grad_x * factor.to(grad_x.dtype), (grad_weight * factor).to(ctx.dtype)
        return *of_both, None, None, None, of_bias, None


def _capped(
    softmax: Callable[..., tuple[Tensor, Tensor | None]],
    logits: Tensor,
    wanted: Tensor,
    scale: float,
    cap: float,
    differentiate: bool,
) -> tuple[Tensor, Tensor | None]:
    """The softmax of logits that are bent to stay within +-cap, and its gradient in the logits as they were."""
    bent = torch.tanh(logits.float() * (scale / cap))
    loss, gradient = softmax(cap * bent, wanted, 1.0, differentiate)
    return loss, None if gradient is None else (gradient * (1 - bent * bent)).to(logits.dtype)


def _softmax_cpu(logits: Tensor, wanted: Tensor, scale: float, differentiate: bool) -> tuple[Tensor, Tensor | None]:
    """Sum over rows of -log p[wanted], and p minus one at `wanted` in the dtype of the logits [..., n, V]
    where it is wanted.

    In place: a second buffer of fp32 logits would not fit the cache beside the first.
    """
    work = logits.float()
    if scale != 1.0:
        work = work * scale
    work -= work.amax(dim=-1, keepdim=True)
    loss = -work.gather(-1, wanted).sum((-2, -1))
    normaliser = work.exp_().sum(dim=-1, keepdim=True)
    loss += normaliser.log().sum((-2, -1))
    if not differentiate:
        return loss, None
    work /= normaliser
    work.scatter_add_(-1, wanted, work.new_full((1,), -1.0).expand_as(wanted))
    return loss, work.to(logits.dtype)


def _softmax_cuda(logits: Tensor, wanted: Tensor, scale: float, differentiate: bool) -> tuple[Tensor, Tensor | None]:
    """The same in two passes over memory (14 bytes a bf16 logit against 50), which is what bounds a GPU here.

    p - 1 is taken from the logarithm, since p itself is rounded to bf16.
    """
    scaled = logits if scale == 1.0 else logits.float() * scale
    log_p = torch.log_softmax(scaled, -1, dtype=torch.float32)
    log_p_wanted = log_p.gather(-1, wanted)
    loss = -log_p_wanted.sum((-2, -1))
    if not differentiate:
        return loss, None
    gradient = torch.exp(log_p, out=torch.empty_like(logits))
    gradient.scatter_(-1, wanted, log_p_wanted.expm1().to(gradient.dtype))
    return loss, gradient
