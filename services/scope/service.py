"""The scope service: sentence embeddings, and the nearest written fact of a query."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from larimar.errors import InvalidArgument, LarimarError
from larimar.scope import SentenceEmbedder, query_sentences
from larimar.v1 import scope_pb2, scope_pb2_grpc
from larimar.wire import vector_to_bytes
from services.batching import Batcher
from services.follower import Follower
from services.rpc import check_deadline

MAX_TEXTS = 1024
"""Texts of one request."""
MAX_BATCH_TEXTS = 256
"""Texts of one run on the executor."""
MAX_QUEUE = 128
"""Requests that may wait."""


class ScopeService(scope_pb2_grpc.ScopeServicer):
    """Implements larimar.v1.Scope over an embedder and a follower of the log."""

    def __init__(
        self, embedder: SentenceEmbedder, follower: Follower, threshold: float, scope_bits: int
    ) -> None:
        self._embedder = embedder
        self._follower = follower
        self._threshold = threshold
        self._scope_bits = scope_bits
        self._batcher = Batcher(
            self._run, ThreadPoolExecutor(1, "scope"), MAX_BATCH_TEXTS, MAX_QUEUE
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
        flat = [sentence for group in groups for sentence in group]
        vectors = await self._embed(flat, request)
        async with self._follower.view(
            _tenant(request),
            request.bank,
            min_version=request.min_version,
            at_version=request.at_version,
            allow_stale=request.allow_stale,
        ) as view:
            found = view.state.detect(vectors) if flat else []
            version = view.state.version
        detections, low = [], 0
        for group in groups:
            score, fact_id = max(
                found[low : low + len(group)], key=lambda pair: pair[0], default=(-1.0, "")
            )
            low += len(group)
            detections.append(
                scope_pb2.Detection(
                    in_scope=bool(fact_id) and score >= self._threshold,
                    score=score,
                    fact_id=fact_id,
                )
            )
        return scope_pb2.DetectResponse(
            detections=detections,
            version=version,
            threshold=self._threshold,
            stale=view.stale,
        )

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
            threshold=self._threshold,
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


def _tenant(request) -> str:
    return request.context.tenant or "default"
