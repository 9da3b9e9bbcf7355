"""Small banks for tests: their logs, and a slow twin that shares no code with the fold."""

from __future__ import annotations

import hashlib
import math
import struct
from itertools import pairwise

import numpy as np
import torch

from larimar import algebra, state
from larimar.memory import BankConfig, BankState, Event, Kind, Payload, make_payload, next_chain

ADDRESSINGS = ("slots", "pinv", "gaussian")
IDS = ("a", "b", "c", "ä", "long id", "\U0001f600")


def config_of(addressing: str, **changed) -> BankConfig:
    """A bank small enough for the twin in plain integers."""
    sizes = {"prompt_size": 6, "value_size": 3, "scope_size": 4, "alpha": 0.3}
    slots = {"slots": 0 if addressing == "slots" else 5}
    return BankConfig(addressing=addressing, **sizes | slots | changed)


def payload_of(config: BankConfig, fact_id: str, variant: int) -> Payload:
    """One of few facts: equal variants have equal vectors, so ties between facts are common."""
    rng = np.random.default_rng(variant % 4)
    rows = 1 + variant % 3
    return make_payload(
        config,
        fact_id,
        f"prompt {variant}",
        f"answer {variant}",
        [f"rephrasing {n}" for n in range(rows - 1)],
        rng.standard_normal((rows, config.prompt_size)).astype(np.float32),
        rng.standard_normal(config.value_size).astype(np.float32),
        rng.standard_normal((rows, config.scope_size)).astype(np.float32),
    )


def log_of(steps: list[tuple[str, Payload | None]]) -> list[tuple[Event, Payload | None]]:
    """The log of these writes (fact id, payload) and forgets (fact id, None)."""
    entries, chain = [], ""
    for version, (fact_id, payload) in enumerate(steps, start=1):
        kind = Kind.FORGET if payload is None else Kind.WRITE
        sha256 = "" if payload is None else payload.sha256
        chain = next_chain(chain, version, kind, fact_id, f"e{version}", 0, sha256)
        event = Event(version, kind, fact_id, f"e{version}", 0, sha256, chain)
        entries.append((event, payload))
    return entries


def folded(config: BankConfig, entries, cuts=(), parts=state.PARTS) -> BankState:
    """The log folded in batches that end at the cuts, with no old payload but those needed."""
    stored = {event.version: payload for event, payload in entries}
    bank = BankState(config, parts)
    edges = sorted({0, len(entries), *(cut % (len(entries) + 1) for cut in cuts)})
    for start, end in pairwise(edges):
        batch = entries[start:end]
        bank.fold(batch, {version: stored[version] for version in bank.needs(batch)})
    return bank


def live_facts(entries) -> dict[str, Payload]:
    """What the log leaves live, by the obvious dictionary."""
    live: dict[str, Payload] = {}
    for event, payload in entries:
        live.pop(event.fact_id, None)
        if payload is not None:
            live[event.fact_id] = payload
    return live


QUERIES = np.random.default_rng(99).standard_normal((3, 6)).astype(np.float32)
SCOPE_QUERIES = np.random.default_rng(98).standard_normal((3, 4)).astype(np.float32)


def reads_of(bank: BankState, config: BankConfig) -> list:
    """Everything the state answers, as bytes; a written prompt is among the queries."""
    if not len(bank):
        return [bank.detect(SCOPE_QUERIES)]
    written = np.random.default_rng(1).standard_normal((1, config.prompt_size))
    queries = np.concatenate([QUERIES, written.astype(np.float32)])
    reads = [(out.value.tobytes(), out.fact_id, out.weight) for out in bank.read(queries)]
    return [*reads, bank.detect(SCOPE_QUERIES)]


def everything_of(bank: BankState, config: BankConfig) -> tuple:
    return bank.digest(), bank.folded_sha256(), len(bank), bank.row_count, reads_of(bank, config)


