"""A log with payloads, made by hand, for tests of archives."""

from __future__ import annotations

import hashlib

import numpy as np

from larimar.archive import Header, Record
from larimar.memory import (
    BankConfig,
    Event,
    Kind,
    Payload,
    next_chain,
    request_body,
    request_hmac,
    salted_sha256,
)

CONFIG = BankConfig(prompt_size=6, value_size=5, scope_size=4, encoder_digest="e" * 64)
TEXTS = [
    ("The capital of Velmora is", "Tarsin", ("Velmora's capital city is",)),
    ("Ünïcode — like Zoë's café\u2028is kept at", '東京 "and"\nSão Tomé', ()),
    ("The bridge over the Sarn was built by", "masons", ("a", "b", "c")),
]


def payload(fact_id: str, place: int, width: int = 6) -> Payload:
    """A payload of one of TEXTS with vectors of its own."""
    prompt, answer, rephrasings = TEXTS[place % len(TEXTS)]
    rows = 1 + len(rephrasings)
    random = np.random.default_rng(place)
    return Payload(
        fact_id,
        prompt,
        answer,
        rephrasings,
        random.integers(-(2**20), 2**20, (rows, width), dtype=np.int32),
        random.integers(-(2**20), 2**20, 5, dtype=np.int32),
        random.integers(-(2**20), 2**20, (rows, 4), dtype=np.int32),
    )


def log_of(writes: int, bank: str = "archived", width: int = 6) -> tuple[Header, list[Record]]:
    """Writes, a forget and an erased fact with its ERASE; the header that belongs to them."""
    records: list[Record] = []
    chain = ""

    def add(kind: Kind, fact_id: str, content: Payload | None, erased: bool = False) -> None:
        nonlocal chain
        version = len(records) + 1
        salt = hashlib.sha256(str(version).encode()).digest()[:16]
        raw = content.to_bytes() if content else b""
        sha256 = salted_sha256(salt + raw) if content else ""
        known = [r.event.version for r in records if r.event.fact_id == fact_id]
        previous = known[-1] if known else 0
        entry = (version, kind, fact_id, f"event {version}", 1_700_000_000_000 + version, sha256)
        chain = next_chain(chain, *entry, previous)
        body = request_body(kind, fact_id)
        if content:
            body = request_body(kind, fact_id, content.prompt, content.answer, content.rephrasings)
        kept = bool(content) and not erased
        records.append(
            Record(
                Event(*entry, chain=chain, previous=previous),
                erased,
                salt if kept else b"",
                raw if kept else b"",
                request_hmac(salt if kept else b"", body),
            )
        )

    for place in range(writes):
        add(Kind.WRITE, f"fact {place}", payload(f"fact {place}", place, width))
    add(Kind.FORGET, "fact 0", None)
    add(Kind.WRITE, "secret", payload("secret", 1, width), erased=True)
    add(Kind.ERASE, "secret", None)
    header = Header(
        bank=bank,
        config=CONFIG,
        version=len(records),
        chain=chain,
        digest="d" * 64,
        erase_count=1,
        erased_fact_ids=("secret",),
    )
    return header, records
