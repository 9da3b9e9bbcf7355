"""Archives: a bank's log with its payloads in a folder, so that it can be read without us.

    manifest.json               what it is, and the SHA-256 of every other file
    events.jsonl                a line an event, with the text of what it wrote
    vectors-00001.safetensors   arrays ``addresses.V``, ``value.V``, ``scope.V`` of version V

Reading gives back every byte of every payload, or says which file is not what was written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from larimar.errors import Conflict, DataLoss, InvalidArgument, NotFound
from larimar.memory import BankConfig, Event, Kind, next_chain, salted_sha256
from larimar.payload import Payload

FORMAT = "larimar-archive/1"
MANIFEST, EVENTS = "manifest.json", "events.jsonl"
VECTORS_BYTES = 60 * 10**6
"""Array bytes after which a file of vectors ends: with its header it stays under 64 MB."""
ARRAY_OVERHEAD = 160
"""Bytes that an array takes in the header of its file, at most."""
READ_BYTES = 1 << 20
"""Bytes hashed at once."""

_ARRAYS = ("addresses", "value", "scope")


@dataclass(frozen=True, slots=True)
class Header:
    """What an archive holds, as `larimar.v1.ArchiveHeader` says it."""

    bank: str
    config: BankConfig
    version: int
    chain: str
    digest: str
    erase_count: int
    erased_fact_ids: tuple[str, ...]
    memory_sha256: str = ""
    scope_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of the log with everything that belongs to it."""

    event: Event
    erased: bool
    """Whether the fact was erased since: then there is no payload."""
    salt: bytes
    payload: bytes
    request_hmac: str


class ArchiveWriter:
    """Writes an archive beside its place, and puts it there whole.

    Raises:
        Conflict: ARCHIVE_EXISTS, something is there already; nothing was written.
    """

    def __init__(self, folder: str | Path, header: Header) -> None:
        self.folder = Path(folder)
        self.header = header
        self._refuse_existing()
        self._part = self.folder.parent / f".{self.folder.name}.{uuid.uuid4().hex}.part"
        self._part.mkdir(parents=True)
        self._events: BinaryIO = (self._part / EVENTS).open("wb")
        self._arrays: dict[str, np.ndarray] = {}
        self._held_bytes = 0
        self._files: dict[str, str] = {}
        self._version, self._chain = 0, ""

    def add(self, record: Record) -> None:
        """Takes the next entry.

        Raises:
            DataLoss: it does not follow from the one before, or its payload is not its own.
        """
        event = record.event
        self._chain = _checked(record, self._version, self._chain)
        self._version = event.version
        line: dict[str, Any] = {
            "version": event.version,
            "kind": event.kind.name,
            "fact_id": event.fact_id,
            "event_id": event.event_id,
            "time_ms": event.time_ms,
            "payload_sha256": event.payload_sha256,
            "chain": event.chain,
            "previous_version": event.previous,
            "erased": record.erased,
            "request_hmac": record.request_hmac,
        }
        if record.payload:
            payload = Payload.from_bytes(record.payload)
            line |= {
                "salt": record.salt.hex(),
                "prompt": payload.prompt,
                "answer": payload.answer,
                "rephrasings": list(payload.rephrasings),
            }
            for name in _ARRAYS:
                array = np.ascontiguousarray(getattr(payload, name))
                self._arrays[f"{name}.{event.version}"] = array
                self._held_bytes += array.nbytes + ARRAY_OVERHEAD
            if self._held_bytes >= VECTORS_BYTES:
                self._write_vectors()
        self._events.write(_json(line) + b"\n")

    def finish(self) -> Archive:
        """Writes the manifest and moves the folder to its place.

        Raises:
            DataLoss: the entries are not all that the header names.
            Conflict: ARCHIVE_EXISTS, something was put there meanwhile.
        """
        if (self._version, self._chain) != (self.header.version, self.header.chain):
            raise DataLoss(
                f"the export ended at version {self._version}, the bank was at "
                f"{self.header.version}: export it again",
                "BAD_ARCHIVE",
            )
        self._write_vectors()
        _flush(self._events)
        self._events.close()
        self._files[EVENTS] = _file_sha256(self._part / EVENTS)
        with (self._part / MANIFEST).open("wb") as file:
            file.write(_manifest(self.header, self._files))
            _flush(file)
        self._refuse_existing()
        os.rename(self._part, self.folder)
        return Archive(self.folder)

    def discard(self) -> None:
        """Removes what was written; nothing where it is finished."""
        self._events.close()
        shutil.rmtree(self._part, ignore_errors=True)

    def _write_vectors(self) -> None:
        if not self._arrays:
            return
        name = f"vectors-{len(self._files) + 1:05d}.safetensors"
        data = save(self._arrays)
        with (self._part / name).open("wb") as file:
            file.write(data)
            _flush(file)
        self._files[name] = hashlib.sha256(data).hexdigest()
        self._arrays, self._held_bytes = {}, 0

    def _refuse_existing(self) -> None:
        if self.folder.exists():
            raise Conflict(
                f"{self.folder} exists: export to a folder that does not", "ARCHIVE_EXISTS"
            )


