"""A step without the bookkeeping around it: the stock model's own tensor operations, recorded.

Shapes: R rows, K positions of a row, V vocabulary.
A small model's step spends as long in Python between its operations as in them. Recorded once
for a shape, the same operations run in the same order on the same numbers, so the bits stay;
nothing but the calls between them is left out.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from larimar.cache import RowsCache

if TYPE_CHECKING:
    from larimar.decoder import DecoderNetwork

RECORD_AFTER = 24
"""Steps of a shape before it is recorded, which takes as long as some tens of steps."""

Shape = tuple[int, int, int, bool]
"""Of a step: R, K, readers of a row of the cache, and whether anything is added to embeddings."""

_NOTHING = {
    torch.ops.aten.detach.default,
    torch.ops.aten.alias.default,
    torch.ops.aten.lift_fresh_copy.default,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Pass:
    """Tokens that a network reads into a cache, Q a row.

    Attributes:
        positions_RQ: as the decoder counts them, a latent's first position included.
        visible_RQK: True at what each token sees of its row.
        places_RQ: where they are written, row * K + position, (R * Q,).
        added_R1E: what the connector adds to embeddings, zeros to a row without a latent;
            None where nothing is added to any.
    """

    ids_RQ: torch.Tensor
    positions_RQ: torch.Tensor
    visible_RQK: torch.Tensor
    places_RQ: torch.Tensor
    cache: RowsCache
    added_R1E: torch.Tensor | None = None


class LeanSteps:
    """Steps of a network, one token a row, recorded by shape when they come often.

    Args:
        record: False records nothing: of a network whose weights or code may change.
    """

    def __init__(self, network: DecoderNetwork, record: bool) -> None:
        self.network = network
        self._record_any = record
        self._taken: Counter[Shape] = Counter()
        self._recorded: dict[Shape, Callable[..., torch.Tensor]] = {}

    def logits(self, step: Pass) -> torch.Tensor:
        """Logits (R, 1, V) of the tokens that come next."""
        if not self._record_any:
            return self.network.logits(self.network.step(step))
        added = [] if step.added_R1E is None else [step.added_R1E]
        readers = step.cache.readers
        shape = (len(step.ids_RQ), step.cache.positions, readers, bool(added))
        given = (step.ids_RQ, step.positions_RQ, step.visible_RQK, step.places_RQ)
        if shape not in self._recorded:
            self._taken[shape] += 1
            if self._taken[shape] <= RECORD_AFTER:
                return self._eager(*given, step.cache.stored(), added, readers)
            self._recorded[shape] = self._record((*given, step.cache.stored(), added), readers)
        return self._recorded[shape](*given, step.cache.stored(), added)

    def _eager(
        self, ids_R1, positions_R1, visible_R1K, places_R, stored, added, readers: int
    ) -> torch.Tensor:
        cache, added_R1E = RowsCache(stored, readers), added[0] if added else None
        step = Pass(ids_R1, positions_R1, visible_R1K, places_R, cache, added_R1E)
        return self.network.logits(self.network.step(step))

    def _record(self, given: tuple[Any, ...], readers: int) -> GraphModule:
        def operations(ids_R1, positions_R1, visible_R1K, places_R, stored, added):
            return self._eager(ids_R1, positions_R1, visible_R1K, places_R, stored, added, readers)

        recorded = make_fx(operations)(*given)
        for node in list(recorded.graph.nodes):
            if node.target in _NOTHING:
                node.replace_all_uses_with(node.args[0])
                recorded.graph.erase_node(node)
        recorded.graph.eliminate_dead_code(is_impure_node=_writes)
        recorded.recompile()
        return recorded


def _writes(node: torch.fx.Node) -> bool:
    """Whether a node is there for more than its result."""
    if node.op in ("placeholder", "output"):
        return True
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable
