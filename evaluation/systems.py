"""What is evaluated: a model of this process, or a bank of a running pipeline."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import Console

import larimar
from evaluation.options import IN_PROCESS
from larimar.errors import InvalidArgument, Unavailable

_messages = Console(stderr=True)
CALLS_AT_ONCE = 8
"""Questions to a pipeline that are on their way together: one batch of its decoder."""
CALL_TIMEOUT_S = 300.0
"""Of one question: a run of hours would rather wait for a busy pipeline than stop."""


@dataclass(frozen=True, slots=True)
class View:
    """A row of a table: how a system is asked."""

    name: str
    memory: bool = True
    """False: the plain decoder."""
    scope: bool = True
    """False: every prompt reads memory, whatever it concerns."""
    noise: float = 0.0
    """Standard deviation of normal noise on the address."""
    noise_seed: int = 0
    """Of the noise: each prompt has a draw of its own."""


LARIMAR = View("larimar")
SCOPE_OFF = View("scope off", scope=False)
BASE = View("base", memory=False)


class Candidate(Protocol):
    """How one candidate scored after a prompt."""

    @property
    def token_logprobs(self) -> Sequence[float]: ...
    @property
    def token_is_argmax(self) -> Sequence[bool]: ...


@dataclass(frozen=True, slots=True)
class Query:
    """A prompt, the candidates to score after it, and how many tokens to generate (0: none).

    It has candidates, or generates, or both.
    """

    prompt: str
    candidates: tuple[str, ...]
    max_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """What one query came to."""

    candidates: tuple[Candidate, ...]
    text: str | None
    """The greedy continuation; None where nothing was generated."""
    in_scope: bool


Said = tuple[tuple[Candidate, ...], str | None]
"""A query's scores and its text, as in `Seen`."""


@dataclass(frozen=True, slots=True)
class NewFact:
    """A fact to write."""

    fact_id: str
    prompt: str
    answer: str
    rephrasings: tuple[str, ...] = ()


class System(Protocol):
    """A model whose facts can be written and forgotten.

    Questions come in two steps: `read` asks memory as it is now, `decode` may come after the
    facts are forgotten, for the queries of many records together.
    """

    digest: str
    setup: dict[str, str]
    """What else decides its answers, and stands in reports: detector, and precision of the decoder.
    Nothing where it cannot be known, at a pipeline."""

    def write(self, facts: Sequence[NewFact]) -> None: ...
    def forget(self, fact_ids: Sequence[str]) -> None: ...
    def read(self, queries: Sequence[Query], view: View) -> list[Any]: ...
    def decode(self, held: Sequence[Any]) -> list[Seen]: ...
    def plain_difference(self, prompts: Sequence[str]) -> float | None: ...


class Remembering(System, Protocol):
    """A system that does not decode twice what it is told to remember."""

    def decode(self, held: Sequence[Any], remember: bool = False) -> list[Seen]: ...


class Banked(Remembering, Protocol):
    """A system whose facts are in a bank, and that can make more of them."""

    def new_bank(
        self, addressing: str = "slots", slots: int = 0
    ) -> AbstractContextManager[Banked]: ...
    def bank_digest(self) -> str: ...


