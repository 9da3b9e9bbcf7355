"""The decoder service: text from prompts, with or without latents, many rows at a time."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import torch

from larimar.checkpoint import ModelFolder
from larimar.decoder import Decoder, Piece, Sampling
from larimar.errors import InvalidArgument
from larimar.v1 import decoder_pb2, decoder_pb2_grpc
from larimar.wire import bytes_to_vector
from services.decoder.running import DecodeJob, Runner, ScoreJob
from services.digests import check_latent
from services.observability.stages import stage
from services.rpc import check_deadline

DEFAULT_MAX_TOKENS = 32
"""Tokens of an answer when the caller does not say."""
MAX_CANDIDATES = 64
"""Candidates of one scoring call."""


class DecoderService(decoder_pb2_grpc.DecoderServicer):
    """Implements larimar.v1.Decoder."""

    def __init__(self, folder: ModelFolder, decoder: Decoder) -> None:
        self._folder = folder
        self._decoder = decoder
        self._runner = Runner(decoder, ThreadPoolExecutor(1, "decoder"))

    async def Generate(self, request, grpc_context) -> AsyncIterator:
        """Streams the continuation of a prompt."""
        job = self._job(request, streamed=True)
        try:
            piece = Piece("")
            while not piece.finish_reason:
                piece = await job.answer()
                yield decoder_pb2.GenerateResponse(
                    text=piece.text,
                    finish_reason=piece.finish_reason,
                    tokens=piece.tokens,
                    prompt_tokens=len(job.row.prompt_ids) if piece.finish_reason else 0,
                )
        finally:
            job.abandoned = True
            job.tell()

    async def Complete(self, request, grpc_context):
        """The whole continuation of a prompt, in one message."""
        job = self._job(request, streamed=False)
        try:
            piece = await job.answer()
        finally:
            job.abandoned = True
            job.tell()
        return decoder_pb2.CompleteResponse(
            text=piece.text,
            finish_reason=piece.finish_reason,
            tokens=piece.tokens,
            prompt_tokens=len(job.row.prompt_ids),
        )

    async def ScoreCandidates(self, request, grpc_context):
        """Log probabilities of candidate continuations."""
        check_deadline(request)
        if len(request.candidates) > MAX_CANDIDATES:
            raise InvalidArgument(
                f"{len(request.candidates)} candidates, at most {MAX_CANDIDATES}: split the call",
                "TOO_MANY_ITEMS",
            )
        prompt, candidates = request.prompt, list(request.candidates)
        z_C = self._latent(request)
        job = ScoreJob(
            lambda: self._decoder.score(prompt, candidates, z_C), request.context.deadline_unix_s
        )
        self._runner.submit(job)
        try:
            with stage("score", candidates=len(candidates)):
                scores = await job.answer()
        finally:
            job.abandoned = True
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

    def _job(self, request, streamed: bool) -> DecodeJob:
        """The queued job of a request."""
        check_deadline(request)
        row = self._decoder.row(request.prompt, _sampling(request.sampling), self._latent(request))
        job = DecodeJob(row, request.context.deadline_unix_s, streamed)
        self._runner.submit(job)
        return job

    def _latent(self, request) -> torch.Tensor | None:
        if not request.latent:
            return None
        check_latent(request.encoder_digest, self._folder.encoder_digest)
        z_C = bytes_to_vector(request.latent, self._decoder.value_size, "latent")
        return torch.from_numpy(z_C.copy())


def _sampling(message) -> Sampling:
    return Sampling(
        max_tokens=message.max_tokens or DEFAULT_MAX_TOKENS,
        temperature=message.temperature,
        top_p=message.top_p or 1.0,
        seed=message.seed,
        stop=tuple(message.stop),
    )