class Archive:
    """An archive that was written, opened and found whole.

    Attributes:
        folder: where it lies.
        header: what it holds.
        files: SHA-256 of each file but the manifest.

    Raises:
        NotFound: there is no archive in the folder.
        DataLoss: BAD_ARCHIVE, naming the file that is missing, too many or not what was written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / MANIFEST).is_file():
            raise NotFound(f"no archive in {self.folder}: it has no {MANIFEST}", "NO_ARCHIVE")
        raw = (self.folder / MANIFEST).read_bytes()
        try:
            self.header, self.files = _parsed(raw)
            sound = _manifest(self.header, self.files) == raw
        except (ValueError, KeyError, TypeError, InvalidArgument):
            sound = False
        if not sound:
            raise self._bad(MANIFEST, "it is not what was written")
        present = {entry.name for entry in self.folder.iterdir()}
        for name in sorted(present ^ {MANIFEST, *self.files}):
            raise self._bad(name, "it is too many" if name in present else "it is missing")
        for name, sha256 in self.files.items():
            if not (self.folder / name).is_file() or _file_sha256(self.folder / name) != sha256:
                raise self._bad(name, "its SHA-256 is not that of the manifest")

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum((self.folder / name).stat().st_size for name in (MANIFEST, *self.files))

    def records(self) -> Iterator[Record]:
        """Every entry, in order of version; holds the vectors of one file at a time.

        Raises:
            DataLoss: BAD_ARCHIVE, an entry does not follow from the one before, or lacks vectors.
        """
        vectors = _Vectors(self)
        version, chain = 0, ""
        with (self.folder / EVENTS).open("rb") as lines:
            for line in lines:
                try:
                    record = _record(json.loads(line), vectors)
                except (ValueError, KeyError, TypeError, InvalidArgument) as error:
                    raise self._bad(EVENTS, f"line {version + 1}: {error}") from error
                try:
                    chain = _checked(record, version, chain)
                except DataLoss as error:
                    raise self._bad(EVENTS, error.message) from error
                version += 1
                yield record
        if (version, chain) != (self.header.version, self.header.chain):
            raise self._bad(EVENTS, "it ends elsewhere than the manifest says")
        vectors.check_spent()

    def _bad(self, name: str, what: str) -> DataLoss:
        return DataLoss(
            f"{self.folder / name} is not as it was exported: {what}; export the bank again",
            "BAD_ARCHIVE",
        )


class _Vectors:
    """The arrays of an archive, a file at a time, each taken once."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._names = iter(sorted(set(archive.files) - {EVENTS}))
        self._name = ""
        self._arrays: dict[str, np.ndarray] = {}

    def take(self, version: int) -> list[np.ndarray]:
        if not self._arrays:
            self._open_next()
        keys = [f"{name}.{version}" for name in _ARRAYS]
        if not self._arrays.keys() >= set(keys):
            raise self._archive._bad(self._name, f"it lacks the vectors of version {version}")
        return [self._arrays.pop(key) for key in keys]

    def check_spent(self) -> None:
        if self._arrays:
            raise self._archive._bad(self._name, "it holds vectors of no event")
        for name in self._names:
            raise self._archive._bad(name, "it holds vectors of no event")

    def _open_next(self) -> None:
        self._name = next(self._names, "")
        if not self._name:
            raise self._archive._bad(EVENTS, "it has more writes than there are vectors")
        try:
            self._arrays = load((self._archive.folder / self._name).read_bytes())
        except SafetensorError as error:
            raise self._archive._bad(self._name, str(error)) from error


