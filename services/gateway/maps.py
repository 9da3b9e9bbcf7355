"""Where facts lie: their prompts' latents in two dimensions, for people who look at a bank."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np

from larimar.v1 import common_pb2, encoder_pb2, memory_pb2
from larimar.wire import bytes_to_vector
from services.gateway.calls import Calls, named_bank
from services.limits import check_text, check_version

MAX_MAPPED = 256
"""Facts of one map: their prompts are encoded anew, in one run of the encoder."""


@dataclass(frozen=True)
class MapRequest:
    """Which facts, and the query to place among them; an empty one is not placed."""

    bank: str
    query: str = ""
    at_version: int = 0


@dataclass(frozen=True)
class MappedFact:
    """A fact and its place."""

    fact: common_pb2.Fact
    x: float
    y: float
    similarity: float | None
    """Cosine of its latent to the query's, in all dimensions; None without a query."""


@dataclass(frozen=True)
class FactsMap:
    """Facts by fact id, from -1 to 1, and the query's place, which may lie beyond."""

    bank: str
    version: int
    total: int
    """Live facts of the bank, of which the first are here: `MAX_MAPPED`, or one page."""
    facts: list[MappedFact]
    query: tuple[float, float] | None


class MapCalls(Calls):
    """The map of a bank; no method of the contract, but one that the console calls."""

    async def map_facts(self, request: MapRequest, grpc_context) -> FactsMap:
        """Places facts and a query where their latents vary most.

        Raises: as Ask, for the query and the bank.
        """
        context = self._context(grpc_context)
        bank = named_bank(request.bank)
        self.admission.asks(context.tenant)
        if request.query:
            check_text("query", request.query)
        call = memory_pb2.EnumerateFactsRequest(
            bank=bank,
            page_size=MAX_MAPPED,
            at_version=check_version("at_version", request.at_version),
            context=context,
        )
        self.admission.reads(context.tenant)
        page = await self._on_bank(bank, lambda: self._memory.EnumerateFacts(call), context)
        self.admission.owe_page(context.tenant, len(page.facts))
        texts = [fact.prompt for fact in page.facts] + [request.query] * bool(request.query)
        if not page.facts:
            return FactsMap(bank, page.version, page.total, [], None)
        encode = encoder_pb2.EncodeRequest(
            items=[encoder_pb2.EncodeItem(prompt=text) for text in texts], context=context
        )
        encoded = await self._call(lambda: self._encoder.Encode(encode), context)
        raw = [latents.prompt_latent for latents in encoded.latents]
        size = len(raw[0]) // np.dtype(np.float32).itemsize
        latents_ND = np.stack([bytes_to_vector(one, size, "prompt latent") for one in raw])
        places_N2 = await asyncio.to_thread(flattened, latents_ND, len(page.facts))
        similar: list[float | None] = [None] * len(page.facts)
        if request.query:
            unit_ND = latents_ND / np.linalg.norm(latents_ND, axis=1, keepdims=True)
            similar = [float(one) for one in unit_ND[:-1] @ unit_ND[-1]]
        places = [(float(x), float(y)) for x, y in places_N2]
        mapped = [
            MappedFact(fact, *place, one)
            for fact, place, one in zip(page.facts, places, similar, strict=False)
        ]
        query = places[-1] if request.query else None
        return FactsMap(bank, page.version, page.total, mapped, query)


def flattened(vectors_ND: np.ndarray, fitted: int) -> np.ndarray:
    """Vectors on the two axes along which the first of them vary most.

    Axes and scale, -1 to 1, are those of the first `fitted` vectors, so that a query moves no fact.
    The sign of an axis is that of its largest component: the same facts are always the same map.

    Source: principal components (Pearson 1901), by a singular value decomposition.
    """
    mean_D = vectors_ND[:fitted].mean(axis=0)
    _, _, axes_XD = np.linalg.svd(vectors_ND[:fitted] - mean_D, full_matrices=False)
    axes_2D = np.zeros((2, vectors_ND.shape[1]))
    axes_2D[: min(2, len(axes_XD))] = axes_XD[:2]
    largest = np.abs(axes_2D).argmax(axis=1)
    signs = np.where(axes_2D[np.arange(2), largest] < 0, -1.0, 1.0)
    places_N2 = (vectors_ND - mean_D) @ (axes_2D * signs[:, None]).T
    return places_N2 / max(np.abs(places_N2[:fitted]).max(), np.finfo(np.float32).tiny)
