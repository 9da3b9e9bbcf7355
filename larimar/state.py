"""The state of a bank: what folding its log gives. Pure: the caller brings events and payloads.

Q queries, C value size, D prompt-latent size, S scope size, R = 1 + rephrasings, K slots.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from larimar import saved
from larimar.errors import DataLoss, FailedPrecondition, ResourceExhausted
from larimar.memory import BankConfig, Event, Kind
from larimar.payload import Payload, fixed_point
from larimar.rows import ReadOut, Rows, weigh

MAX_ROWS = (1 << 23) - 1
"""Rows a bank holds, rephrasings counted: 2^23 products of 2^40 would reach past int64."""
PARTS = ("memory", "scope")
FACT_BYTES = 400
"""What one fact takes in the fact table, roughly, beside its vectors."""

NO_VECTOR = np.zeros(0, "<i4")
Entry = tuple[Event, Payload | None]


class LiveFact(NamedTuple):
    """What a state holds of a live fact; no vectors where a part is not held, or is in the sums."""

    fact_id: str
    version: int
    sha256: bytes
    rows: int
    addresses: np.ndarray
    value: np.ndarray
    scope: np.ndarray


class BankState:
    """C, B and hence M, the scope rows and the fact table, folded from a log up to a version.

    A function of the configuration and of the set of live facts alone: order, batching,
    replacements and forgets leave no trace in digest, folded bytes or reads. Not thread-safe.

    Attributes:
        config: the bank's configuration.
        parts: which of "memory" and "scope" are held.
        version: of the last event folded; 0 for none.
        chain: its chain value; "" for none.
        erase_count: how often the bank's history was rewritten.
        facts: fact id -> (version of its live WRITE, SHA-256 of its payload).
        row_count: reference rows of the live facts, rephrasings counted.
        sums: the exact sums of a pinv or gaussian bank, or None.
    """

    def __init__(self, config: BankConfig, parts: Sequence[str] = PARTS) -> None:
        if not parts or not set(parts) <= set(PARTS):
            raise ValueError(f"parts are some of {PARTS}, not {tuple(parts)}")
        self.config = config.validate()
        self.parts = tuple(part for part in PARTS if part in parts)
        self.version = 0
        self.chain = ""
        self.erase_count = 0
        self.facts: dict[str, tuple[int, bytes]] = {}
        self.row_count = 0
        self._slot: dict[str, int] = {}
        self._ids: list[str] = []
        self._rows_in: list[int] = []
        self._free: list[int] = []
        self._values: list[np.ndarray] = []
        self._addresses: Rows | None = None
        self.sums: Any = None
        self._scope = Rows(config.scope_size) if "scope" in self.parts else None
        self._known: dict[str, str] = {}
        if "memory" in self.parts and config.addressing == "slots":
            self._addresses = Rows(config.prompt_size)
        elif "memory" in self.parts:
            from larimar.sums import ExactSums

            self.sums = ExactSums(config)

    def __len__(self) -> int:
        """Live facts."""
        return len(self.facts)

    @property
    def bytes_held(self) -> int:
        """Bytes in memory, room for growth counted and the fact table estimated."""
        held = [part for part in (self._addresses, self.sums, self._scope) if part is not None]
        values = 4 * self.config.value_size * len(self.facts) * (self._addresses is not None)
        return sum(part.nbytes for part in held) + values + FACT_BYTES * len(self.facts)

    def check_capacity(self, rows: int) -> None:
        """Refuses rows, rephrasings counted, that the bank could not hold exactly.

        Raises:
            ResourceExhausted: past MAX_ROWS. The state is unchanged.
        """
        if self.row_count + rows > MAX_ROWS:
            raise ResourceExhausted(
                f"the bank holds {self.row_count} of at most {MAX_ROWS} rows; forget facts first",
                "BANK_FULL",
            )

    def needs(self, entries: Sequence[Entry]) -> list[int]:
        """Versions of the payloads, not among these entries, that `fold` must be given as `old`.

        Subtracting a fact from the sums takes its vectors; a slots bank just drops its rows.
        """
        if self.sums is None:
            return []
        touched = {event.fact_id for event, _ in entries}
        return sorted(self.facts[fact_id][0] for fact_id in touched if fact_id in self.facts)

    def fold(self, entries: Sequence[Entry], old: Mapping[int, Payload] | None = None) -> None:
        """Applies entries in log order; writing a live fact replaces it, as one event.

        Only a batch's net effect on each fact is computed, so a fact written and forgotten within
        it costs nothing.

        Cost: O(1) an event in a slots bank; in a fixed-size bank O(K (K + C)) a row.

        Args:
            entries: events with the payloads of their WRITEs, from this version + 1 on.
            old: payloads by version, at least those of `needs`.

        Raises:
            DataLoss: versions are not dense, a payload is missing or not what was written, or a
                fact is forgotten that is not live. The state is unchanged.
            ResourceExhausted: past MAX_ROWS. The state is unchanged.
        """
        if not entries:
            return
        net = self._net(entries)
        gone = [fact_id for fact_id in net if fact_id in self.facts]
        new = [(version, payload) for version, payload in net.values() if payload is not None]
        subtracted = self._subtracted(gone, old or {})
        slots = [self._slot[fact_id] for fact_id in gone]
        freed = sum(self._rows_in[slot] for slot in slots)
        self.check_capacity(sum(payload.rows for _, payload in new) - freed)

        if self.sums is not None:
            self.sums.change([payload for _, payload in new], 1)
            self.sums.change(subtracted, -1)
        for rows in (self._addresses, self._scope):
            if rows is not None:
                rows.drop(slots)
        for fact_id, slot in zip(gone, slots, strict=True):
            del self.facts[fact_id], self._slot[fact_id]
            self._ids[slot] = ""
            if self._addresses is not None:
                self._values[slot] = NO_VECTOR
        self._free.extend(slots)
        self.row_count -= freed
        self.place(
            LiveFact(
                p.fact_id, version, bytes.fromhex(p.sha256), p.rows, p.addresses, p.value, p.scope
            )
            for version, p in new
        )
        self.version = entries[-1][0].version
        self.chain = entries[-1][0].chain
        self._known.clear()

    def _net(self, entries: Sequence[Entry]) -> dict[str, tuple[int, Payload | None]]:
        """What becomes of each fact that the entries touch, after checking every entry."""
        net: dict[str, tuple[int, Payload | None]] = {}
        version = self.version
        for event, payload in entries:
            version += 1
            if event.version != version:
                raise DataLoss(f"the log has version {event.version} in place of {version}", "GAP")
            fact_id = event.fact_id
            if event.kind == Kind.FORGET:
                live = net[fact_id][1] is not None if fact_id in net else fact_id in self.facts
                if not live:
                    raise DataLoss(f"version {version} forgets a fact that is not live", "BAD_LOG")
                net[fact_id] = (version, None)
            elif payload is None:
                raise DataLoss(f"the payload of version {version} is missing", "MISSING_PAYLOAD")
            elif payload.fact_id != fact_id or not self._fits(payload):
                raise DataLoss(f"the payload of version {version} is not its own", "BAD_PAYLOAD")
            else:
                net[fact_id] = (version, payload)
        return net

    def _fits(self, payload: Payload) -> bool:
        config = self.config
        return (
            payload.addresses.shape[1] == config.address_size
            and payload.value.shape[0] == config.value_size
            and payload.scope.shape[1] == config.scope_size
        )

    def _subtracted(self, gone: list[str], old: Mapping[int, Payload]) -> list[Payload]:
        if self.sums is None:
            return []
        payloads = []
        for fact_id in gone:
            version, sha256 = self.facts[fact_id]
            payload = old.get(version)
            if payload is None:
                raise DataLoss(f"the payload of version {version} is missing", "MISSING_PAYLOAD")
            if bytes.fromhex(payload.sha256) != sha256:
                raise DataLoss(f"the payload of version {version} is not its own", "BAD_PAYLOAD")
            payloads.append(payload)
        return payloads

    def place(self, facts: Iterable[LiveFact]) -> None:
        """Gives each new fact a slot, and the slot its rows and its value where parts are held.

        The sums of a fixed-size bank are not changed.
        """
        slots, facts = [], list(facts)
        for fact in facts:
            slot = self._free.pop() if self._free else len(self._ids)
            slots.append(slot)
            self._ids[slot : slot + 1] = [fact.fact_id]
            self._rows_in[slot : slot + 1] = [fact.rows]
            self._slot[fact.fact_id] = slot
            self.facts[fact.fact_id] = (fact.version, fact.sha256)
            self.row_count += fact.rows
            if self._addresses is not None:
                self._values[slot : slot + 1] = [fact.value.copy()]
        if self._addresses is not None:
            self._addresses.put(slots, [fact.addresses for fact in facts])
        if self._scope is not None:
            self._scope.put(slots, [fact.scope for fact in facts])

    def live(self) -> Iterator[LiveFact]:
        """The live facts in order of fact id."""
        for fact_id in sorted(self.facts):
            version, sha256 = self.facts[fact_id]
            slot = self._slot[fact_id]
            yield LiveFact(
                fact_id,
                version,
                sha256,
                self._rows_in[slot],
                NO_VECTOR if self._addresses is None else self._addresses.rows_of(slot),
                NO_VECTOR if self._addresses is None else self._values[slot],
                NO_VECTOR if self._scope is None else self._scope.rows_of(slot),
            )

    def keep_only(self, parts: Sequence[str]) -> None:
        """Lets go of the parts that are not named.

        Raises:
            FailedPrecondition: a named part is not held. The state is unchanged.
        """
        if not parts or not set(parts) <= set(self.parts):
            raise FailedPrecondition(
                f"this state holds {', '.join(self.parts)}, not {', '.join(parts)}", "PART_NOT_HELD"
            )
        self.parts = tuple(part for part in PARTS if part in parts)
        if "memory" not in parts:
            self._addresses, self._values, self.sums = None, [], None
        if "scope" not in parts:
            self._scope = None
        self._known.clear()

    def read(self, prompt_latents: Any) -> list[ReadOut]:
        """Reads the memory with query latents (Q, D) float32: z = w M each.

        In a slots bank w weighs the nearest reference rows by equations 7-8.

        Raises:
            FailedPrecondition: the bank is empty, or this state holds no memory part.
            InvalidArgument: a wrong shape, not finite, or (slots) out of the bank's range.
        """
        config, queries = self.config, np.asarray(prompt_latents)
        if "memory" not in self.parts:
            raise FailedPrecondition("this follower holds no memory part", "PART_NOT_HELD")
        if not self.facts:
            raise FailedPrecondition("the bank is empty; write a fact first", "EMPTY_BANK")
        if not len(queries):
            return []
        if self._addresses is None:
            from larimar.sums import addresses_of

            w_QK = addresses_of(config, queries, len(queries))
            return [ReadOut(value, "", 0.0) for value in self.sums.read(w_QK)]
        shape = (len(queries), config.prompt_size)
        fixed = fixed_point("prompt_latents", queries, config.prompt_bits, shape)
        nearest = self._addresses.nearest(fixed.astype(np.int64), self._ids)
        return [
            weigh(near, self._values, self._ids, config.alpha, config.value_bits)
            for near in nearest
        ]

    def detect(self, scope_vectors: Any) -> list[tuple[float, str]]:
        """The largest cosine of each sentence embedding (Q, S) to a written prompt, and its fact.

        Equal cosines go to the smallest fact id; an empty bank gives (-1.0, "").

        Raises:
            FailedPrecondition: this state holds no scope part.
            InvalidArgument: a wrong shape, not finite or out of the bank's range.

        Source: [L] section 4, external scope detection.
        """
        if self._scope is None:
            raise FailedPrecondition("this follower holds no scope part", "PART_NOT_HELD")
        config, queries = self.config, np.asarray(scope_vectors)
        shape = (len(queries), config.scope_size)
        fixed = fixed_point("scope_vectors", queries, config.scope_bits, shape)
        if not self.facts:
            return [(-1.0, "")] * len(queries)
        nearest = self._scope.most_similar(fixed.astype(np.int64), self._ids)
        return [(score, self._ids[slot]) for score, slot in nearest]

    def digest(self) -> str:
        """SHA-256, in hex, over the configuration's digest and sorted (fact id, payload SHA-256).

        Equal sets of facts have equal digests, whatever the order, batching, bank or restart.
        """
        if "digest" not in self._known:
            hasher = hashlib.sha256(self.config.digest.encode())
            for fact_id in sorted(self.facts):
                name = fact_id.encode()
                hasher.update(len(name).to_bytes(4, "little") + name + self.facts[fact_id][1])
            self._known["digest"] = hasher.hexdigest()
        return self._known["digest"]

    def folded_sha256(self) -> str:
        """SHA-256, in hex, of the folded bytes: little-endian, in order of fact id.

        Slots: each fact's rows (int32), count of rows (int64) and value (int32). Pinv and gaussian:
        C, then B (int64). Then, with the scope part, each fact's scope rows (int32).
        """
        if "folded" not in self._known:
            hasher = hashlib.sha256()
            for array in self._folded():
                hasher.update(array.tobytes())
            self._known["folded"] = hasher.hexdigest()
        return self._known["folded"]

    def _folded(self) -> Iterator[np.ndarray]:
        if self.sums is not None:
            yield self.sums.c_KK.numpy().astype("<i8", copy=False)
            yield self.sums.b_KC.numpy().astype("<i8", copy=False)
        facts = list(self.live())
        if self._addresses is not None:
            for fact in facts:
                yield fact.addresses
                yield np.array(fact.rows, "<i8")
                yield fact.value
        if self._scope is not None:
            for fact in facts:
                yield fact.scope

    def to_tensors(self) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """The whole state for a checkpoint: tensors in order of fact id, and metadata.

        Equal states give equal tensors, whatever their history.
        """
        return saved.save(self)

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
    ) -> BankState:
        """The state that `to_tensors` saved.

        Raises:
            DataLoss: damaged, or saved in another format.
        """
        return saved.restore(cls, tensors, metadata)
