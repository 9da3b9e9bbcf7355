"""The decoder service: streams text from prompts, with or without latents, in batches."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from larimar.checkpoint import ModelFolder
from larimar.decoder import BUCKET_ROWS, BUCKET_TOKENS, Decoder, Sampling
from larimar.errors import InvalidArgument, LarimarError
from larimar.v1 import decoder_pb2, decoder_pb2_grpc
from larimar.wire import bytes_to_vector
from services.batching import Batcher
from services.rpc import check_deadline

DEFAULT_MAX_TOKENS = 32
"""Tokens of an answer when the caller does not say."""
MAX_QUEUE = 128
"""Requests that may wait."""
MAX_CANDIDATES = 64
"""Candidates of one scoring call."""


class _Stream:
    """One row of a batch on its way from the executor to its caller."""

    def __init__(self, request, prompt: str, sampling: Sampling, latent) -> None:
        self.request = request
        self.prompt = prompt
        self.sampling = sampling
        self.latent = latent
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue = asyncio.Queue()

    def put(self, item) -> None:
        """Hands an item to the caller, from the executor's thread."""
        self.loop.call_soon_threadsafe(self.queue.put_nowait, item)


class DecoderService(decoder_pb2_grpc.DecoderServicer):
    """Implements larimar.v1.Decoder.

    Rows with and without a latent, and prompts of different padded lengths, have queues of
    their own: what shares a batch has one shape.
    """

    def __init__(self, folder: ModelFolder, decoder: Decoder) -> None:
        self._folder = folder
        self._decoder = decoder
        executor = ThreadPoolExecutor(1, "decoder")
        self._queues = {
            (conditioned, tokens): Batcher(self._run_streams, executor, BUCKET_ROWS, MAX_QUEUE)
            for conditioned in (False, True)
            for tokens in BUCKET_TOKENS
        }
        self._scores = Batcher(self._run_scores, executor, 1, MAX_QUEUE)

    async def Generate(self, request, grpc_context) -> AsyncIterator:
        """Streams the continuation of a prompt."""
        check_deadline(request)
        sampling = self._sampling(request.sampling)
        self._decoder.check(sampling)
        bucket = self._decoder.bucket(request.prompt)
        stream = _Stream(request, request.prompt, sampling, self._latent(request.latent))
        queue = self._queues[stream.latent is not None, bucket]
        done = asyncio.create_task(queue.submit(stream, 1, request.context.deadline_unix_s))
        done.add_done_callback(lambda task: stream.queue.put_nowait(task))
        try:
            while True:
                item = await stream.queue.get()
                if isinstance(item, asyncio.Task):
                    item.result()
                    return
                yield decoder_pb2.GenerateResponse(
                    text=item.text, finish_reason=item.finish_reason, tokens=item.tokens
                )
        finally:
            done.cancel()  # a caller who went away leaves the queue

    async def ScoreCandidates(self, request, grpc_context):
        """Log probabilities of candidate continuations."""
        check_deadline(request)
        if len(request.candidates) > MAX_CANDIDATES:
            raise InvalidArgument(
                f"{len(request.candidates)} candidates, at most {MAX_CANDIDATES}: split the call",
                "TOO_MANY_ITEMS",
            )
        latent = self._latent(request.latent)
        scores = await self._scores.submit(
            (request.prompt, list(request.candidates), latent), 1, request.context.deadline_unix_s
        )
        return decoder_pb2.ScoreCandidatesResponse(
            scores=[
                decoder_pb2.CandidateScore(
                    token_logprobs=score.token_logprobs, token_is_argmax=score.token_is_argmax
                )
                for score in scores
            ]
        )

    async def DescribeDecoder(self, request, grpc_context):
        """What model this is."""
        return decoder_pb2.DescribeDecoderResponse(
            model_digest=self._folder.model_digest,
            architecture=self._folder.config.decoder_backbone["model_type"],
            value_size=self._decoder.value_size,
            max_prompt_tokens=self._decoder.max_prompt_tokens,
            max_new_tokens=self._decoder.max_new_tokens,
            pid=os.getpid(),
        )

    def _sampling(self, message) -> Sampling:
        return Sampling(
            max_tokens=message.max_tokens or DEFAULT_MAX_TOKENS,
            temperature=message.temperature,
            top_p=message.top_p or 1.0,
            seed=message.seed,
            stop=tuple(message.stop),
        )

    def _latent(self, raw: bytes) -> np.ndarray | None:
        return bytes_to_vector(raw, self._decoder.value_size, "latent") if raw else None

    def _run_streams(self, streams: list[_Stream]) -> list:
        latents = [stream.latent for stream in streams]
        z_BC = None if latents[0] is None else torch.from_numpy(np.stack(latents))
        steps = self._decoder.generate(
            [stream.prompt for stream in streams], [stream.sampling for stream in streams], z_BC
        )
        for pieces in steps:
            for stream, piece in zip(streams, pieces, strict=True):
                if piece.text or piece.finish_reason:
                    stream.put(piece)
        return [None] * len(streams)

    def _run_scores(self, jobs: list) -> list:
        answers = []
        for prompt, candidates, latent in jobs:
            z_C = None if latent is None else torch.from_numpy(latent.copy())
            try:
                answers.append(self._decoder.score(prompt, candidates, z_C))
            except LarimarError as error:
                answers.append(error)
        return answers
