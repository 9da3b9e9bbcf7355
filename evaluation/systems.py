"""What is evaluated: a model of this process, or a bank of a running pipeline."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import Console

import larimar
from evaluation.options import IN_PROCESS
from larimar.errors import InvalidArgument, Unavailable

_messages = Console(stderr=True)
CALLS_AT_ONCE = 8
"""Questions to a pipeline that are on their way together: one batch of its decoder."""


@dataclass(frozen=True, slots=True)
class View:
    """A row of a table: how a system is asked."""

    name: str
    memory: bool = True
    """False: the plain decoder."""
    scope: bool = True
    """False: every prompt reads memory, whatever it concerns."""


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
    """A prompt, the candidates to score after it, and how many tokens to generate (0: none)."""

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


@dataclass(frozen=True, slots=True)
class NewFact:
    """A fact to write."""

    fact_id: str
    prompt: str
    answer: str


class System(Protocol):
    """A model whose facts can be written and forgotten.

    Questions come in two steps: `read` asks memory as it is now, `decode` may come after the
    facts are forgotten, for the queries of many records together.
    """

    digest: str

    def write(self, facts: Sequence[NewFact]) -> None: ...
    def forget(self, fact_ids: Sequence[str]) -> None: ...
    def read(self, queries: Sequence[Query], view: View) -> list[Any]: ...
    def decode(self, held: Sequence[Any]) -> list[Seen]: ...
    def plain_difference(self, prompts: Sequence[str]) -> float | None: ...


class InProcess:
    """A model of this process."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.digest: str = model.folder.model_digest

    def write(self, facts: Sequence[NewFact]) -> None:
        """Writes facts together."""
        _all_written(self, self._model.write_many(facts))

    def forget(self, fact_ids: Sequence[str]) -> None:
        """Removes the facts' contributions."""
        self._model.forget_many(fact_ids)

    def read(self, queries: Sequence[Query], view: View) -> list[Any]:
        """What memory has for each query now."""
        prompts = [query.prompt for query in queries]
        found = self._model.recollect(prompts, memory=view.memory, scope=view.scope)
        return list(zip(queries, found, strict=True))

    def decode(self, held: Sequence[Any]) -> list[Seen]:
        """Scores and generates, in batches over all that was read."""
        from evaluation.scoring import Job, score_together
        from larimar.decoder import Sampling

        scores = score_together(
            self._model.decoder,
            [Job(query.prompt, query.candidates, found.latent) for query, found in held],
        )
        texts: dict[int, str] = {}
        for tokens in sorted({query.max_tokens for query, _ in held} - {0}):
            places = [i for i, (query, _) in enumerate(held) if query.max_tokens == tokens]
            answers = self._model.answer_from(
                [held[i][0].prompt for i in places],
                [held[i][1] for i in places],
                Sampling(tokens),
            )
            texts |= {i: one.text for i, one in zip(places, answers, strict=True)}
        return [
            Seen(candidates, texts.get(i), found.in_scope)
            for i, (candidates, (_, found)) in enumerate(zip(scores, held, strict=True))
        ]

    def plain_difference(self, prompts: Sequence[str]) -> float | None:
        """The largest difference to the stock model's logits after these prompts, no latent."""
        from evaluation.plain import largest_difference

        return largest_difference(self._model.decoder, prompts)


class Remote:
    """A bank of a running pipeline; what is read is decoded there and then."""

    def __init__(self, client: Any, bank: str, pool: ThreadPoolExecutor) -> None:
        self._client, self._bank, self._pool = client, bank, pool
        self.digest: str = client.status().model_digest

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
        return list(self._pool.map(lambda query: self._seen(query, view), queries))

    def decode(self, held: Sequence[Any]) -> list[Seen]:
        """Nothing is left to do."""
        return list(held)

    def plain_difference(self, prompts: Sequence[str]) -> float | None:
        """None: a pipeline gives no logits."""
        return None

    def _seen(self, query: Query, view: View) -> Seen:
        where = {"bank": self._bank, "no_memory": not view.memory}
        score = self._client.score(query.prompt, query.candidates, **where)
        text = None
        if query.max_tokens:
            text = self._client.ask(query.prompt, max_tokens=query.max_tokens, **where).text
        return Seen(tuple(score.candidates), text, score.in_scope)


def _all_written(system: System, results: Iterable[Any]) -> None:
    """Forgets what was written where some fact was refused. Raises: the first refusal."""
    results = list(results)
    refused = [one.error for one in results if isinstance(one, larimar.FailedWrite)]
    if refused:
        system.forget([one.fact_id for one in results if isinstance(one, larimar.Edit)])
        raise refused[0]


@contextmanager
def opened(target: str, model: str, detector: str = "") -> Iterator[System]:
    """The system that is evaluated: a model loaded here, or a pipeline.

    At a pipeline everything happens in a bank of its own, deleted at the end.

    Args:
        detector: which one decides scope; empty for the model's own.

    Raises:
        InvalidArgument: a detector was named for a pipeline, which has its own.
        Unavailable: nothing answers at the target.
    """
    if target == IN_PROCESS:
        yield InProcess(larimar.load(model, detector=detector))
        return
    if detector:
        raise InvalidArgument(f"a pipeline has its own detector: use --target {IN_PROCESS}")
    bank = f"evaluation-{uuid.uuid4().hex[:12]}"
    with larimar.connect(target) as client, ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
        client.create_bank(bank)
        try:
            yield Remote(client, bank, pool)
        finally:
            try:
                client.delete_bank(bank)
            except Unavailable:
                _messages.print(f"bank {bank} is left behind at {target}: it no longer answers")
