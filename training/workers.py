"""The processes that share one run: who this one is, and what they tell one another.

Every worker draws the whole batch of a step and computes its own part of it; gradients are
averaged (DDP), or weights, gradients and optimizers are spread over the workers too (FSDP2).
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from larimar.errors import InvalidArgument

TIMEOUT_S = 7200
"""How long a worker waits for another: the first one prepares the text for all."""


@dataclasses.dataclass(frozen=True)
class Workers:
    """This process among the run's."""

    rank: int = 0
    size: int = 1
    shard: bool = False
    """Whether each worker holds a share of the weights only (FSDP2)."""

    @classmethod
    def join(cls, device: torch.device, shard: bool = False) -> Workers:
        """Joins the group that torchrun's variables describe, or is in one, or is alone.

        Raises:
            InvalidArgument: weights cannot be spread over one worker.
        """
        if "RANK" in os.environ and "WORLD_SIZE" in os.environ and not dist.is_initialized():
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=datetime.timedelta(seconds=TIMEOUT_S))
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
        if dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), shard)
        if shard:
            raise InvalidArgument("--shard spreads weights over workers: give --workers too")
        return cls()

    @property
    def first(self) -> bool:
        """Whether this worker writes and speaks for all."""
        return self.rank == 0

    def wrapped(self, module: nn.Module, layers: list[nn.Module]) -> nn.Module:
        """The module with its gradients averaged over the workers.

        Args:
            layers: modules inside, whose weights come together one at a time when sharded.
        """
        if self.size == 1 and not self.shard:
            return module
        if not self.shard:
            return nn.parallel.DistributedDataParallel(module)
        for layer in layers:
            fully_shard(layer)
        fully_shard(module)
        return module

    def summed(self, values: dict[str, float], device: torch.device) -> dict[str, float]:
        """The sums over the workers of numbers that each has a share of."""
        if self.size == 1:
            return values
        shares = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
        dist.all_reduce(shares)
        return dict(zip(values, shares.tolist(), strict=True))

    def wait(self) -> None:
        """Waits for all workers."""
        if self.size > 1:
            dist.barrier()


def synchronise(wrapped: nn.Module, wanted: bool) -> None:
    """Whether the next backward pass exchanges gradients between the workers."""
    if isinstance(wrapped, FSDPModule):
        wrapped.set_requires_gradient_sync(wanted)
    elif isinstance(wrapped, nn.parallel.DistributedDataParallel):
        wrapped.require_backward_grad_sync = wanted


@contextlib.contextmanager
def whole(module: nn.Module) -> Iterator[None]:
    """Brings a sharded module's own weights together, to be used outside of its forward pass."""
    if not isinstance(module, FSDPModule):
        yield
        return
    module.unshard()
    try:
        yield
    finally:
        module.reshard()


def gathered(state: Any) -> Any:
    """A state dictionary with whole tensors on the CPU; every worker must call this."""
    if isinstance(state, dict):
        return {key: gathered(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(gathered(value) for value in state)
    if isinstance(state, DTensor):
        return state.full_tensor().cpu()
    return state


def load_module(module: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Loads a gathered state, each worker its share.

    Raises:
        KeyError, RuntimeError, ValueError: the state is another module's.
    """
    present = module.state_dict()
    module.load_state_dict(
        {name: _spread(value, present[name]) for name, value in state.items()},
        assign=False,
    )


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads a gathered state, each worker its share.

    Raises:
        KeyError, ValueError: the state is another optimizer's.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        index: {
            name: _spread(value, parameters[index])
            if isinstance(value, torch.Tensor) and value.shape == parameters[index].shape
            else value
            for name, value in each.items()
        }
        for index, each in state["state"].items()
    }
    optimizer.load_state_dict(state | {"state": moments})


def _spread(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This worker's share of a tensor that every worker has whole."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
