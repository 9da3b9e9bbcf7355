"""The whole of Larimar in one process: no Ray, no Redis, no server.

The same encoder, scope, memory and decoder as the pipeline, composed the same way;
tests/test_congruence.py holds the two to equal answers.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from larimar.checkpoint import ModelFolder, serving_dtype
from larimar.decoder import BUCKET_ROWS, Sampling
from larimar.defaults import bank_config, default_fact_id
from larimar.encoder import Text
from larimar.errors import DataLoss, InvalidArgument, NotFound
from larimar.memory import BankState, Event, Kind, Payload, decide, make_payload, next_chain
from larimar.results import Answer, CandidateScore, Edit, Fact, Score
from larimar.scope import SentenceEmbedder, query_sentences

BANK = "in-process"
"""Name that results carry: a model in one process has one bank."""


def load(
    path: str | Path, *, addressing: str = "slots", slots: int = 0, dtype: torch.dtype | None = None
) -> Model:
    """Loads a model folder into this process, with an empty memory.

    Args:
        addressing: slots, pinv or gaussian.
        slots: K of a pinv or gaussian memory; 0 takes the default.
        dtype: of the weights; by default bfloat16 where the processor has it in hardware.

    Raises:
        NotFound: there is no model folder at `path`.
        InvalidArgument: it is damaged, or of another version.
    """
    return Model(ModelFolder.open(path), addressing, slots, dtype or serving_dtype())


class Model:
    """A language model with an episodic memory that is edited one fact at a time.

    Not thread-safe. Errors are those of `larimar.errors`; a refused call changes nothing.
    """

    def __init__(
        self, folder: ModelFolder, addressing: str, slots: int, dtype: torch.dtype
    ) -> None:
        self.folder = folder
        config = folder.config
        self.encoder = folder.encoder(dtype)
        self.decoder = folder.decoder(dtype)
        self.embedder = SentenceEmbedder(config.scope.package, dtype)
        self.threshold = config.scope.threshold
        self.state = BankState(
            bank_config(
                addressing,
                slots,
                prompt_size=self.encoder.prompt_size,
                value_size=self.encoder.value_size,
                scope_size=self.embedder.size,
                prompt_bits=config.fixed_point.prompt_bits,
                value_bits=config.fixed_point.value_bits,
                scope_bits=config.fixed_point.scope_bits,
                encoder_digest=folder.encoder_digest,
                scope_digest=self.embedder.digest,
            )
        )
        self._payloads: dict[str, Payload] = {}
        self._forgotten: set[str] = set()

    def write(
        self,
        prompt: str,
        answer: str,
        fact_id: str | None = None,
        rephrasings: Sequence[str] = (),
    ) -> Edit:
        """Writes a fact in one shot; writing a live fact id again replaces it.

        Raises:
            InvalidArgument: a text is empty or too long.
        """
        if not answer.strip():
            raise InvalidArgument("the answer is empty: give it a text", "EMPTY_TEXT")
        fact_id = fact_id or default_fact_id(prompt)
        texts = [Text(prompt, answer), *(Text(text) for text in (prompt, *rephrasings))]
        latents = self.encoder.encode(texts, [True] + [False] * (len(texts) - 1))
        payload = make_payload(
            self.state.config,
            fact_id,
            prompt,
            answer,
            tuple(rephrasings),
            np.stack(latents[1:]),
            latents[0],
            self.embedder.embed([prompt, *rephrasings]),
        )
        return self._apply(Kind.WRITE, fact_id, payload)

    def forget(self, fact_id: str) -> Edit:
        """Removes a fact's contribution exactly.

        Raises:
            NotFound: no such fact was written.
            FailedPrecondition: it is forgotten already.
        """
        status = "live" if fact_id in self._payloads else None
        if fact_id in self._forgotten:
            status = "forgotten"
        refused = decide(Kind.FORGET, status)
        if refused is not None:
            raise refused
        return self._apply(Kind.FORGET, fact_id, None)

    def ask(
        self,
        prompt: str,
        max_tokens: int = 32,
        *,
        memory: bool = True,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Answer:
        """Answers from memory when the prompt is in scope, else as the plain decoder.

        Raises:
            InvalidArgument: an empty or too long prompt, or bad sampling settings.
        """
        sampling = Sampling(max_tokens, temperature, top_p, seed, tuple(stop))
        return self._answers([prompt], sampling, memory)[0]

    def ask_many(
        self, prompts: Sequence[str], max_tokens: int = 32, *, memory: bool = True
    ) -> list[Answer]:
        """Greedy answers to many prompts, decoded in batches; each is what `ask` would give.

        Raises:
            InvalidArgument: as `ask`.
        """
        return self._answers(prompts, Sampling(max_tokens), memory)

    def score(self, prompt: str, candidates: Sequence[str], *, memory: bool = True) -> Score:
        """Log probabilities of candidate answers, with the same scope and memory as `ask`.

        Raises:
            InvalidArgument: an empty or too long text.
        """
        z_1C, in_scope, score, fact_id = self.recollect(prompt, memory)
        scores = self.decoder.score(prompt, candidates, None if z_1C is None else z_1C[0])
        return Score(
            tuple(
                CandidateScore(candidate, one.token_logprobs, one.token_is_argmax)
                for candidate, one in zip(candidates, scores, strict=True)
            ),
            in_scope,
            score,
            fact_id,
            self.state.version if memory else 0,
            BANK,
        )

    def recollect(
        self, prompt: str, memory: bool = True
    ) -> tuple[torch.Tensor | None, bool, float, str | None]:
        """What memory has for a prompt: (latent (1, C) or None, in scope, score, fact id).

        Raises:
            InvalidArgument: an empty or too long prompt.
        """
        if not memory:
            return None, False, 0.0, None
        found = self.state.detect(self.embedder.embed(query_sentences(prompt)))
        score, fact_id = max(found, key=lambda pair: pair[0])
        if not fact_id or score < self.threshold:
            return None, False, score, None
        read = self.state.read(self.encoder.prompt_latents([prompt]))[0]
        return torch.from_numpy(read.value.copy())[None], True, score, fact_id

    def facts(self) -> Iterator[Fact]:
        """Live facts in order of fact id."""
        for fact_id in sorted(self._payloads):
            payload = self._payloads[fact_id]
            version = self.state.facts[fact_id][0]
            yield Fact(fact_id, payload.prompt, payload.answer, version, payload.rephrasings)

    def digest(self) -> str:
        """The digest of the memory: equal for equal facts, here and in a pipeline."""
        return self.state.digest()

    def save_memory(self, path: str | Path) -> None:
        """Saves the memory's facts, with their vectors, to one safetensors file."""
        order = sorted(self._payloads)
        payloads = [np.frombuffer(self._payloads[name].to_bytes(), np.uint8) for name in order]
        tensors = {f"payload.{place}": payload for place, payload in enumerate(payloads)}
        metadata = {
            "format": "larimar-memory/1",
            "config": self.state.config.to_json(),
            "fact_ids": json.dumps(order),
            "digest": self.digest(),
        }
        save_file(tensors, path, metadata)

    def load_memory(self, path: str | Path) -> None:
        """Replaces the memory by one that `save_memory` saved.

        Raises:
            NotFound: no such file.
            InvalidArgument: it was saved by another model, or is damaged. Nothing is replaced.
        """
        if not Path(path).is_file():
            raise NotFound(f"no memory file at {path}", "MEMORY_NOT_FOUND")
        try:
            payloads, digest = self._saved(path)
        except (SafetensorError, KeyError, ValueError, DataLoss) as error:
            raise InvalidArgument(
                f"{path} is no memory, or damaged: {error}", "BAD_MEMORY"
            ) from error
        state = BankState(self.state.config)
        entries = []
        for version, payload in enumerate(payloads, 1):
            event = Event(version, Kind.WRITE, payload.fact_id, str(version), 0, payload.sha256, "")
            entries.append((event, payload))
        state.fold(entries)
        if state.digest() != digest:
            raise InvalidArgument(f"{path} is damaged: its digest does not match", "BAD_MEMORY")
        self.state = state
        self._payloads = {payload.fact_id: payload for payload in payloads}
        self._forgotten = set()

    def _saved(self, path: str | Path) -> tuple[list[Payload], str]:
        """Payloads and digest in a file of `save_memory`."""
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            if metadata.get("config", "") != self.state.config.to_json():
                raise InvalidArgument(
                    f"{path} was saved with another model or addressing: load that model",
                    "WRONG_ENCODER",
                )
            count = len(json.loads(metadata["fact_ids"]))
            payloads = [
                Payload.from_bytes(file.get_tensor(f"payload.{place}").tobytes())
                for place in range(count)
            ]
        return payloads, metadata["digest"]

    def _answers(self, prompts: Sequence[str], sampling: Sampling, memory: bool) -> list[Answer]:
        found = [self.recollect(prompt, memory) for prompt in prompts]
        groups: dict[tuple[bool, int], list[int]] = {}
        for place, (prompt, (z_1C, *_)) in enumerate(zip(prompts, found, strict=True)):
            groups.setdefault((z_1C is not None, self.decoder.bucket(prompt)), []).append(place)
        texts = [""] * len(prompts)
        ends = [("", 0)] * len(prompts)
        for (conditioned, _), members in groups.items():
            for low in range(0, len(members), BUCKET_ROWS):
                batch = members[low : low + BUCKET_ROWS]
                latents = [z_1C for place in batch if (z_1C := found[place][0]) is not None]
                z_BC = torch.cat(latents) if conditioned else None
                steps = self.decoder.generate(
                    [prompts[place] for place in batch], [sampling] * len(batch), z_BC
                )
                for pieces in steps:
                    for place, piece in zip(batch, pieces, strict=True):
                        texts[place] += piece.text
                        if piece.finish_reason:
                            ends[place] = (piece.finish_reason, piece.tokens)
        version = self.state.version if memory else 0
        return [
            Answer(text.lstrip(), in_scope, score, fact_id, version, BANK, *end)
            for text, (_, in_scope, score, fact_id), end in zip(texts, found, ends, strict=True)
        ]

    def _apply(self, kind: Kind, fact_id: str, payload: Payload | None) -> Edit:
        version = self.state.version + 1
        event_id = uuid.uuid4().hex
        sha256 = payload.sha256 if payload else ""
        chain = next_chain(self.state.chain, version, kind, fact_id, event_id, 0, sha256)
        event = Event(version, kind, fact_id, event_id, 0, sha256, chain)
        old = {
            self.state.facts[name][0]: self._payloads[name]
            for name in (fact_id,)
            if name in self._payloads
        }
        self.state.fold([(event, payload)], old)
        if payload is None:
            self._payloads.pop(fact_id)
            self._forgotten.add(fact_id)
        else:
            self._payloads[fact_id] = payload
            self._forgotten.discard(fact_id)
        return Edit(fact_id, event_id, version, BANK)