def _record(line: dict[str, Any], vectors: _Vectors) -> Record:
    event = Event(
        version=line["version"],
        kind=Kind[line["kind"]],
        fact_id=line["fact_id"],
        event_id=line["event_id"],
        time_ms=line["time_ms"],
        payload_sha256=line["payload_sha256"],
        chain=line["chain"],
        previous=line["previous_version"],
    )
    salt = payload = b""
    if "salt" in line:
        salt = bytes.fromhex(line["salt"])
        arrays = vectors.take(event.version)
        payload = Payload(
            event.fact_id, line["prompt"], line["answer"], tuple(line["rephrasings"]), *arrays
        ).to_bytes()
    return Record(event, line["erased"], salt, payload, line["request_hmac"])


def _checked(record: Record, version: int, chain: str) -> str:
    """The chain value after an entry that follows the one of a version. Raises: DataLoss."""
    event = record.event
    expected = next_chain(
        chain,
        version + 1,
        event.kind,
        event.fact_id,
        event.event_id,
        event.time_ms,
        event.payload_sha256,
        event.previous,
    )
    if (event.version, event.chain) != (version + 1, expected):
        raise DataLoss(f"version {event.version} does not follow version {version}", "BAD_ARCHIVE")
    if record.payload and salted_sha256(record.salt + record.payload) != event.payload_sha256:
        raise DataLoss(f"the payload of version {event.version} is not its own", "BAD_ARCHIVE")
    if not record.payload and event.kind is Kind.WRITE and not record.erased:
        raise DataLoss(f"the payload of version {event.version} is missing", "BAD_ARCHIVE")
    return expected


def _manifest(header: Header, files: dict[str, str]) -> bytes:
    """The manifest's bytes; its own SHA-256 goes last, over all the others."""
    shown: dict[str, Any] = {
        "format": FORMAT,
        "bank": header.bank,
        "config": json.loads(header.config.to_json()),
        "version": header.version,
        "chain": header.chain,
        "digest": header.digest,
        "erase_count": header.erase_count,
        "erased_fact_ids": list(header.erased_fact_ids),
        "memory_sha256": header.memory_sha256,
        "scope_sha256": header.scope_sha256,
        "files": dict(sorted(files.items())),
    }
    shown["sha256"] = hashlib.sha256(_json(shown)).hexdigest()
    return json.dumps(shown, indent=1, ensure_ascii=False).encode() + b"\n"


def _parsed(raw: bytes) -> tuple[Header, dict[str, str]]:
    shown = json.loads(raw)
    if shown["format"] != FORMAT:
        raise ValueError(shown["format"])
    header = Header(
        bank=shown["bank"],
        config=BankConfig.from_json(json.dumps(shown["config"])),
        version=shown["version"],
        chain=shown["chain"],
        digest=shown["digest"],
        erase_count=shown["erase_count"],
        erased_fact_ids=tuple(shown["erased_fact_ids"]),
        memory_sha256=shown["memory_sha256"],
        scope_sha256=shown["scope_sha256"],
    )
    return header, dict(shown["files"])


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
