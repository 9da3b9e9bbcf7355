"""The state of a bank: what folding its log gives. Pure: the caller brings events and payloads.

Q queries, C value size, D prompt-latent size, S scope size, R = 1 + rephrasings, K slots.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from larimar import dreams, saved
from larimar.blocks import Blocks
from larimar.errors import DataLoss, FailedPrecondition, InvalidArgument, ResourceExhausted
from larimar.facts import FACT_BYTES, Facts
from larimar.memory import BankConfig, Event, Kind
from larimar.payload import Payload, fixed_point
from larimar.readout import Items, ReadOut, weigh
from larimar.rows import CANDIDATES, Rows

MAX_ROWS = (1 << 23) - 1
"""Rows a bank holds, rephrasings counted: 2^23 products of 2^40 would reach past int64."""
PARTS = ("memory", "scope")
Entry = tuple[Event, Payload | None]


class BankState:
    """C, B and hence M, the scope rows and the fact table, folded from a log up to a version.

    A function of the configuration and of the set of live facts alone: order, batching,
    replacements, forgets and erases leave no trace in digest, folded bytes or reads. (The reads of
    a slots bank past `rows.INDEX_ROWS` rows come from an approximate index.) Not thread-safe.

    Args:
        index_when_asked: whether an index is begun by the first query and not before.

    Attributes:
        config: the bank's configuration.
        parts: which of "memory" and "scope" are held.
        version: of the last event folded; 0 for none.
        chain: its chain value; "" for none.
        erased: ids of the facts that were erased: no event of theirs is folded any more.
        erase_count: how many those are; a restored state has the count before it has the ids.
        facts: fact id -> (version of its live WRITE, SHA-256 of its payload).
        row_count: reference rows of the live facts, rephrasings counted.
        sums: the exact sums of a pinv or gaussian bank, or None.
    """

    def __init__(
        self, config: BankConfig, parts: Sequence[str] = PARTS, index_when_asked: bool = False
    ) -> None:
        if not parts or not set(parts) <= set(PARTS):
            raise ValueError(f"parts are some of {PARTS}, not {tuple(parts)}")
        self.config = config.validate()
        self.parts = tuple(part for part in PARTS if part in parts)
        self.version = 0
        self.chain = ""
        self.erased: set[str] = set()
        self.erase_count = 0
        self.facts = Facts()
        self.row_count = 0
        self.sums: Any = None
        self.addresses: Rows | None = None
        self.values: Blocks | None = None
        self.scope: Rows | None = None
        if "scope" in self.parts:
            self.scope = Rows(config.scope_size, True, index_when_asked)
        self._known: dict[str, str] = {}
        if "memory" in self.parts and config.addressing == "slots":
            self.addresses = Rows(config.prompt_size, False, index_when_asked)
            self.values = Blocks(config.value_size, "<i4")
        elif "memory" in self.parts:
            from larimar.sums import ExactSums

            self.sums = ExactSums(config)

    def __len__(self) -> int:
        """Live facts."""
        return len(self.facts)

    @property
    def bytes_held(self) -> int:
        """Bytes in memory, room for growth counted and the fact table estimated."""
        held = (self.addresses, self.values, self.sums, self.scope)
        return sum(part.nbytes for part in held if part is not None) + FACT_BYTES * len(self.facts)

    @property
    def solve_time_s(self) -> float:
        """Seconds that reads have spent so far on solving for what was written; 0 of slots."""
        return 0.0 if self.sums is None else self.sums.solve_time_s

    @property
    def fill(self) -> float:
        """Rows over K of a pinv or gaussian bank, past which recall degrades; 0 in a slots bank."""
        return self.row_count / self.config.slots if self.config.slots else 0.0

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
        return self.needs_of(event.fact_id for event, _ in entries)

    def needs_of(self, fact_ids: Iterable[str]) -> list[int]:
        """Versions of the payloads that `erase` of these facts must be given as `old`."""
        if self.sums is None:
            return []
        live = {fact_id for fact_id in fact_ids if fact_id in self.facts}
        return sorted(self.facts[fact_id][0] for fact_id in live)

    def fold(
        self,
        entries: Sequence[Entry],
        old: Mapping[int, Payload] | None = None,
        settled: bool = True,
    ) -> None:
        """Applies entries in log order; writing a live fact replaces it, as one event.

        Only a batch's net effect on each fact is computed, so a fact written and forgotten within
        it costs nothing. An ERASE erases its fact (see `erase`), for the entries before it in the
        batch too; of the entries of an erased fact nothing but version and chain is taken.

        Cost: O(1) an event in a slots bank; in a fixed-size bank O(K (K + C)) a row.

        Args:
            entries: events with the payloads of their WRITEs, from this version + 1 on; the
                payload of an erased fact may be None.
            old: payloads by version, at least those of `needs`.
            settled: whether what takes long is done at once, or left to `settle`.

        Raises:
            DataLoss: versions are not dense, a payload is missing or not what was written, or a
                fact is forgotten that is not live. The state is unchanged.
            ResourceExhausted: past MAX_ROWS. The state is unchanged.
        """
        if not entries:
            return
        doomed = {event.fact_id for event, _ in entries if event.kind == Kind.ERASE} - self.erased
        net = self._net(entries, doomed)
        gone = [fact_id for fact_id in (*net, *doomed) if fact_id in self.facts]
        new = [(version, payload) for version, payload in net.values() if payload is not None]
        subtracted = self._subtracted(gone, old or {})
        freed = int(self.facts.rows[self.facts.slots_of(gone)].sum())
        self.check_capacity(sum(payload.rows for _, payload in new) - freed)

        self._change(gone, subtracted, new)
        self.erased |= doomed
        self.erase_count += len(doomed)
        self.version = entries[-1][0].version
        self.chain = entries[-1][0].chain
        if settled:
            self.settle()

    @property
    def is_sparse(self) -> bool:
        """Whether rows are to be moved together by `settle`; nothing may be folded meanwhile."""
        return any(rows.is_sparse for rows in (self.addresses, self.scope) if rows is not None)

    def settle(self) -> None:
        """Does what `fold` left: makes the products of a fixed-size bank, moves rows together."""
        if self.sums is not None:
            self.sums.settle()
        for rows in (self.addresses, self.scope):
            if rows is not None and rows.is_sparse:
                rows.compact()

    def erase(self, fact_ids: Collection[str], old: Mapping[int, Payload]) -> None:
        """Removes facts for good: the state becomes one in which they were never written.

        Version and chain stay; from here on `fold` takes nothing of these facts' events. A state
        restored from a checkpoint is given all facts ever erased, whether it held them or not.

        Args:
            old: payloads by version, at least those of `needs_of`.

        Raises:
            DataLoss: a payload is missing or not what was written. The state is unchanged.
        """
        gone = [fact_id for fact_id in dict.fromkeys(fact_ids) if fact_id in self.facts]
        self._change(gone, self._subtracted(gone, old), [])
        self.settle()
        self.erased.update(fact_ids)
        self.erase_count = len(self.erased)

    def _net(
        self, entries: Sequence[Entry], doomed: set[str]
    ) -> dict[str, tuple[int, Payload | None]]:
        """What becomes of each fact that the entries touch, after checking every entry."""
        net: dict[str, tuple[int, Payload | None]] = {}
        version, erased = self.version, self.erased
        sizes = (self.config.address_size, self.config.value_size, self.config.scope_size)
        for event, payload in entries:
            version += 1
            if event.version != version:
                raise DataLoss(f"the log has version {event.version} in place of {version}", "GAP")
            fact_id = event.fact_id
            if fact_id in erased or fact_id in doomed:
                continue
            if event.kind == Kind.FORGET:
                live = net[fact_id][1] is not None if fact_id in net else fact_id in self.facts
                if not live:
                    raise DataLoss(f"version {version} forgets a fact that is not live", "BAD_LOG")
                net[fact_id] = (version, None)
            elif payload is None:
                raise DataLoss(f"the payload of version {version} is missing", "MISSING_PAYLOAD")
            elif payload.fact_id != fact_id or payload.sizes != sizes:
                raise DataLoss(f"the payload of version {version} is not its own", "BAD_PAYLOAD")
            else:
                net[fact_id] = (version, payload)
        return net

    def _subtracted(self, gone: list[str], old: Mapping[int, Payload]) -> list[Payload]:
        if self.sums is None:
            return []
        payloads = []
        for fact_id in gone:
            version, sha256 = self.facts[fact_id]
            payload = old.get(version)
            if payload is None:
                raise DataLoss(f"the payload of version {version} is missing", "MISSING_PAYLOAD")
            if payload.digest != sha256:
                raise DataLoss(f"the payload of version {version} is not its own", "BAD_PAYLOAD")
            payloads.append(payload)
        return payloads

    def _change(
        self, gone: list[str], subtracted: list[Payload], new: list[tuple[int, Payload]]
    ) -> None:
        """Takes facts out and puts facts in."""
        self._known.clear()
        if gone:
            slots = self.facts.remove(gone)
            self.row_count -= int(self.facts.rows[slots].sum())
            for rows in (self.addresses, self.scope):
                if rows is not None:
                    rows.drop(slots)
        payloads = [payload for _, payload in new]
        if payloads:
            counts = np.array([payload.rows for payload in payloads], np.int32)
            hashes = b"".join(payload.digest for payload in payloads)
            versions = np.array([version for version, _ in new], np.int64)
            ids = [payload.fact_id for payload in payloads]
            sha256 = np.frombuffer(hashes, np.uint8).reshape(-1, 32)
            slots = self.facts.add(ids, versions, sha256, counts)
            self.row_count += int(counts.sum())
            if self.addresses is not None and self.values is not None:
                self.addresses.put(slots, counts, np.concatenate([p.addresses for p in payloads]))
                self.values.reserve(len(self.facts.ids))
                self.values.put(slots, np.stack([payload.value for payload in payloads]))
            if self.scope is not None:
                self.scope.put(slots, counts, np.concatenate([p.scope for p in payloads]))
        if self.sums is not None:
            self.sums.change(payloads, 1)
            self.sums.change(subtracted, -1)

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
            self.addresses = self.values = self.sums = None
        if "scope" not in parts:
            self.scope = None
        self._known.clear()

    def check_part(self, part: str) -> None:
        """Refuses what takes a part that this state does not hold.

        Raises:
            FailedPrecondition: PART_NOT_HELD.
        """
        if part not in self.parts:
            raise FailedPrecondition(f"this follower holds no {part} part", "PART_NOT_HELD")

    def check_readable(self) -> None:
        """Refuses a read of a memory that is not held or holds nothing.

        Raises:
            FailedPrecondition: PART_NOT_HELD or EMPTY_BANK.
        """
        self.check_part("memory")
        if not self.facts:
            raise FailedPrecondition("the bank is empty; write a fact first", "EMPTY_BANK")

    def read(self, prompt_latents: Any, noise: float = 0.0, seed: int = 0) -> list[ReadOut]:
        """Reads the memory with query latents (Q, D) float32: z = w M each.

        In a slots bank w weighs the nearest reference rows by equations 7-8.

        Args:
            noise: standard deviation of normal noise added to w; in a slots bank to the weights of
                the CANDIDATES rows that are weighed, nearest first. Every query of a call gets the
                same noise, so that one reads the same bytes alone and among others.
            seed: of the noise.

        Raises:
            FailedPrecondition: the bank is empty, or this state holds no memory part.
            InvalidArgument: a wrong shape, not finite, or (slots) out of the bank's range; a noise
                or a seed below 0.

        Source: [L] appendix G for the noise.
        """
        self.check_readable()
        config, queries = self.config, np.asarray(prompt_latents)
        if not (np.isfinite(noise) and noise >= 0):
            raise InvalidArgument(f"noise must be a finite number from 0 on, not {noise}")
        weighed = CANDIDATES if self.sums is None else config.slots
        added = noise * dreams.normals(weighed, seed) if noise else None
        if not len(queries):
            return []
        if self.sums is not None:
            from larimar.sums import addresses_of

            w_QK = addresses_of(config, queries, len(queries))
            w_QK = w_QK if added is None else w_QK + added
            return [ReadOut(value, "", 0.0) for value in self.sums.read(w_QK)]
        assert self.addresses is not None and self.values is not None
        shape = (len(queries), config.prompt_size)
        fixed = fixed_point("prompt_latents", queries, config.prompt_bits, shape)
        values, ids = self.values, self.facts.ids
        return [
            weigh(near, values, ids, config.alpha, config.value_bits, added)
            for near in self.addresses.nearest(fixed.astype(np.int64), ids)
        ]

    def detect(self, scope_vectors: Any) -> list[tuple[float, str]]:
        """The largest cosine of each sentence embedding (Q, S) to a written prompt, and its fact.

        Equal cosines go to the smallest fact id; an empty bank gives (-1.0, "").

        Raises:
            FailedPrecondition: this state holds no scope part.
            InvalidArgument: a wrong shape, not finite or out of the bank's range.

        Source: [L] section 4, external scope detection.
        """
        scope, queries = self._scope_queries(scope_vectors)
        if not self.facts:
            return [(-1.0, "")] * len(queries)
        nearest = scope.most_similar(queries, self.facts.ids)
        return [(score, self.facts.ids[slot]) for score, slot in nearest]

    def facts_at(self, scope_vectors: Any, least: float) -> list[list[str]]:
        """All facts with a written prompt of the largest cosine to each sentence embedding (Q, S).

        In order of fact id; none where that cosine is below `least`.

        Raises: as `detect`.
        """
        scope, queries = self._scope_queries(scope_vectors)
        if not self.facts:
            return [[] for _ in queries]
        found = scope.all_similar(queries, least)
        return [sorted(self.facts.ids[slot] for slot in slots) for slots in found]

    def _scope_queries(self, scope_vectors: Any) -> tuple[Rows, np.ndarray]:
        """The scope part, and sentence embeddings as it compares them, int64 (Q, S)."""
        self.check_part("scope")
        assert self.scope is not None
        config, queries = self.config, np.asarray(scope_vectors)
        shape = (len(queries), config.scope_size)
        fixed = fixed_point("scope_vectors", queries, config.scope_bits, shape)
        return self.scope, fixed.astype(np.int64)

    def sample(self, count: int, seed: int) -> np.ndarray:
        """Dreams of what is stored: `dreams.sample` of this state."""
        return dreams.sample(self, count, seed)

    def items(self, prefix: str) -> Items:
        """What a slots bank holds of the facts whose id begins with a prefix, in order of fact id.

        Cost: O(live facts) to find them.

        Raises:
            FailedPrecondition: this state holds no memory part, or the bank is not a slots bank.
        """
        self.check_part("memory")
        if self.addresses is None or self.values is None:
            raise FailedPrecondition(
                "a pinv or gaussian bank keeps no fact's own vectors; use a slots bank", "NOT_SLOTS"
            )
        ids = sorted(fact_id for fact_id in self.facts if fact_id.startswith(prefix))
        slots = self.facts.slots_of(ids)
        return Items(
            ids,
            self.addresses.first_rows_of(slots),
            self.values.take(slots),
            self.config.prompt_bits,
            self.config.value_bits,
        )

    def digest(self) -> str:
        """SHA-256, in hex, over the configuration's digest and sorted (fact id, payload SHA-256).

        Equal sets of facts have equal digests, whatever the order, batching, bank or restart.

        Cost: O(live facts) once a version; about 1 s for a million.
        """
        if "digest" not in self._known:
            hasher = hashlib.sha256(self.config.digest.encode())
            self.facts.hash_into(hasher)
            self._known["digest"] = hasher.hexdigest()
        return self._known["digest"]

    def folded_sha256(self, part: str | None = None) -> str:
        """SHA-256, in hex, of the folded bytes: little-endian, in order of fact id.

        "memory" in a slots bank: each fact's rows (int32), count of rows (int64) and value (int32);
        else C, then B (int64). "scope": each fact's rows (int32). All held parts follow each other.

        Args:
            part: that part alone; None for all parts held.

        Raises:
            FailedPrecondition: the part is not held.
        """
        parts = self.parts if part is None else (part,)
        name = f"folded {','.join(parts)}"
        if name not in self._known:
            hasher = hashlib.sha256()
            for one in parts:
                self.check_part(one)
                saved.hash_folded(self, one, hasher)
            self._known[name] = hasher.hexdigest()
        return self._known[name]

    def to_tensors(self) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """The parts held for a checkpoint: tensors in order of fact id, and metadata.

        Equal states give equal tensors, whatever their history. The erase count is saved; which
        facts were erased is not.
        """
        return saved.save(self)

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str], check: bool = True
    ) -> BankState:
        """The state that `to_tensors` saved; `erase` gives it back the facts that were erased.

        Args:
            check: whether the tensors' own hash is compared; not where the file's has been.

        Raises:
            DataLoss: damaged, or saved in another format.
        """
        return saved.restore(cls, tensors, metadata, check)
