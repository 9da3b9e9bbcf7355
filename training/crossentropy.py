"""Cross-entropy over a large vocabulary, with its gradients made in the same pass.

Shapes: N positions, E width, V vocabulary.
Half of a small model's step is its head: three products that are needed, and half a dozen
passes over the table of logits in float32 that are not. Here the table is kept once, in the
compute type, and every pass over it runs on a piece that fits the processor's cache.
"""

from __future__ import annotations

import torch

_TABLE_ROWS = 8192
"""Positions whose logits are in memory at a time."""
_CACHE_ROWS = 64
"""Positions worked on at a time on a CPU."""


class _WeightedCrossEntropy(torch.autograd.Function):
    """sum of weight * cross-entropy, and the entropies; gradients for the first output only."""

    @staticmethod
    def forward(ctx, hidden_NE, weight_VE, bias_V, labels_N, weights_N, dtype):
        hidden_NE_, table_VE = hidden_NE.to(dtype), weight_VE.to(dtype)
        device = hidden_NE.device
        losses_N = torch.empty(len(labels_N), device=device)
        grad_hidden_NE = torch.empty_like(hidden_NE_)
        learned_table = ctx.needs_input_grad[1]
        grad_weight_VE = torch.zeros_like(weight_VE) if learned_table else None
        grad_bias_V = torch.zeros_like(bias_V)
        step = _CACHE_ROWS if device.type == "cpu" else _TABLE_ROWS
        for first in range(0, len(labels_N), _TABLE_ROWS):
            rows = slice(first, first + _TABLE_ROWS)
            table_nV = hidden_NE_[rows] @ table_VE.T
            for low in range(first, min(first + _TABLE_ROWS, len(labels_N)), step):
                part = slice(low, min(low + step, first + _TABLE_ROWS))
                inner = slice(part.start - first, part.stop - first)
                labels_n1 = labels_N[part, None]
                logits_nV = table_nV[inner] + bias_V
                logits_nV = logits_nV.float()
                log_sum_n1 = logits_nV.logsumexp(1, keepdim=True)
                losses_N[part] = (log_sum_n1 - logits_nV.gather(1, labels_n1))[:, 0]
                logits_nV.sub_(log_sum_n1).exp_()
                logits_nV.scatter_add_(1, labels_n1, -torch.ones_like(log_sum_n1))
                logits_nV.mul_(weights_N[part, None])
                grad_bias_V += logits_nV.sum(0)
                table_nV[inner] = logits_nV.to(dtype)
            grad_hidden_NE[rows] = table_nV @ table_VE
            if learned_table:
                grad_weight_VE += table_nV.T @ hidden_NE_[rows]
        ctx.save_for_backward(grad_hidden_NE, grad_weight_VE, grad_bias_V)
        ctx.hidden_dtype = hidden_NE.dtype
        ctx.mark_non_differentiable(losses_N)
        return (losses_N * weights_N).sum(), losses_N

    @staticmethod
    def backward(ctx, grad, _):
        grad_hidden_NE, grad_weight_VE, grad_bias_V = ctx.saved_tensors
        return (
            (grad_hidden_NE * grad).to(ctx.hidden_dtype),
            None if grad_weight_VE is None else grad_weight_VE.mul_(grad),
            grad_bias_V.mul_(grad),
            None,
            None,
            None,
        )


def weighted_cross_entropy(
    hidden_NE: torch.Tensor,
    weight_VE: torch.Tensor,
    bias_V: torch.Tensor,
    labels_N: torch.Tensor,
    weights_N: torch.Tensor,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(sum over positions of weight times cross-entropy, the cross-entropies in nats, (N,)).

    Only the sum carries gradients, to the first three arguments, and only once.

    Args:
        dtype: of the products.
    """
    return _WeightedCrossEntropy.apply(hidden_NE, weight_VE, bias_V, labels_N, weights_N, dtype)