class InProcess:
    """A model of this process.

    Args:
        said: what was decoded so far, by query and SHA-256 of the latent; kept where `decode` is
            asked to remember.
    """

    def __init__(self, model: Any, said: dict[tuple[Query, bytes], Said] | None = None) -> None:
        self.model = model
        self.digest: str = model.folder.model_digest
        self.setup: dict[str, str] = {
            "detector": model.detector.name,
            "precision": str(model.decoder.network.dtype).removeprefix("torch."),
        }
        self.said: dict[tuple[Query, bytes], Said] = {} if said is None else said

    @contextmanager
    def new_bank(self, addressing: str = "slots", slots: int = 0) -> Iterator[InProcess]:
        """The same model over an empty bank of its own."""
        yield InProcess(self.model.with_new_memory(addressing, slots), self.said)

    def bank_digest(self) -> str:
        """The digest of the facts that are in memory now."""
        return self.model.digest()

    def write(self, facts: Sequence[NewFact]) -> None:
        """Writes facts together."""
        _all_written(self, self.model.write_many(facts))

    def forget(self, fact_ids: Sequence[str]) -> None:
        """Removes the facts' contributions."""
        self.model.forget_many(fact_ids)

    def read(self, queries: Sequence[Query], view: View) -> list[Any]:
        """What memory has for each query now."""
        prompts = [query.prompt for query in queries]
        if view.noise:  # one draw a read: queries that are read together would share it
            found = [self._noisily(prompt, view) for prompt in prompts]
        else:
            found = self.model.recollect(prompts, memory=view.memory, scope=view.scope)
        return list(zip(queries, found, strict=True))

    def _noisily(self, prompt: str, view: View) -> Any:
        """What memory has for a prompt under noise that is drawn for this prompt alone."""
        drawn = hashlib.sha256(f"{view.noise_seed} {prompt}".encode()).digest()
        [found] = self.model.recollect(
            [prompt],
            memory=view.memory,
            scope=view.scope,
            noise=view.noise,
            noise_seed=int.from_bytes(drawn[:4], "big"),
        )
        return found

    def decode(self, held: Sequence[Any], remember: bool = False) -> list[Seen]:
        """Scores and generates, in batches over all that was read.

        Args:
            remember: takes what was said before to the same query with the same latent, and keeps
                what is said now. The decoder gives the same figures either way: a row's do not
                depend on the rows beside it.
        """
        if not remember:
            said = self._decoded(held)
        else:
            keys = [_key(query, found.latent) for query, found in held]
            new = {key: one for key, one in zip(keys, held, strict=True) if key not in self.said}
            self.said.update(zip(new, self._decoded(list(new.values())), strict=True))
            said = [self.said[key] for key in keys]
        return [
            Seen(scores, text, found.in_scope)
            for (scores, text), (_, found) in zip(said, held, strict=True)
        ]

    def _decoded(self, held: Sequence[Any]) -> list[Said]:
        from evaluation.scoring import Job, score_together
        from larimar.decoder import Sampling

        scored = [i for i, (query, _) in enumerate(held) if query.candidates]
        jobs = [Job(held[i][0].prompt, held[i][0].candidates, held[i][1].latent) for i in scored]
        scores = dict(zip(scored, score_together(self.model.decoder, jobs), strict=True))
        texts: dict[int, str] = {}
        for tokens in sorted({query.max_tokens for query, _ in held} - {0}):
            places = [i for i, (query, _) in enumerate(held) if query.max_tokens == tokens]
            answers = self.model.answer_from(
                [held[i][0].prompt for i in places],
                [held[i][1] for i in places],
                Sampling(tokens),
            )
            texts |= {i: one.text for i, one in zip(places, answers, strict=True)}
        return [(scores.get(i, ()), texts.get(i)) for i in range(len(held))]

    def plain_difference(self, prompts: Sequence[str]) -> float | None:
        """The largest difference to the stock model's logits after these prompts, no latent."""
        from evaluation.plain import largest_difference

        return largest_difference(self.model.decoder, prompts)


