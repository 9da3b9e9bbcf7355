"""Linear layers whose weights lie as the CPU's matrix kernels want them.

Shapes: N rows of a product, I inputs, O outputs.
The kernels (oneDNN) then read no weight twice, and round each row alike whatever stands
beside it from two rows on; `larimar.decoding` looks whether that is so on this machine.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

LEAST_ROWS = 2
"""Rows of the smallest product: a single row takes another kernel, which rounds otherwise."""


class PackedLinear(nn.Module):
    """y = x W^T + b over a packed copy of W. It serves; it is neither trained nor saved.

    Args:
        weight_OI: of float32 or bfloat16, on a CPU.
    """

    def __init__(self, weight_OI: torch.Tensor, bias_O: torch.Tensor | None) -> None:
        super().__init__()
        kernels = torch.ops.mkldnn
        self._kernel = kernels._linear_pointwise.default
        self._packed = kernels._reorder_linear_weight(weight_OI.detach().contiguous(), None)
        self.bias = None if bias_O is None else bias_O.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., I) -> (..., O)."""
        if x.numel() == x.shape[-1]:
            twice = x.reshape(1, -1).expand(LEAST_ROWS, -1).contiguous()
            product = self._kernel(twice, self._packed, self.bias, "none", [], "")
            return product[:1].view(*x.shape[:-1], -1)
        return self._kernel(x, self._packed, self.bias, "none", [], "")


def can_pack(weight: torch.Tensor) -> bool:
    """Whether this machine has the kernels for weights of this dtype on this device."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32


def pack(module: nn.Module) -> None:
    """Replaces every linear layer below a module by a packed one, where that can be.

    The module can then only be run: its weights are not parameters any more.
    """
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear) and can_pack(child.weight):
            setattr(module, name, PackedLinear(child.weight, child.bias))
        elif isinstance(child, Conv1D) and can_pack(child.weight):
            setattr(module, name, PackedLinear(child.weight.t(), child.bias))
        else:
            pack(child)


def is_packed(module: nn.Module) -> bool:
    """Whether any linear layer below a module is packed."""
    return any(isinstance(one, PackedLinear) for one in module.modules())
