"""The whole of Larimar in one process: no Ray, no Redis, no server.

The same encoder, scope, memory and decoder as the pipeline, composed the same way;
tests/test_congruence.py holds the two to equal answers. Shapes: C value size.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from larimar import dreams
from larimar.censoring import SAME_TEXT, fact_has_id, is_among
from larimar.checkpoint import ModelFolder, serving_dtype
from larimar.decoder import Sampling
from larimar.defaults import (
    CENSORED_ANSWER,
    DEFAULT_DREAMS,
    DREAM_PROMPT,
    bank_config,
    default_fact_id,
)
from larimar.encoder import Text
from larimar.errors import LarimarError
from larimar.local_memory import BANK, LocalMemory
from larimar.memory import BankConfig, BankState, Payload
from larimar.new_facts import NewFact, payloads_of
from larimar.payload import several, utf8
from larimar.results import (
    Answer,
    CandidateScore,
    DreamResult,
    Edit,
    Fact,
    FailedWrite,
    Score,
)
from larimar.scope import Decision, ScopeDetector, SentenceEmbedder, query_sentences

WRITE_GROUP = 256
"""Facts of `Model.write_many` that are encoded and folded together."""


def load(
    path: str | Path,
    *,
    addressing: str = "slots",
    slots: int = 0,
    dtype: torch.dtype | None = None,
    detector: str = "",
) -> Model:
    """Loads a model folder into this process, with an empty memory.

    Args:
        addressing: slots, pinv or gaussian.
        slots: K of a pinv or gaussian memory; 0 takes the default.
        dtype: of the weights; by default what the model's configuration says; where
            it leaves it open, bfloat16 where the processor has it in hardware.
        detector: esd or isd decides scope; empty for the model's own.

    Raises:
        NotFound: there is no model folder at `path`.
        InvalidArgument: it is damaged, or of another version.
    """
    return Model(ModelFolder.open(path), addressing, slots, dtype, detector)


@dataclasses.dataclass(frozen=True, eq=False)
class Recollection:
    """What memory has for one prompt, at one version."""

    latent: np.ndarray | None
    """z (C,) float32 that the decoder is given; None for the plain decoder."""
    in_scope: bool
    scope_score: float
    """Of the detector: cosine to the nearest written prompt, or a probability; -1 in an empty
    memory, 0 where nobody looked."""
    fact_id: str | None
    """The fact whose prompt is nearest; None out of scope."""
    version: int


class Model:
    """A language model with an episodic memory that is edited one fact at a time.

    Not thread-safe. Errors are those of `larimar.errors`; a refused call changes nothing.
    """

    def __init__(
        self,
        folder: ModelFolder,
        addressing: str,
        slots: int,
        dtype: torch.dtype | None,
        detector: str = "",
    ) -> None:
        self.folder = folder
        config = folder.config
        self.encoder = folder.encoder(dtype)
        self.decoder = folder.decoder(dtype)
        self.embedder = SentenceEmbedder(config.scope.package, dtype or serving_dtype())
        self.detector = ScopeDetector.open(folder, self.embedder, detector)
        self.memory = LocalMemory(self._bank_config(addressing, slots))

    def with_new_memory(self, addressing: str = "slots", slots: int = 0) -> Model:
        """The same networks with an empty memory of its own; this model keeps its memory.

        Args: as those of `load`.

        Raises:
            InvalidArgument: an unknown addressing, or a bad number of slots.
        """
        other = copy.copy(self)
        other.memory = LocalMemory(self._bank_config(addressing, slots))
        return other

    @property
    def state(self) -> BankState:
        """What memory has folded so far."""
        return self.memory.state

    # Edits

    def write(
        self,
        prompt: str,
        answer: str,
        fact_id: str | None = None,
        rephrasings: Sequence[str] = (),
    ) -> Edit:
        """Writes a fact in one shot; writing a live fact id again replaces it.

        Raises:
            InvalidArgument: a text is empty, too long or not Unicode.
        """
        fact = NewFact.of(
            {"prompt": prompt, "answer": answer, "id": fact_id, "rephrasings": rephrasings}
        )
        [payload] = payloads_of(self.state.config, self.encoder, self.embedder, [fact])
        if isinstance(payload, LarimarError):
            raise payload
        return self.memory.write([payload])[0]

    def write_many(self, facts: Iterable[Any]) -> list[Edit | FailedWrite]:
        """Writes many facts, a result for each, in order; one bad fact fails alone.

        `facts` are mappings with ``prompt``, ``answer`` and, where wanted, ``fact_id`` (or
        ``id``) and ``rephrasings``; or objects with such attributes, as those of `facts`.

        Raises:
            ResourceExhausted: the memory is full; groups of WRITE_GROUP facts before are written.
        """
        results: list[Edit | FailedWrite] = []
        remaining = iter(facts)
        while group := list(islice(remaining, WRITE_GROUP)):
            results += self._write_group(group, len(results))
        return results

    def censor(
        self, prompt: str, rephrasings: Sequence[str] = (), fact_id: str | None = None
    ) -> Edit:
        """Writes "unknown" as the answer of a prompt, also for what only the base model knows.

        A fact that was written under an id of its own is censored by that `fact_id`: it is
        replaced, and nothing of its answer is read any more.

        Raises:
            InvalidArgument: as `write`.
            FailedPrecondition: FACT_HAS_ID, no `fact_id` was given, and a live fact of another id
                has this prompt, or this rephrasing.
        """
        if not fact_id:
            self._check_no_other_has(prompt)
        return self.write(prompt, CENSORED_ANSWER, fact_id, rephrasings)

    def forget(self, fact_id: str) -> Edit:
        """Removes a fact's contribution exactly; `at` still finds it in older versions.

        Raises:
            NotFound: no such fact was written.
            FailedPrecondition: it is forgotten already.
        """
        return self.memory.forget([fact_id])[0]

    def forget_many(self, fact_ids: Iterable[str]) -> list[Edit]:
        """Forgets several facts, all of them or none.

        Raises:
            NotFound, FailedPrecondition: as `forget`, for the first that is refused.
            InvalidArgument: one id alone, not in a list.
        """
        given = fact_ids if isinstance(fact_ids, str) else list(fact_ids)
        return self.memory.forget(several("fact_ids", given))

    # Questions

    def ask(
        self,
        prompt: str,
        max_tokens: int = 32,
        *,
        memory: bool = True,
        scope: bool = True,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        at: int = 0,
        noise: float = 0.0,
        noise_seed: int = 0,
    ) -> Answer:
        """Answers from memory when the prompt is in scope, else as the plain decoder.

        Args:
            memory: False asks the plain decoder.
            scope: False answers from memory whatever the prompt concerns.
            at: answers as of this version; 0 is the newest.
            noise: standard deviation of normal noise on the address, drawn under `noise_seed`.

        Raises:
            InvalidArgument: an empty or too long prompt, or bad settings.
            FailedPrecondition: `at` is not written yet.
        """
        sampling = Sampling(max_tokens, temperature, top_p, seed, several("stop", stop))
        found = self.recollect(
            [prompt], memory=memory, scope=scope, at=at, noise=noise, noise_seed=noise_seed
        )
        return self.answer_from([prompt], found, sampling)[0]

    def ask_many(
        self,
        prompts: Sequence[str],
        max_tokens: int = 32,
        *,
        memory: bool = True,
        scope: bool = True,
        at: int = 0,
    ) -> list[Answer]:
        """Greedy answers to many prompts, decoded in batches; each is what `ask` would give.

        Raises:
            InvalidArgument, FailedPrecondition: as `ask`.
        """
        found = self.recollect(prompts, memory=memory, scope=scope, at=at)
        return self.answer_from(prompts, found, Sampling(max_tokens))

    def score(
        self,
        prompt: str,
        candidates: Sequence[str],
        *,
        memory: bool = True,
        scope: bool = True,
        at: int = 0,
    ) -> Score:
        """Log probabilities of candidate answers, with the same scope and memory as `ask`.

        Scope sees the prompt only.

        Raises:
            InvalidArgument: an empty or too long text.
            FailedPrecondition: `at` is not written yet.
        """
        return self.score_many([prompt], [candidates], memory=memory, scope=scope, at=at)[0]

    def score_many(
        self,
        prompts: Sequence[str],
        candidates: Sequence[Sequence[str]],
        *,
        memory: bool = True,
        scope: bool = True,
        at: int = 0,
    ) -> list[Score]:
        """Scores each prompt's own candidates; each result is what `score` would give.

        Raises:
            InvalidArgument, FailedPrecondition: as `score`.
        """
        found = self.recollect(prompts, memory=memory, scope=scope, at=at)
        return self.score_from(prompts, candidates, found)

    def recollect(
        self,
        prompts: Sequence[str],
        *,
        memory: bool = True,
        scope: bool = True,
        at: int = 0,
        noise: float = 0.0,
        noise_seed: int = 0,
    ) -> list[Recollection]:
        """What memory has for each prompt: the first half of `ask` and `score`.

        Args: as those of `ask`.

        Raises:
            InvalidArgument: an empty or too long prompt, or a bad noise.
            FailedPrecondition: `at` is not written yet.
        """
        several("prompts", prompts)
        if not memory:
            return [Recollection(None, False, 0.0, None, 0)] * len(prompts)
        state = self.memory.at(at)
        found = self._decided(prompts, state)
        wanted = [
            place
            for place, decision in enumerate(found)
            if decision.in_scope or (len(state) and not scope)
        ]
        latents: dict[int, np.ndarray] = {}
        if wanted:
            queries = self.encoder.prompt_latents([prompts[place] for place in wanted])
            read = state.read(queries, noise, noise_seed)
            latents = {place: one.value for place, one in zip(wanted, read, strict=True)}
        return [
            Recollection(
                latents.get(place),
                place in latents,
                decision.score,
                decision.fact_id if place in latents else None,
                state.version,
            )
            for place, decision in enumerate(found)
        ]

    def answer_from(
        self, prompts: Sequence[str], found: Sequence[Recollection], sampling: Sampling
    ) -> list[Answer]:
        """Decodes each prompt with what was recollected for it: the second half of `ask`.

        Raises:
            InvalidArgument: an empty or too long prompt, or bad sampling settings.
        """
        latents = [one.latent for one in found]
        decoded = self._decoded(several("prompts", prompts), latents, sampling)
        return [
            Answer(
                text.lstrip(),
                one.in_scope,
                one.scope_score,
                one.fact_id,
                one.version,
                BANK,
                reason,
                tokens,
            )
            for (text, reason, tokens), one in zip(decoded, found, strict=True)
        ]

    def score_from(
        self,
        prompts: Sequence[str],
        candidates: Sequence[Sequence[str]],
        found: Sequence[Recollection],
    ) -> list[Score]:
        """Scores each prompt's candidates with what was recollected for it.

        Raises:
            InvalidArgument: an empty or too long text, or no candidates.
        """
        given = [several("candidates", texts) for texts in candidates]
        results = []
        for prompt, texts, one in zip(several("prompts", prompts), given, found, strict=True):
            z_C = None if one.latent is None else torch.from_numpy(one.latent.copy())
            scores = self.decoder.score(prompt, texts, z_C)
            ranked = tuple(
                CandidateScore(text, score.token_logprobs, score.token_is_argmax)
                for text, score in zip(texts, scores, strict=True)
            )
            results.append(
                Score(ranked, one.in_scope, one.scope_score, one.fact_id, one.version, BANK)
            )
        return results

    def dream(
        self,
        count: int = DEFAULT_DREAMS,
        *,
        seed: int = 0,
        prompt: str = DREAM_PROMPT,
        at: int = 0,
        max_tokens: int = 32,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
    ) -> DreamResult:
        """Texts decoded from latents of random addresses: what the memory generates unasked.

        Args:
            seed: of the addresses and of the sampling; the same seed gives the same texts.
            prompt: what each text begins with.

        Raises:
            FailedPrecondition: the memory is empty, or `at` is not written yet.
            InvalidArgument: a count or setting out of range.
        """
        utf8("prompt", prompt)
        state = self.memory.at(at)
        latents = list(dreams.sample(state, count, seed))
        sampling = Sampling(max_tokens, temperature, top_p, seed, several("stop", stop))
        decoded = self._decoded([prompt] * count, latents, sampling)
        return DreamResult(tuple(prompt + text for text, _, _ in decoded), state.version, BANK)

    # The memory

    def facts(self) -> Iterator[Fact]:
        """Live facts in order of fact id."""
        return self.memory.facts()

    def fact(self, fact_id: str) -> Fact:
        """One live fact. Raises: NotFound, when it was never written or is forgotten."""
        return self.memory.fact(fact_id)

    def digest(self) -> str:
        """The digest of the memory: equal for equal facts, here and in a pipeline."""
        return self.state.digest()

    def save_memory(self, path: str | Path) -> None:
        """Saves the memory's live facts, with their vectors, to one safetensors file."""
        self.memory.save(path)

    def load_memory(self, path: str | Path) -> None:
        """Replaces the memory by one that `save_memory` saved.

        Raises:
            NotFound: no such file.
            InvalidArgument: it was saved by another model, or is damaged. Nothing is replaced.
        """
        self.memory = LocalMemory.load(path, self.state.config)

    def _bank_config(self, addressing: str, slots: int) -> BankConfig:
        fixed_point = self.folder.config.fixed_point
        return bank_config(
            addressing,
            slots,
            prompt_size=self.encoder.prompt_size,
            value_size=self.encoder.value_size,
            scope_size=self.embedder.size,
            prompt_bits=fixed_point.prompt_bits,
            value_bits=fixed_point.value_bits,
            scope_bits=fixed_point.scope_bits,
            encoder_digest=self.folder.encoder_digest,
            scope_digest=self.embedder.digest,
        )

    def _write_group(self, group: Sequence[Any], start: int) -> list[Edit | FailedWrite]:
        """Writes the facts of one group; `start` is the place of its first in the whole call."""
        facts: list[NewFact | LarimarError] = []
        for given in group:
            try:
                facts.append(NewFact.of(given))
            except LarimarError as error:
                facts.append(error)
        sound = [fact for fact in facts if isinstance(fact, NewFact)]
        payloads = iter(payloads_of(self.state.config, self.encoder, self.embedder, sound))
        made = [next(payloads) if isinstance(fact, NewFact) else fact for fact in facts]
        written = [one for one in made if isinstance(one, Payload)]
        edits = iter(self.memory.write(written) if written else [])
        return [
            next(edits)
            if isinstance(one, Payload)
            else FailedWrite(start + place, getattr(fact, "fact_id", ""), "", BANK, one)
            for place, (fact, one) in enumerate(zip(facts, made, strict=True))
        ]

    def _check_no_other_has(self, prompt: str) -> None:
        """Raises FailedPrecondition where a prompt is one of a live fact of another id."""
        utf8("prompt", prompt)
        [found] = self.state.facts_at(self.embedder.embed([prompt]), SAME_TEXT)
        for fact in map(self.memory.fact, found):
            texts = (fact.prompt, *fact.rephrasings)
            if fact.fact_id != default_fact_id(prompt) and is_among(prompt, texts):
                raise fact_has_id(fact.fact_id)

    def _decided(self, prompts: Sequence[str], state: BankState) -> list[Decision]:
        """Whether each prompt is in scope of a state's facts, and its nearest one."""
        for prompt in prompts:
            self.encoder.tokenize(Text(prompt))
        groups = [query_sentences(prompt) for prompt in prompts]
        if not groups:
            return []
        vectors = self.embedder.embed([part for group in groups for part in group])
        nearest = state.detect(vectors)
        written = {}
        if self.detector.reads_prompts:
            for fact_id in {fact_id for _, fact_id in nearest if fact_id}:
                payload = self.memory.payload(state.facts[fact_id][0])
                written[fact_id] = (payload.prompt, *payload.rephrasings)
        found = iter(nearest)
        return [
            self.detector.decide(group, list(islice(found, len(group))), written)
            for group in groups
        ]

    def _decoded(
        self,
        prompts: Sequence[str],
        latents: Sequence[np.ndarray | None],
        sampling: Sampling,
    ) -> list[tuple[str, str, int]]:
        """What follows each prompt: text, finish reason and tokens."""
        pieces = self.decoder.texts(
            prompts,
            [sampling] * len(prompts),
            [None if z_C is None else torch.from_numpy(z_C.copy()) for z_C in latents],
        )
        return [(piece.text, piece.finish_reason, piece.tokens) for piece in pieces]
