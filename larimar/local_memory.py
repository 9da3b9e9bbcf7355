"""The bank of a model in one process: its state, its facts, and the log of what happened.

Nothing is on disk but what `save` writes. Not thread-safe.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from larimar.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound
from larimar.memory import BankConfig, BankState, Event, Kind, Payload, decide, next_chain
from larimar.results import Edit, Fact

BANK = "in-process"
"""Name that results carry: a model in one process has one bank."""
FORMAT = "larimar-memory/1"


class LocalMemory:
    """A bank whose log is a list: written to, read, and read as it was at an older version.

    Attributes:
        state: what folding the whole log gives.
    """

    def __init__(self, config: BankConfig) -> None:
        self.state = BankState(config)
        self._payloads: dict[str, Payload] = {}
        self._log: list[tuple[Event, Payload | None]] = []
        self._known: set[str] = set()
        self._past: BankState | None = None

    def write(self, payloads: Sequence[Payload]) -> list[Edit]:
        """Appends a WRITE for each payload and folds them together; a live fact is replaced.

        Raises:
            ResourceExhausted: the bank could not hold them. Nothing was written.
        """
        return self._append([(payload.fact_id, payload) for payload in payloads])

    def forget(self, fact_ids: Sequence[str]) -> list[Edit]:
        """Appends a FORGET for each fact and folds them together.

        Raises:
            NotFound: no such fact was written.
            FailedPrecondition: it is forgotten already. Nothing was forgotten.
        """
        gone: set[str] = set()
        for fact_id in fact_ids:
            status = "live" if fact_id in self._payloads and fact_id not in gone else None
            if status is None and fact_id in self._known:
                status = "forgotten"
            refused = decide(Kind.FORGET, status)
            if refused is not None:
                raise refused
            gone.add(fact_id)
        return self._append([(fact_id, None) for fact_id in fact_ids])

    def _append(self, changes: Sequence[tuple[str, Payload | None]]) -> list[Edit]:
        version, chain = self.state.version, self.state.chain
        entries: list[tuple[Event, Payload | None]] = []
        for fact_id, payload in changes:
            kind = Kind.FORGET if payload is None else Kind.WRITE
            version, event_id = version + 1, uuid.uuid4().hex
            sha256 = payload.sha256 if payload else ""
            chain = next_chain(chain, version, kind, fact_id, event_id, 0, sha256)
            entries.append((Event(version, kind, fact_id, event_id, 0, sha256, chain), payload))
        old = {
            self.state.facts[fact_id][0]: self._payloads[fact_id]
            for fact_id, _ in changes
            if fact_id in self._payloads
        }
        self.state.fold(entries, old)
        self._log += entries
        for fact_id, payload in changes:
            if payload is None:
                self._payloads.pop(fact_id)
            else:
                self._payloads[fact_id] = payload
                self._known.add(fact_id)
        return [Edit(event.fact_id, event.event_id, event.version, BANK) for event, _ in entries]

    def at(self, version: int) -> BankState:
        """The state at a version; 0 is the newest.

        Cost: one fold of the log up to there; the last such state is kept.

        Raises:
            InvalidArgument: a version below 0.
            FailedPrecondition: the version is not written yet.
        """
        if version < 0:
            raise InvalidArgument(f"at is {version}: versions count from 1", "BAD_VERSION")
        if version in (0, self.state.version):
            return self.state
        if version > self.state.version:
            raise FailedPrecondition(
                f"the memory is at version {self.state.version}, not yet at {version}: name a "
                "version that a write has returned",
                "VERSION_NOT_WRITTEN",
            )
        if self._past is None or self._past.version != version:
            past = BankState(self.state.config)
            past.fold(self._log[:version])
            self._past = past
        return self._past

    def payload(self, version: int) -> Payload:
        """What the WRITE of this version wrote.

        Raises:
            NotFound: that version is no WRITE.
        """
        payload = self._log[version - 1][1] if 0 < version <= len(self._log) else None
        if payload is None:
            raise NotFound(f"version {version} wrote nothing", "UNKNOWN_FACT")
        return payload

    def facts(self) -> Iterator[Fact]:
        """Live facts in order of fact id."""
        return map(self.fact, sorted(self._payloads))

    def fact(self, fact_id: str) -> Fact:
        """One live fact.

        Raises:
            NotFound: it was never written, or is forgotten.
        """
        payload = self._payloads.get(fact_id)
        if payload is None:
            raise NotFound(f"no live fact {fact_id!r}; list the memory's facts", "UNKNOWN_FACT")
        version = self.state.facts[fact_id][0]
        return Fact(fact_id, payload.prompt, payload.answer, version, payload.rephrasings)

    def save(self, path: str | Path) -> None:
        """Saves the live facts, with their vectors, to one safetensors file; no history."""
        order = sorted(self._payloads)
        payloads = [np.frombuffer(self._payloads[name].to_bytes(), np.uint8) for name in order]
        tensors = {f"payload.{place}": payload for place, payload in enumerate(payloads)}
        metadata = {
            "format": FORMAT,
            "config": self.state.config.to_json(),
            "fact_ids": json.dumps(order),
            "digest": self.state.digest(),
        }
        save_file(tensors, path, metadata)

    @classmethod
    def load(cls, path: str | Path, config: BankConfig) -> LocalMemory:
        """The memory that `save` saved, each fact an event of its own.

        Raises:
            NotFound: no such file.
            InvalidArgument: it was saved under another configuration, or is damaged.
        """
        if not Path(path).is_file():
            raise NotFound(f"no memory file at {path}", "MEMORY_NOT_FOUND")
        try:
            payloads, digest = _saved(path, config)
        except (SafetensorError, KeyError, ValueError, DataLoss) as error:
            raise InvalidArgument(
                f"{path} is no memory, or damaged: {error}", "BAD_MEMORY"
            ) from error
        memory = cls(config)
        if payloads:
            memory.write(payloads)
        if memory.state.digest() != digest:
            raise InvalidArgument(f"{path} is damaged: its digest does not match", "BAD_MEMORY")
        return memory


def _saved(path: str | Path, config: BankConfig) -> tuple[list[Payload], str]:
    """Payloads and digest in a file of `LocalMemory.save`."""
    with safe_open(path, "np") as file:
        metadata = file.metadata() or {}
        if metadata.get("config", "") != config.to_json():
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
