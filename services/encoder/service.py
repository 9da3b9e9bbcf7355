"""The encoder service: texts to latents, in dynamic batches."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from larimar.checkpoint import ModelFolder
from larimar.encoder import Encoder, Text
from larimar.errors import InvalidArgument, LarimarError
from larimar.v1 import encoder_pb2, encoder_pb2_grpc
from larimar.wire import vector_to_bytes
from services.batching import Batcher
from services.rpc import check_deadline

MAX_ITEMS = 1024
"""Texts of one request: what fits a message with their latents."""
MAX_BATCH_ITEMS = 256
"""Texts of one run on the executor; longer runs would make single calls wait."""
MAX_QUEUE = 128
"""Requests that may wait."""


class EncoderService(encoder_pb2_grpc.EncoderServicer):
    """Implements larimar.v1.Encoder over one encoder."""

    def __init__(self, folder: ModelFolder, encoder: Encoder) -> None:
        self._folder = folder
        self._encoder = encoder
        self._batcher = Batcher(
            self._run, ThreadPoolExecutor(1, "encoder"), MAX_BATCH_ITEMS, MAX_QUEUE, "encode"
        )

    async def Encode(self, request, grpc_context):
        """Latents of a batch of texts."""
        check_deadline(request)
        if len(request.items) > MAX_ITEMS:
            raise InvalidArgument(
                f"{len(request.items)} texts in one call, the limit is {MAX_ITEMS}: split the call",
                "TOO_MANY_ITEMS",
            )
        latents = await self._batcher.submit(
            list(request.items), max(1, len(request.items)), request.context.deadline_unix_s
        )
        return encoder_pb2.EncodeResponse(
            latents=latents, encoder_digest=self._folder.encoder_digest
        )

    async def DescribeEncoder(self, request, grpc_context):
        """What model this is."""
        config = self._folder.config
        return encoder_pb2.DescribeEncoderResponse(
            encoder_digest=self._folder.encoder_digest,
            prompt_size=self._encoder.prompt_size,
            value_size=self._encoder.value_size,
            prompt_bits=config.fixed_point.prompt_bits,
            value_bits=config.fixed_point.value_bits,
            max_text_tokens=config.max_text_tokens,
            pid=os.getpid(),
        )

    def _run(self, requests: list[list[encoder_pb2.EncodeItem]]) -> list:
        rows, wanted, answers = [], [], []
        spans: list[tuple[int, int] | LarimarError] = []
        for items in requests:
            low = len(rows)
            try:
                for item in items:
                    tokens = self._tokenized(item)
                    rows += tokens
                    wanted += [False, True][: len(tokens)]
                spans.append((low, len(rows)))
            except LarimarError as error:
                del rows[low:], wanted[low:]
                spans.append(error)
        vectors = self._encoder.encode_tokens(rows, wanted)
        for items, span in zip(requests, spans, strict=True):
            if isinstance(span, LarimarError):
                answers.append(span)
                continue
            mine = iter(vectors[span[0] : span[1]])
            answers.append(
                [
                    encoder_pb2.Latents(
                        prompt_latent=vector_to_bytes(next(mine)),
                        value=vector_to_bytes(next(mine)) if item.with_value else b"",
                    )
                    for item in items
                ]
            )
        return answers

    def _tokenized(self, item: encoder_pb2.EncodeItem) -> tuple[tuple[list[int], int], ...]:
        """Tokens of a prompt and, where it is wanted, of what its value is of: a fact, or what a
        passage states."""
        if item.with_value and not item.answer:
            return self._encoder.tokenize_passage(item.prompt)
        texts = [Text(item.prompt)]
        if item.with_value:
            texts.append(Text(item.prompt, item.answer))
        return tuple(map(self._encoder.tokenize, texts))
