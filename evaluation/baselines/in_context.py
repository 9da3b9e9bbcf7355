"""Edits as text before the prompt: PROMPT, RAG and IKE, all read by the plain decoder.

Source: IKE, Zheng et al. 2023, "Can We Edit Factual Knowledge by In-Context Learning?",
arXiv 2305.12740, whose demonstrations copy a new fact, carry it over to a rephrased prompt, or
keep what a neighbour of it says. N texts, F facts, P texts and their
sentences, S size of a sentence embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from evaluation.data import EditRecord
from evaluation.systems import InProcess, NewFact, Query, Seen
from larimar.decoder import Decoder
from larimar.errors import InvalidArgument
from larimar.scope import SentenceEmbedder, query_sentences

DEMONSTRATIONS = 32
"""Nearest records that may become demonstrations, as in IKE; as many as fit are shown."""
MOST_RECORDS = 1000
"""Records that demonstrations are chosen from."""
KINDS = ("update", "retain", "retain", "update", "retain", "update", "retain", "copy")
"""What demonstrations show, from the nearest on: 1 copies, 3 update, 4 retain, as in IKE."""


def statement(fact: NewFact) -> str:
    """A fact as a sentence, ended: decoders whose tokens have no line ends see where it stops."""
    return f"{fact.prompt} {fact.answer}."


def unit_embeddings(embedder: SentenceEmbedder, texts: Sequence[str]) -> np.ndarray:
    """Sentence embeddings of length 1, float64 (N, S): their products are cosines."""
    vectors_NS = embedder.embed(list(texts)).astype(np.float64)
    return vectors_NS / np.linalg.norm(vectors_NS, axis=1, keepdims=True)


class Fitting:
    """Puts texts before a prompt, as many as a decoder takes."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._counts: dict[str, int] = {}

    def fitted(self, texts: Sequence[str], end: str) -> str:
        """`end` after the last of the texts that fit; the first ones are dropped.

        Raises:
            InvalidArgument: the end alone is too long.
        """
        room = self._decoder.max_prompt_tokens - self._count(end)
        if room < 0:
            raise InvalidArgument("a prompt is too long for the decoder: shorten it")
        first = len(texts)
        while first and self._count(texts[first - 1]) <= room:
            first -= 1
            room -= self._count(texts[first])
        while True:
            joined = " ".join([*texts[first:], end])
            # Tokens at the seams may differ from those of the parts.
            if first == len(texts) or self._tokens(joined) <= self._decoder.max_prompt_tokens:
                return joined
            first += 1

    def _count(self, text: str) -> int:
        if text not in self._counts:
            self._counts[text] = self._tokens(f" {text}")
        return self._counts[text]

    def _tokens(self, text: str) -> int:
        return len(self._decoder.tokenizer(text, add_special_tokens=False)["input_ids"])


class Prompted:
    """PROMPT: every written fact's statement before every prompt, the oldest dropped."""

    def __init__(self, system: InProcess) -> None:
        self._system = system
        self._fitting = Fitting(system.model.decoder)
        self.facts: dict[str, NewFact] = {}

    def write(self, facts: Sequence[NewFact]) -> None:
        """Takes facts in."""
        for fact in facts:
            self.facts.pop(fact.fact_id, None)  # written again, it is the newest
            self.facts[fact.fact_id] = fact

    def forget(self, fact_ids: Sequence[str]) -> None:
        """Leaves facts out from now on."""
        for fact_id in fact_ids:
            self.facts.pop(fact_id, None)

    def read(self, queries: Sequence[Query]) -> list[Any]:
        """The queries with their context, to be decoded without a latent."""
        contexts = self.contexts([query.prompt for query in queries])
        plain = self._system.model.recollect([one.prompt for one in queries], memory=False)
        return [
            (
                replace(query, prompt=self._fitting.fitted(texts, end)),
                replace(found, in_scope=bool(texts)),
            )
            for query, found, (texts, end) in zip(queries, plain, contexts, strict=True)
        ]

    def decode(self, held: Sequence[Any]) -> list[Seen]:
        """Scores and generates with the plain decoder."""
        return self._system.decode(held)

    def contexts(self, prompts: Sequence[str]) -> list[tuple[list[str], str]]:
        """For each prompt the texts before it, the last the one to keep longest; and its end."""
        told = [statement(fact) for fact in self.facts.values()]
        return [(told, prompt) for prompt in prompts]


class Retrieving(Prompted):
    """What the nearest written fact is, by the cosine of sentence embeddings."""

    def __init__(self, system: InProcess) -> None:
        super().__init__(system)
        self._vectors: dict[str, np.ndarray] = {}

    def write(self, facts: Sequence[NewFact]) -> None:
        """Takes facts in; each prompt is embedded once."""
        super().write(facts)
        vectors_NS = self.embedded([fact.prompt for fact in facts])
        self._vectors |= {fact.fact_id: vec for fact, vec in zip(facts, vectors_NS, strict=True)}

    def nearest(self, prompts: Sequence[str]) -> list[tuple[float, NewFact]]:
        """For each prompt its nearest written fact, with the cosine; nothing where none is.

        The cosine is the largest of the prompt and each of its sentences, as in `esd`.
        """
        return [max(near, key=lambda one: one[0]) for _, near in self.nearest_parts(prompts)]

    def nearest_parts(
        self, prompts: Sequence[str]
    ) -> list[tuple[list[str], list[tuple[float, NewFact]]]]:
        """Each prompt's sentences and the prompt itself, and of each part its nearest written fact
        with the cosine; nothing where none is written."""
        if not self.facts or not prompts:
            return []
        facts = list(self.facts.values())
        written_FS = np.stack([self._vectors[fact.fact_id] for fact in facts])
        groups = [query_sentences(prompt) for prompt in prompts]
        cosines_PF = self.embedded([part for group in groups for part in group]) @ written_FS.T
        found, first = [], 0
        for group in groups:
            own_PF = cosines_PF[first : first + len(group)]
            at_P = own_PF.argmax(1)
            near = [(float(own_F[at]), facts[at]) for own_F, at in zip(own_PF, at_P, strict=True)]
            found.append((group, near))
            first += len(group)
        return found

    def embedded(self, texts: Sequence[str]) -> np.ndarray:
        """Sentence embeddings of length 1, (N, S)."""
        return unit_embeddings(self._system.model.embedder, texts)


