"""Linear layers whose weights lie as the CPU's matrix kernels want them.

Shapes: N rows of a product, I inputs, O outputs.
The kernels (oneDNN) then read no weight twice, and round each row alike whatever stands
beside it from two rows on; `larimar.steady` looks whether that is so on this machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

LEAST_ROWS = 2
"""Rows of the smallest product: a single row takes another kernel, which rounds otherwise."""

_OF_ONE_INPUT = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
)
"""Names of layers that a module gives the same input, in transformers' networks."""


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


class PackedTogether:
    """Linear layers of one input, as an attention's query, key and value are, in one product.

    A small product costs as much around it as in it. The bits are those of the layers one by one:
    each output is a sum of its own, whatever stands beside it.

    Args:
        layers: as many inputs each, all with a bias or none.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        weights = [layer.weight.detach() for layer in layers]
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        self.sizes = [layer.out_features for layer in layers]
        self._product = PackedLinear(torch.cat(weights), torch.cat(biases) if biases else None)
        self._held: tuple[torch.Tensor, dict[int, torch.Tensor]] | None = None

    def part(self, x: torch.Tensor, number: int) -> torch.Tensor:
        """A layer's outputs (..., O); those of the others wait until they are asked for."""
        held, self._held = self._held, None
        if held is None or held[0] is not x or number not in held[1]:
            held = (x, dict(enumerate(self._product(x).split(self.sizes, dim=-1))))
        found = held[1].pop(number)
        if held[1]:
            self._held = held
        return found


class PackedPart(nn.Module):
    """One of several layers that are packed together."""

    def __init__(self, together: PackedTogether, number: int) -> None:
        super().__init__()
        self._together = together
        self._number = number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., I) -> (..., O)."""
        return self._together.part(x, self._number)


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
    for names in _OF_ONE_INPUT:
        _pack_together(module, names)
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear) and can_pack(child.weight):
            setattr(module, name, PackedLinear(child.weight, child.bias))
        elif isinstance(child, Conv1D) and can_pack(child.weight):
            setattr(module, name, PackedLinear(child.weight.t(), child.bias))
        else:
            pack(child)


def _pack_together(module: nn.Module, names: Sequence[str]) -> None:
    found = [getattr(module, name, None) for name in names]
    layers = [one for one in found if isinstance(one, nn.Linear) and can_pack(one.weight)]
    if len(layers) < len(names):
        return
    alike = {(one.in_features, one.weight.dtype, one.bias is None) for one in layers}
    if len(alike) == 1:
        together = PackedTogether(layers)
        for number, name in enumerate(names):
            setattr(module, name, PackedPart(together, number))


def is_packed(module: nn.Module) -> bool:
    """Whether any linear layer below a module is packed."""
    return any(isinstance(one, PackedLinear | PackedPart) for one in module.modules())
