"""Packed linear layers: the same bits, whatever they are packed with."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from larimar.packing import PackedLinear, PackedPart, can_pack, pack

WIDTH = 96


class Attention(nn.Module):
    """Three layers of one input, with other sizes of keys and values, and one behind them."""

    def __init__(self, bias: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH, bias, dtype=dtype)
        self.key = nn.Linear(WIDTH, WIDTH // 3, bias, dtype=dtype)
        self.value = nn.Linear(WIDTH, WIDTH // 3, bias, dtype=dtype)
        self.out = nn.Linear(WIDTH, WIDTH, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_layers_of_one_input_have_the_bits_of_each_alone(dtype, bias) -> None:
    torch.manual_seed(0)
    together = Attention(bias, dtype)
    if not can_pack(together.out.weight):
        pytest.skip(f"this machine has no kernels for packed weights of {dtype}")
    names = ("query", "key", "value")
    alone = {}
    for name in names:
        layer = getattr(together, name)
        alone[name] = PackedLinear(layer.weight, layer.bias)
    pack(together)
    assert isinstance(together.out, PackedLinear)
    assert all(isinstance(getattr(together, name), PackedPart) for name in names)
    first, second = torch.randn(2, 5, WIDTH).to(dtype), torch.randn(1, 1, WIDTH).to(dtype)
    # In turn, with another input in between, out of order, and one of them twice.
    for x, name in (
        *((first, name) for name in names),
        (second, "query"),
        (first, "value"),
        (second, "key"),
        (second, "key"),
        (second, "value"),
    ):
        assert torch.equal(getattr(together, name)(x), alone[name](x)), name


@torch.inference_mode()
def test_layers_that_do_not_fit_together_are_packed_alone() -> None:
    module = Attention(True, torch.float32)
    module.key = nn.Linear(WIDTH // 2, WIDTH)
    pack(module)
    assert all(isinstance(one, PackedLinear) for one in module.children())
