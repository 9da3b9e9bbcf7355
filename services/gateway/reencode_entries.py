"""Entries of a log on their way to other vectors: batched, rewritten, chained anew. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from larimar.memory import BankConfig, Kind, Payload, make_payload, next_chain, salted_sha256
from larimar.v1 import common_pb2, memory_pb2
from larimar.wire import bytes_to_vector
from services.limits import MAX_LOAD_BYTES

Record = common_pb2.ArchiveRecord
T = TypeVar("T")

BATCH_ENTRIES = 128
"""Entries that are encoded together: as many as of a stream of writes."""
BATCH_TEXTS = 256
"""Prompts and rephrasings that are encoded together; a fact with more is alone."""
ERASED_TEXT = "erased"
"""Stands where a fact's text is gone, until the ERASE that follows takes it away too."""

_LETTERS = {
    common_pb2.EVENT_KIND_WRITE: Kind.WRITE,
    common_pb2.EVENT_KIND_FORGET: Kind.FORGET,
    common_pb2.EVENT_KIND_ERASE: Kind.ERASE,
}


@dataclass(frozen=True)
class Texts:
    """What a fact says; without an answer it is a passage of a document."""

    prompt: str
    answer: str
    rephrasings: tuple[str, ...]

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt and its rephrasings: a row each."""
        return (self.prompt, *self.rephrasings)


@dataclass(frozen=True)
class Vectors:
    """What the models make of a fact's texts, as they cross a wire."""

    prompt_latents: list[bytes]
    value: bytes
    scope: list[bytes]


@dataclass(frozen=True)
class Entry:
    """An entry of the old log; `texts` of a WRITE that was not erased since."""

    record: Record
    texts: Texts | None

    @property
    def is_erase(self) -> bool:
        """Whether it is an ERASE."""
        return self.record.event.kind == common_pb2.EVENT_KIND_ERASE


def entry_of(record: Record) -> Entry:
    """An entry with what its payload says."""
    if not record.payload:
        return Entry(record, None)
    payload = Payload.from_bytes(record.payload)
    return Entry(record, Texts(payload.prompt, payload.answer, payload.rephrasings))


def texts_of(entry: Entry) -> int:
    """Texts to encode of an entry."""
    return len(entry.texts.prompts) if entry.texts else 0


def is_full(batch: Sequence[Entry], entry: Entry) -> bool:
    """Whether a batch ends before an entry."""
    texts = sum(map(texts_of, batch)) + texts_of(entry)
    return bool(batch) and (len(batch) == BATCH_ENTRIES or texts > BATCH_TEXTS)


def grouped(entries: Sequence[T], apart: Callable[[T, T], bool]) -> list[list[T]]:
    """Entries in their order, cut between neighbours that do not go together."""
    found: list[list[T]] = []
    for entry in entries:
        if found and not apart(found[-1][-1], entry):
            found[-1].append(entry)
        else:
            found.append([entry])
    return found


def runs(batch: Sequence[Entry]) -> list[list[Entry]]:
    """Entries that are appended together; an ERASE is alone."""
    return grouped(batch, lambda before, entry: before.is_erase or entry.is_erase)


def messages(records: Sequence[Record]) -> list[list[Record]]:
    """Records in their order, cut where a message is full."""
    found: list[list[Record]] = [[]]
    size = 0
    for record in records:
        length = record.ByteSize()
        if found[-1] and size + length > MAX_LOAD_BYTES:
            found.append([])
            size = 0
        found[-1].append(record)
        size += length
    return found


def item_of(entry: Entry) -> memory_pb2.AppendItem:
    """The item that appends an entry's event again; the vectors of a WRITE are still to come."""
    event, texts = entry.record.event, entry.texts
    item = memory_pb2.AppendItem(kind=event.kind, event_id=event.event_id, fact_id=event.fact_id)
    if event.kind == common_pb2.EVENT_KIND_WRITE:
        texts = texts or Texts(ERASED_TEXT, ERASED_TEXT, ())
        item.prompt, item.answer = texts.prompt, texts.answer
        item.rephrasings.extend(texts.rephrasings)
    return item


def texts_of_item(item: memory_pb2.AppendItem) -> Texts:
    """What a WRITE item says."""
    return Texts(item.prompt, item.answer, tuple(item.rephrasings))


def with_vectors(item: memory_pb2.AppendItem, vectors: Vectors) -> None:
    """Puts the vectors of its texts into a WRITE item."""
    item.prompt_latents.extend(vectors.prompt_latents)
    item.value = vectors.value
    item.scope_vectors.extend(vectors.scope)


def rewritten(
    config: BankConfig, chain: str, batch: Sequence[Entry], vectors: Sequence[Vectors]
) -> tuple[list[Record], str]:
    """The entries with payloads of a configuration, chained anew, and the last chain value.

    Args:
        vectors: of each entry that has texts, in order.
    """
    coming = iter(vectors)
    records = []
    for entry in batch:
        record = Record()
        record.CopyFrom(entry.record)
        event = record.event
        if entry.texts is not None:
            record.payload = _payload(config, event.fact_id, entry.texts, next(coming)).to_bytes()
            event.payload_sha256 = salted_sha256(record.salt + record.payload)
        event.chain = chain = next_chain(
            chain,
            event.version,
            _LETTERS[event.kind],
            event.fact_id,
            event.event_id,
            event.time_ms,
            event.payload_sha256,
            event.previous_version,
        )
        records.append(record)
    return records, chain


def _payload(config: BankConfig, fact_id: str, texts: Texts, vectors: Vectors) -> Payload:
    latents = [
        bytes_to_vector(raw, config.prompt_size, "prompt latent") for raw in vectors.prompt_latents
    ]
    scope = [bytes_to_vector(raw, config.scope_size, "scope vector") for raw in vectors.scope]
    return make_payload(
        config,
        fact_id,
        texts.prompt,
        texts.answer,
        texts.rephrasings,
        np.stack(latents),
        bytes_to_vector(vectors.value, config.value_size, "value"),
        np.stack(scope),
    )