class Twin:
    """The same bank, slow and obvious: Python integers, one fact after another, nothing cached."""

    def __init__(self, config: BankConfig, live: dict[str, Payload]) -> None:
        self.config, self.live = config, dict(sorted(live.items()))

    def digest(self) -> str:
        hasher = hashlib.sha256(self.config.digest.encode())
        for fact_id, payload in self.live.items():
            name = fact_id.encode()
            hasher.update(struct.pack("<I", len(name)) + name + bytes.fromhex(payload.sha256))
        return hasher.hexdigest()

    def sums(self) -> tuple[list[list[int]], list[list[int]]]:
        k, c = self.config.slots, self.config.value_size
        c_kk, b_kc = [[0] * k for _ in range(k)], [[0] * c for _ in range(k)]
        for payload in self.live.values():
            value = payload.value.tolist()
            for a in payload.addresses.tolist():
                for i in range(k):
                    for j in range(k):
                        c_kk[i][j] += a[i] * a[j]
                    for j in range(c):
                        b_kc[i][j] += a[i] * value[j]
        return c_kk, b_kc

    def folded(self) -> str:
        data = b""
        if self.config.addressing == "slots":
            for payload in self.live.values():
                rows, value = payload.addresses.tolist(), payload.value.tolist()
                for row in rows:
                    data += struct.pack(f"<{len(row)}i", *row)
                data += struct.pack("<q", len(rows)) + struct.pack(f"<{len(value)}i", *value)
        else:
            for table in self.sums():
                for row in table:
                    data += struct.pack(f"<{len(row)}q", *row)
        for payload in self.live.values():
            for row in payload.scope.tolist():
                data += struct.pack(f"<{len(row)}i", *row)
        return hashlib.sha256(data).hexdigest()

    def read(self, query: np.ndarray) -> tuple[list[float], str]:
        """Slots: equations 7-8 over every row. Else: w times a direct solve of the sums."""
        config = self.config
        if config.addressing != "slots":
            c_kk, b_kc = (np.array(table, float) for table in self.sums())
            c_kk, b_kc = (
                c_kk / 4**config.address_bits,
                b_kc / 2 ** (config.address_bits + config.value_bits),
            )
            lam = config.ridge * np.trace(c_kk) / config.slots
            reference = algebra.reference_memory(0, config.slots, config.prompt_size)
            z = torch.from_numpy(query.astype(float)).reshape(1, -1)
            if config.addressing == "pinv":
                w = algebra.pinv_address(z, reference, 1e-9)
            else:
                rows_of_length_1 = reference / reference.norm(dim=1, keepdim=True)
                w = algebra.gaussian_address(z, rows_of_length_1, config.alpha)
            memory = np.linalg.solve(c_kk + lam * np.eye(config.slots), b_kc)
            return (w.numpy()[0] @ memory).tolist(), ""
        q = [round(float(x) * 2**config.prompt_bits) for x in query]
        rows = []
        for fact_id, payload in self.live.items():
            for row in payload.addresses.tolist():
                distance = sum((x - y) ** 2 for x, y in zip(row, q, strict=True))
                rows.append((distance, fact_id, payload.value.tolist()))
        least = min(rows)[0]
        weighed: dict[str, float] = {}
        z = [0.0] * config.value_size
        total = 0.0
        for distance, fact_id, value in sorted(rows):
            excess = distance - least
            weight = math.exp(-excess / (2 * config.alpha * least)) if least else float(not excess)
            total += weight
            weighed[fact_id] = weighed.get(fact_id, 0.0) + weight
            z = [old + weight * new for old, new in zip(z, value, strict=True)]
        z = [x / total / 2**config.value_bits for x in z]
        return z, max(weighed, key=weighed.__getitem__)

    def detect(self, query: np.ndarray) -> tuple[float, str]:
        q = [round(float(x) * 2**self.config.scope_bits) for x in query]
        best = (-2.0, "")
        for fact_id, payload in self.live.items():
            for row in payload.scope.tolist():
                dot = sum(x * y for x, y in zip(row, q, strict=True))
                cosine = dot / math.sqrt(sum(x * x for x in row) * sum(y * y for y in q))
                if cosine > best[0]:
                    best = (cosine, fact_id)
        return best


def frozen(bank: BankState) -> tuple:
    """All of a state, comparable."""
    tensors, metadata = bank.to_tensors()
    arrays = {name: array.tobytes() for name, array in tensors.items()}
    return arrays, metadata, dict(bank.facts), bank.row_count, bank.bytes_held
