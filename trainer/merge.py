"""Branch-Train-Merge (arXiv 2208.03306): experts grown from one seed, averaged into one model or mixed at inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from trainer.architecture.model import Transformer
from trainer.checkpoints.trained import Trained
from trainer.config import DataConfig
from trainer.data import Batches, prepare
from trainer.errors import UserError

BATCH = 8  # sequences a pass: all experts' log-probabilities of them are held at once


def check_alike(experts: Sequence[Trained]) -> None:
    """UserError unless all have the same shape and tokenizer."""
    first = experts[0]
    for other in experts[1:]:
        if other.run.model != first.run.model or other.run.parametrisation != first.run.parametrisation:
            raise UserError(
                f"{other.path} is of another model than {first.path}: only models of one shape can be merged."
            )
        if other.encoding.n_vocab != first.encoding.n_vocab:
            raise UserError(
                f"{other.path} has another tokenizer than {first.path}: train the experts from one seed run."
            )


def kinship(experts: Sequence[Trained]) -> float:
    """Least cosine of the first expert's matrices with another's: near 0 where they share no seed checkpoint."""
    flat = [torch.cat([p.detach().flatten() for p in e.model.parameters() if p.dim() > 1]).float() for e in experts]
    return min(float(torch.cosine_similarity(flat[0], other, dim=0)) for other in flat[1:])


def average(experts: Sequence[dict[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """Weighted mean of tensors by name; the weights are normalised."""
    total = sum(weights)
    return {
        name: torch.stack([e[name].float() * (w / total) for e, w in zip(experts, weights, strict=True)]).sum(0)
        for name in experts[0]
    }


def greedy_soup(
    experts: Sequence[dict[str, Tensor]],
    loss: Callable[[dict[str, Tensor]], float],
) -> tuple[dict[str, Tensor], list[int]]:
    """Model soups' greedy recipe (arXiv 2203.05482): from the best on, take in whoever does not raise the loss.

    Returns the soup and the experts in it; it is never worse than the best of them on what `loss` measures.
    """
    alone = [loss(e) for e in experts]
    order = sorted(range(len(experts)), key=alone.__getitem__)
    taken, best = [order[0]], alone[order[0]]
    for i in order[1:]:
        candidate = average([experts[j] for j in (*taken, i)], [1.0] * (len(taken) + 1))
        if (value := loss(candidate)) <= best:
            taken, best = [*taken, i], value
    return average([experts[j] for j in taken], [1.0] * len(taken)), taken


def tensors_of(model: Transformer) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters()}


class Domain:
    """Held-out sequences of one corpus."""

    def __init__(self, data: DataConfig, context: int, vocabulary: int) -> None:
        prepared = prepare(data, vocabulary=vocabulary)
        count = max(1, data.val_tokens // context)
        self.name = data.corpus.rstrip("/").rpartition("/")[2] or data.corpus
        self.sequences = torch.from_numpy(Batches(prepared.val, context, None).sequences(0, count))

    def loss(self, model: Transformer) -> float:
        """Mean nats a token."""
        return -float(np.mean([logp.mean().item() for logp in self._passes([model])[:, :, 0]]))

    def ensemble_loss(self, models: Sequence[Transformer]) -> float:
        """Of the mixture whose weights at each token are the posterior of the domain given the tokens before it."""
        logp = self._passes(models)  # sequences, T, experts
        return -mixture(logp).mean().item()

    @torch.no_grad()
    def _passes(self, models: Sequence[Transformer]) -> Tensor:
        device = models[0].embedding.weight.device
        parts = []
        for first in range(0, len(self.sequences), BATCH):
            batch = self.sequences[first : first + BATCH].to(device)
            parts.append(torch.stack([_log_probabilities(m, batch).double().cpu() for m in models], dim=-1))
        return torch.cat(parts)


def _log_probabilities(model: Transformer, batch: Tensor) -> Tensor:
    """batch [B, T + 1] -> ln p of each next token [B, T]."""
    logits = model(batch[:, :-1]).float()
    return logits.log_softmax(-1).gather(-1, batch[:, 1:, None])[..., 0]


def mixture(logp: Tensor, prior: Tensor | None = None) -> Tensor:
    """logp [..., T, experts] of tokens under each expert -> ln p [..., T] of the mixture.

    The weight of an expert at token t is p(domain | tokens before t) by Bayes' rule from `prior` (uniform): equation 3
    of arXiv 2208.03306 within one document.
    """
    experts = logp.shape[-1]
    prior = torch.full((experts,), 1 / experts, dtype=logp.dtype) if prior is None else prior
    before = logp.cumsum(-2) - logp  # of the tokens before each
    weights = (prior.log() + before).log_softmax(-1)
    return (weights + logp).logsumexp(-1)
