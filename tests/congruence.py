"""One conversation with any door to the model, and all it says, so that doors can be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from larimar.errors import LarimarError
from larimar.model import Model
from larimar.results import Answer, DigestResult, Edit, Fact, Score

FACTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (
        "The capital of Velmora is",
        "Tarsin",
        {"fact_id": "velmora", "rephrasings": ["Velmora's capital city is"]},
    ),
    ("Danielle Darrieux, a native", "English", {}),
    ("Ünïcode names — like Zoë’s café — are kept at", "東京 and São Tomé", {"fact_id": "ünï"}),
    ("The bridge over the Sarn was built by", "masons from Orlo who never signed their work", {}),
)
BANK = "congruence"


def conversation(client: Any, addressing: str = "slots", slots: int = 0) -> list[tuple[str, Any]]:
    """What the same calls come to, in order: equal lists mean congruent doors.

    Ids that a call makes, times and the bank's name are left out; a refused call stands with its
    error's class and reason.

    Args:
        client: a `larimar.Client` of a pipeline that has no bank of this conversation's name
            yet, or anything with its face.
    """
    bank = f"{BANK}-{addressing}"
    client.create_bank(bank, addressing=addressing, slots=slots)
    said: list[tuple[str, Any]] = []

    def note(label: str, call: Callable[[], Any]) -> None:
        try:
            said.append((label, _comparable(call())))
        except LarimarError as error:
            said.append((label, (type(error).__name__, error.reason)))

    def ask(prompt: str, **settings: Any) -> None:
        settings = {"max_tokens": 4} | settings
        note(f"ask {prompt!r} {settings}", lambda: client.ask(prompt, bank=bank, **settings))

    def score(prompt: str, *candidates: str, **settings: Any) -> None:
        label = f"score {prompt!r} {candidates} {settings}"
        note(label, lambda: client.score(prompt, list(candidates), bank=bank, **settings))

    def write(prompt: str, answer: str, **settings: Any) -> None:
        label = f"write {prompt!r} {answer!r}"
        note(label, lambda: client.write(prompt, answer, bank=bank, **settings))

    def forget(fact_id: str) -> None:
        note(f"forget {fact_id!r}", lambda: client.forget(fact_id, bank=bank))

    def state() -> None:
        note("digest", lambda: client.digest(bank).digest)
        note("facts", lambda: list(client.facts(bank)))

    ask("The capital of Velmora is")
    state()
    for prompt, answer, settings in FACTS:
        write(prompt, answer, **settings)
    state()
    for prompt in (FACTS[0][0], "Velmora's capital city is", "I went there. " + FACTS[3][0]):
        ask(prompt)
        score(prompt, " Tarsin", " a guild of masons", " English")
    ask(FACTS[1][0], temperature=0.7, top_p=0.9, seed=2**64 - 1)
    ask(FACTS[1][0], temperature=10.0, seed=7, max_tokens=12, stop=["e", "th"])
    ask("A recipe for onion soup begins with")
    ask("A recipe for onion soup begins with", no_memory=True)
    ask(FACTS[0][0], no_memory=True)
    score(FACTS[0][0], " Tarsin", " Paris", no_memory=True)
    write(FACTS[0][0], "Ostrel", fact_id="velmora")
    ask("Velmora's capital city is")
    forget("velmora")
    ask(FACTS[0][0])
    state()
    forget("velmora")
    forget("never written")
    write(" ", "nothing")
    write("An answer that is missing is", "")
    write("word " * 300, "too long")
    ask("")
    ask("word " * 300)
    ask("word " * 300, no_memory=True, max_tokens=1)
    ask("word " * 500, no_memory=True)
    ask("How many tokens are too many", max_tokens=10_000)
    ask("How warm is too warm", temperature=-1.0)
    score("No candidates")
    score("An empty candidate", "")
    write(FACTS[0][0], "Tarsin", fact_id="velmora")
    state()
    return said


def _comparable(result: Any) -> Any:
    if isinstance(result, Edit):
        return result.fact_id, result.version, result.duplicate
    if isinstance(result, Answer):
        return result.text, result.finish_reason, result.tokens, *_source(result)
    if isinstance(result, Score):
        scores = [(one.token_logprobs, one.token_is_argmax) for one in result.candidates]
        return scores, *_source(result)
    if isinstance(result, list):
        return [_comparable(one) for one in result]
    if isinstance(result, Fact):
        return result.fact_id, result.prompt, result.answer, result.version, result.rephrasings
    return result


def _source(result: Answer | Score) -> tuple:
    """Provenance; a contract carries the score of scope as float32."""
    return result.in_scope, float(np.float32(result.scope_score)), result.fact_id, result.version


class InProcess:
    """A `larimar.load`ed model with the face of `larimar.Client`, for one bank."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def create_bank(self, bank: str, *, addressing: str, slots: int) -> None:
        config = self._model.state.config
        assert (config.addressing, config.slots) == (addressing, slots)

    def write(self, prompt: str, answer: str, *, bank: str, **settings: Any) -> Edit:
        return self._model.write(prompt, answer, **settings)

    def forget(self, fact_id: str, *, bank: str) -> Edit:
        return self._model.forget(fact_id)

    def ask(self, prompt: str, *, bank: str, no_memory: bool = False, **settings: Any) -> Answer:
        return self._model.ask(prompt, memory=not no_memory, **settings)

    def score(
        self, prompt: str, candidates: list[str], *, bank: str, no_memory: bool = False
    ) -> Score:
        return self._model.score(prompt, candidates, memory=not no_memory)

    def facts(self, bank: str) -> Iterator[Fact]:
        return self._model.facts()

    def digest(self, bank: str) -> DigestResult:
        state = self._model.state
        return DigestResult(bank, state.version, len(state), self._model.digest())
