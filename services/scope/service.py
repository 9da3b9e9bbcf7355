"""The scope service: sentence embeddings, and whether the nearest written fact is asked for."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np

from larimar.censoring import SAME_TEXT, is_among
from larimar.errors import DataLoss, InvalidArgument, LarimarError, Unavailable
from larimar.memory import Payload
from larimar.scope import ScopeDetector, SentenceEmbedder, query_sentences
from larimar.v1 import scope_pb2, scope_pb2_grpc
from larimar.wire import vector_to_bytes
from services.batching import Batcher
from services.digests import check_digest
from services.follower import Follower
from services.observability.stages import stage
from services.rpc import check_deadline

MAX_TEXTS = 1024
"""Texts of one request."""
MAX_BATCH_TEXTS = 256
"""Texts of one run on the executor."""
MAX_QUEUE = 128
"""Requests that may wait."""
MAX_LOOKS = 4
"""Times a query is looked up again because its nearest fact was erased meanwhile."""


class ScopeService(scope_pb2_grpc.ScopeServicer):
    """Implements larimar.v1.Scope over an embedder and a follower of the log."""

    def __init__(
        self,
        embedder: SentenceEmbedder,
        follower: Follower,
        detector: ScopeDetector,
        scope_bits: int,
    ) -> None:
        self._embedder = embedder
        self._follower = follower
        self._detector = detector
        self._scope_bits = scope_bits
        self._batcher = Batcher(
            self._run, ThreadPoolExecutor(1, "scope"), MAX_BATCH_TEXTS, MAX_QUEUE, "embed"
        )

    async def Embed(self, request, grpc_context):
        """Sentence embeddings of texts."""
        check_deadline(request)
        vectors = await self._embed(list(request.texts), request)
        return scope_pb2.EmbedResponse(
            embeddings=[vector_to_bytes(vector) for vector in vectors],
            scope_digest=self._embedder.digest,
        )

    async def Detect(self, request, grpc_context):
        """Nearest fact and decision for each query; several sentences count as their best one."""
        check_deadline(request)
        groups = [query_sentences(query) for query in request.queries]
        vectors = await self._embed([part for group in groups for part in group], request)

        async def look():
            nearest, versions, version, stale = await self._nearest(vectors, request)
            return nearest, version, stale, *await self._prompts(versions, stale, request)

        nearest, version, stale, detector, prompts = await _unless_erased(look)
        found = iter(nearest)
        decisions = [
            detector.decide(group, list(islice(found, len(group))), prompts) for group in groups
        ]
        return scope_pb2.DetectResponse(
            detections=[
                scope_pb2.Detection(in_scope=one.in_scope, score=one.score, fact_id=one.fact_id)
                for one in decisions
            ],
            version=version,
            threshold=detector.threshold,
            stale=stale,
        )

    async def FindFacts(self, request, grpc_context):
        """The live facts of which each text is the prompt or a rephrasing."""
        check_deadline(request)
        texts = list(request.texts)
        vectors = await self._embed(texts, request)

        async def look():
            near, versions = await self._facts_at(vectors, request)
            log, wanted = self._follower.log, list(versions.values())
            return near, await log.payloads(_tenant(request), request.bank, wanted)

        near, found = await _unless_erased(look)
        payloads = map(Payload.from_bytes, found)
        prompts = {one.fact_id: (one.prompt, *one.rephrasings) for one in payloads}
        return scope_pb2.FindFactsResponse(
            found=[
                scope_pb2.FoundFacts(fact_ids=[one for one in ids if is_among(text, prompts[one])])
                for text, ids in zip(texts, near, strict=True)
            ]
        )

    async def _facts_at(
        self, vectors: np.ndarray, request
    ) -> tuple[list[list[str]], dict[str, int]]:
        """The facts that may have each text as a prompt, and the versions of these facts."""
        async with self._follower.view(_tenant(request), request.bank) as view:
            check_digest("scope", self._embedder.digest, view.state.config.scope_digest, "read")
            with stage("detect", queries=len(vectors)):
                near = view.state.facts_at(vectors, SAME_TEXT) if len(vectors) else []
            facts = sorted({fact_id for ids in near for fact_id in ids})
            return near, {fact_id: view.state.facts[fact_id][0] for fact_id in facts}

    async def _nearest(
        self, vectors: np.ndarray, request
    ) -> tuple[list[tuple[float, str]], dict[str, int], int, bool]:
        """Cosine and fact id for each vector, versions of these facts, version, and staleness."""
        async with self._follower.view(
            _tenant(request),
            request.bank,
            min_version=request.min_version,
            at_version=request.at_version,
            allow_stale=request.allow_stale,
        ) as view:
            check_digest("scope", self._embedder.digest, view.state.config.scope_digest, "read")
            with stage("detect", queries=len(vectors)):
                nearest = view.state.detect(vectors) if len(vectors) else []
            facts = {fact_id for _, fact_id in nearest if fact_id}
            versions = {fact_id: view.state.facts[fact_id][0] for fact_id in sorted(facts)}
            return nearest, versions, view.state.version, view.stale

    async def _prompts(
        self, versions: dict[str, int], stale: bool, request
    ) -> tuple[ScopeDetector, dict[str, tuple[str, ...]]]:
        """The detector to use, and the written prompts that it wants; the payloads' answers stay.

        The prompts are in the store: while it is down, for who takes old answers, esd decides.
        """
        if not self._detector.reads_prompts or not versions:
            return self._detector, {}
        if stale:
            return self._detector.by_cosine(), {}
        log, tenant = self._follower.log, _tenant(request)
        try:
            with stage("prompts", facts=len(versions)):
                found = await log.payloads(tenant, request.bank, list(versions.values()))
        except Unavailable:
            if not request.allow_stale:
                raise
            return self._detector.by_cosine(), {}
        payloads = map(Payload.from_bytes, found)
        texts = {one.fact_id: (one.prompt, *one.rephrasings) for one in payloads}
        return self._detector, texts

    async def RebuildScope(self, request, grpc_context):
        """Folds the log from nothing and compares digest and scope rows with the served index."""
        verified = await self._follower.verified(_tenant(request), request.bank)
        return scope_pb2.RebuildScopeResponse(
            version=verified.version,
            digest=verified.digest,
            folded_sha256=verified.folded_sha256,
            matches=verified.matches,
        )

    async def SaveScope(self, request, grpc_context):
        """Saves a checkpoint of the scope index at the newest version."""
        version, digest, size = await self._follower.save_checkpoint(_tenant(request), request.bank)
        return scope_pb2.SaveScopeResponse(version=version, digest=digest, bytes=size)

    async def DescribeScope(self, request, grpc_context):
        """What model this is."""
        return scope_pb2.DescribeScopeResponse(
            scope_digest=self._embedder.digest,
            scope_size=self._embedder.size,
            scope_bits=self._scope_bits,
            threshold=self._detector.threshold,
            max_text_tokens=self._embedder.max_text_tokens,
            pid=os.getpid(),
        )

    async def _embed(self, texts: list[str], request) -> np.ndarray:
        if len(texts) > MAX_TEXTS:
            raise InvalidArgument(
                f"{len(texts)} texts in one call, the limit is {MAX_TEXTS}: split the call",
                "TOO_MANY_ITEMS",
            )
        return await self._batcher.submit(
            texts, max(1, len(texts)), request.context.deadline_unix_s
        )

    def _run(self, requests: list[list[str]]) -> list:
        good: list[str] = []
        spans: list[tuple[int, int] | LarimarError] = []
        for texts in requests:
            try:
                for text in texts:
                    self._embedder.tokenize(text)
            except LarimarError as error:
                spans.append(error)
            else:
                spans.append((len(good), len(good) + len(texts)))
                good.extend(texts)
        vectors = self._embedder.embed(good)
        return [
            span if isinstance(span, LarimarError) else vectors[span[0] : span[1]] for span in spans
        ]


async def _unless_erased(look: Callable[[], Awaitable[Any]]) -> Any:
    """What a look gives; made again where a fact was erased between its state and its payloads."""
    for _ in range(MAX_LOOKS):
        try:
            return await look()
        except DataLoss as error:
            if error.reason != "PAYLOAD_ERASED":
                raise
    raise Unavailable("facts are erased faster than they are read: retry", "BUSY")


def _tenant(request) -> str:
    return request.context.tenant or "default"