class Retrieved(Retrieving):
    """RAG: the nearest written fact's statement before the prompt, where scope takes the prompt in.

    The detector that decides is the system's, so that this row and Larimar's retrieve alike and
    differ in what the decoder is given: the fact's text here, its latent there.
    """

    def contexts(self, prompts: Sequence[str]) -> list[tuple[list[str], str]]:
        """As `Prompted.contexts`; no text where no fact is near enough."""
        found = self.nearest_parts(prompts)
        if not found:
            return [([], prompt) for prompt in prompts]
        contexts: list[tuple[list[str], str]] = []
        for prompt, (parts, near) in zip(prompts, found, strict=True):
            written = {fact.fact_id: (fact.prompt, *fact.rephrasings) for _, fact in near}
            decision = self._system.model.detector.decide(
                parts, [(cosine, fact.fact_id) for cosine, fact in near], written
            )
            told = [statement(self.facts[decision.fact_id])] if decision.in_scope else []
            contexts.append((told, prompt))
        return contexts


class Demonstrated(Retrieving):
    """IKE: demonstrations of other edits, then the new fact, then the prompt.

    Args:
        records: what demonstrations are made of; none of them may be an evaluated one.
    """

    def __init__(self, system: InProcess, records: Sequence[EditRecord]) -> None:
        super().__init__(system)
        if not records:
            raise InvalidArgument(
                "IKE shows other edits, and all records of the file are evaluated: give a "
                "--limit, or other records by --demonstrations FILE"
            )
        self._records = list(records[:MOST_RECORDS])
        self._pool_NS: np.ndarray | None = None
        self._shown: dict[str, list[str]] = {}

    def write(self, facts: Sequence[NewFact]) -> None:
        """Takes facts in and chooses each one's demonstrations: the nearest records, nearest last.

        Cost: the first call embeds all records.
        """
        super().write(facts)
        if self._pool_NS is None:
            self._pool_NS = self.embedded([_new_fact(record) for record in self._records])
        cosines_FN = self.embedded([f"{f.prompt} {f.answer}" for f in facts]) @ self._pool_NS.T
        for fact, cosines_N in zip(facts, cosines_FN, strict=True):
            near = np.argsort(-cosines_N, kind="stable")[:DEMONSTRATIONS]
            self._shown[fact.fact_id] = [
                demonstration(self._records[at], KINDS[rank % len(KINDS)])
                for rank, at in enumerate(near)
            ][::-1]

    def contexts(self, prompts: Sequence[str]) -> list[tuple[list[str], str]]:
        """As `Prompted.contexts`: the new fact stays next to the prompt."""
        found = self.nearest(prompts)
        if not found:
            return [([], prompt) for prompt in prompts]
        return [
            (self._shown[fact.fact_id], f"New Fact: {statement(fact)} Prompt: {prompt}")
            for prompt, (_, fact) in zip(prompts, found, strict=True)
        ]


def demonstration(record: EditRecord, kind: str) -> str:
    """One example of a new fact, a prompt and what is said then.

    Args:
        kind: one of KINDS; a record that lacks such a prompt shows a copy. A paraphrase "as given"
            is none: EasyEdit's is a prompt for free generation more often than not, which no
            answer follows.
    """
    shown = f"{record.prompt} {record.target_new}"
    if kind == "update" and record.paraphrases:
        shown = f"{record.paraphrases[0]} {record.target_new}"
    elif kind == "retain" and record.neighbors:
        shown = f"{record.neighbors[0]} {record.neighbor_answers[0]}"
    return f"New Fact: {_new_fact(record)}. Prompt: {shown}."


def others(records: Sequence[EditRecord], evaluated: Sequence[EditRecord]) -> list[EditRecord]:
    """The records that share neither subject nor id with an evaluated one, and that show no prompt
    which is asked: not of an edit, nor of a neighbour, whose answer it would tell."""
    ids = {record.case_id for record in evaluated}
    asked = {
        prompt.casefold()
        for one in evaluated
        for prompt in (one.prompt, *one.paraphrases, *one.paraphrases_raw, *one.neighbors)
    }
    subjects = {record.subject.casefold() for record in evaluated} - {""}
    return [
        record
        for record in records
        if record.case_id not in ids
        and record.subject.casefold() not in subjects
        and asked.isdisjoint(
            prompt.casefold()
            for prompt in (record.prompt, *record.paraphrases[:1], *record.neighbors[:1])
        )
    ]


def _new_fact(record: EditRecord) -> str:
    return f"{record.prompt} {record.target_new}"