class Remote:
    """A bank of a running pipeline; what is read is decoded there and then."""

    def __init__(self, client: Any, bank: str, pool: ThreadPoolExecutor) -> None:
        self._client, self._bank, self._pool = client, bank, pool
        self.digest: str = client.status().model_digest
        self.setup: dict[str, str] = {}

    @contextmanager
    def new_bank(self, addressing: str = "slots", slots: int = 0) -> Iterator[Remote]:
        """The same pipeline with an empty bank of its own, deleted at the end."""
        bank = f"evaluation-{uuid.uuid4().hex[:12]}"
        self._client.create_bank(bank, addressing=addressing, slots=slots)
        try:
            yield Remote(self._client, bank, self._pool)
        finally:
            try:
                self._client.delete_bank(bank)
            except Unavailable:
                _messages.print(f"bank {bank} is left behind: the pipeline no longer answers")

    def bank_digest(self) -> str:
        """The digest of the facts that are in the bank now."""
        return self._client.digest(self._bank).digest

    def write(self, facts: Sequence[NewFact]) -> None:
        """Writes facts in one stream."""
        _all_written(self, self._client.write_many(facts, bank=self._bank))

    def forget(self, fact_ids: Sequence[str]) -> None:
        """Removes the facts' contributions."""
        for fact_id in fact_ids:
            self._client.forget(fact_id, bank=self._bank)

    def read(self, queries: Sequence[Query], view: View) -> list[Any]:
        """What the pipeline says to each query now."""
        if not view.scope:
            raise InvalidArgument(f"a pipeline always asks scope: use --target {IN_PROCESS}")
        if view.noise:
            raise InvalidArgument(f"a pipeline scores without noise: use --target {IN_PROCESS}")
        return list(self._pool.map(lambda query: self._seen(query, view), queries))

    def decode(self, held: Sequence[Any], remember: bool = False) -> list[Seen]:
        """Nothing is left to do."""
        return list(held)

    def plain_difference(self, prompts: Sequence[str]) -> float | None:
        """None: a pipeline gives no logits."""
        return None

    def _seen(self, query: Query, view: View) -> Seen:
        where = {"bank": self._bank, "no_memory": not view.memory}
        scores, text, in_scope = (), None, False
        if query.candidates:
            score = self._client.score(query.prompt, query.candidates, **where)
            scores, in_scope = tuple(score.candidates), score.in_scope
        if query.max_tokens:
            answer = self._client.ask(query.prompt, max_tokens=query.max_tokens, **where)
            text, in_scope = answer.text, answer.in_scope
        return Seen(scores, text, in_scope)


def _all_written(system: System, results: Iterable[Any]) -> None:
    """Forgets what was written where some fact was refused. Raises: the first refusal."""
    results = list(results)
    refused = [one.error for one in results if isinstance(one, larimar.FailedWrite)]
    if refused:
        system.forget([one.fact_id for one in results if isinstance(one, larimar.Edit)])
        raise refused[0]


def _key(query: Query, latent: Any) -> tuple[Query, bytes]:
    """What decides all that is decoded; no bytes for the plain decoder."""
    return query, b"" if latent is None else hashlib.sha256(latent.tobytes()).digest()


@contextmanager
def opened(
    target: str,
    model: str,
    detector: str = "",
    addressing: str = "slots",
    slots: int = 0,
    dtype: Any = None,
) -> Iterator[InProcess | Remote]:
    """The system that is evaluated: a model loaded here, or a pipeline.

    At a pipeline everything happens in a bank of its own, deleted at the end.

    Args:
        detector: which one decides scope; empty for the model's own.
        addressing: of the bank; `slots` is K of a pinv or gaussian one, 0 takes the default.
        dtype: of a model loaded here, as of `larimar.load`.

    Raises:
        InvalidArgument: a detector was named for a pipeline, which has its own.
        Unavailable: nothing answers at the target.
    """
    if target == IN_PROCESS:
        loaded = larimar.load(
            model, addressing=addressing, slots=slots, detector=detector, dtype=dtype
        )
        yield InProcess(loaded)
        return
    if detector:
        raise InvalidArgument(f"a pipeline has its own detector: use --target {IN_PROCESS}")
    with (
        larimar.connect(target, timeout_s=CALL_TIMEOUT_S) as client,
        ThreadPoolExecutor(CALLS_AT_ONCE) as pool,
    ):
        pipeline = Remote(client, "", pool)
        with pipeline.new_bank(addressing, slots) as system:
            yield system
