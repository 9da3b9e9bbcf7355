"""Erase in the fold: the state becomes one in which the fact was never written, for good."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from larimar.errors import DataLoss, FailedPrecondition
from larimar.memory import BankState, Event, Kind, Payload
from larimar.state import PARTS, Entry
from tests.banks import ADDRESSINGS, IDS, config_of, everything_of, folded, log_of, payload_of

WHAT = st.sampled_from(["write", "forget", "erase"])
STEPS = st.lists(st.tuples(st.sampled_from(IDS), WHAT, st.integers(0, 8)), max_size=20)
CUTS = st.lists(st.integers(0, 1000), max_size=6)


def log_with_erases(config, steps) -> tuple[list[Entry], dict[int, Payload], set[str]]:
    """A log as the store keeps it after erases: the erased facts' payloads are gone from it.

    Returns the entries, every payload that was ever written, and the erased facts.
    """
    entries: list[Entry] = []
    written: dict[int, Payload] = {}
    live: set[str] = set()
    erased: set[str] = set()
    seen: set[str] = set()
    for fact_id, what, variant in steps:
        version = len(entries) + 1
        allowed = {"write": True, "forget": fact_id in live, "erase": fact_id in seen}[what]
        if fact_id in erased or not allowed:
            continue
        kind = {"write": Kind.WRITE, "forget": Kind.FORGET, "erase": Kind.ERASE}[what]
        payload = payload_of(config, fact_id, variant) if what == "write" else None
        if payload is not None:
            written[version] = payload
        live = live | {fact_id} if payload is not None else live - {fact_id}
        erased |= {fact_id} if what == "erase" else set()
        seen.add(fact_id)
        entries.append(
            (Event(version, kind, fact_id, f"e{version}", 0, "", f"c{version}"), payload)
        )
    return entries, written, erased


def without_payloads(entries: list[Entry], erased: set[str]) -> list[Entry]:
    return [(event, None if event.fact_id in erased else payload) for event, payload in entries]


def fold_in_batches(bank: BankState, entries: list[Entry], written, cuts) -> None:
    edges = sorted({0, len(entries), *(cut % (len(entries) + 1) for cut in cuts)})
    for low, high in itertools.pairwise(edges):
        batch = entries[low:high]
        bank.fold(batch, {version: written[version] for version in bank.needs(batch)})


@pytest.mark.parametrize("addressing", ADDRESSINGS)
@settings(max_examples=60, deadline=None)
@given(steps=STEPS, cuts=CUTS, at=st.integers(0, 1000))
def test_erased_is_never_written(addressing, steps, cuts, at):
    """However the log is read: as it grew, after its payloads went, or erased part of the way."""
    config = config_of(addressing)
    entries, written, erased = log_with_erases(config, steps)
    rest = {}
    for event, payload in entries:
        rest.pop(event.fact_id, None)
        if payload is not None and event.fact_id not in erased:
            rest[event.fact_id] = payload
    wanted = everything_of(folded(config, log_of(list(rest.items()))), config)

    as_it_grew = BankState(config)
    fold_in_batches(as_it_grew, entries, written, cuts)
    told_before = BankState(config)
    told_before.erase(erased, {})
    fold_in_batches(told_before, without_payloads(entries, erased), written, cuts)
    at %= len(entries) + 1
    told_between = BankState(config)
    fold_in_batches(told_between, entries[:at], written, cuts)
    needed = told_between.needs_of(erased)
    told_between.erase(erased, {version: written[version] for version in needed})
    fold_in_batches(told_between, without_payloads(entries[at:], erased), written, cuts)
    for bank in (as_it_grew, told_before, told_between):
        assert everything_of(bank, config) == wanted
        assert (bank.erased, bank.erase_count) == (erased, len(erased))
        assert (bank.version, bank.chain) == (len(entries), f"c{len(entries)}" if entries else "")
    assert as_it_grew.to_tensors()[1] == told_between.to_tensors()[1]


@pytest.mark.parametrize("addressing", ADDRESSINGS)
def test_a_batch_may_lack_the_payload_of_what_it_erases_itself(addressing):
    config = config_of(addressing)
    steps = [("a", "write", 0), ("b", "write", 1), ("a", "forget", 0), ("a", "erase", 0)]
    entries, _, _ = log_with_erases(config, steps)
    bank = BankState(config)
    bank.fold(without_payloads(entries, {"a"}))
    assert list(bank.facts) == ["b"] and bank.erased == {"a"}
    with pytest.raises(DataLoss) as caught:
        BankState(config).fold(without_payloads(entries[:3], {"a"}))
    assert caught.value.reason == "MISSING_PAYLOAD"


@pytest.mark.parametrize("addressing", ["pinv", "gaussian"])
def test_an_erase_needs_what_it_subtracts_and_changes_nothing_without_it(addressing):
    config = config_of(addressing)
    a, b = payload_of(config, "a", 0), payload_of(config, "b", 1)
    bank = folded(config, log_of([("a", a), ("b", b)]))
    before = everything_of(bank, config)
    erase = (Event(3, Kind.ERASE, "b", "e3", 0, "", "c3"), None)
    assert bank.needs([erase]) == bank.needs_of(["b", "never written"]) == [2]
    for attempt in (lambda old: bank.erase(["b"], old), lambda old: bank.fold([erase], old)):
        for old, reason in (({}, "MISSING_PAYLOAD"), ({2: a}, "BAD_PAYLOAD")):
            with pytest.raises(DataLoss) as caught:
                attempt(old)
            assert caught.value.reason == reason
            assert (everything_of(bank, config), bank.erased) == (before, set())
    bank.fold([erase], {2: b})
    assert everything_of(bank, config) == everything_of(folded(config, log_of([("a", a)])), config)


@pytest.mark.parametrize("addressing", ADDRESSINGS)
@pytest.mark.parametrize("parts", [PARTS, ("memory",), ("scope",)])
def test_a_restored_state_is_given_the_erased_facts_again(addressing, parts):
    config = config_of(addressing)
    steps = [(name, "write", n) for n, name in enumerate(IDS)]
    steps += [("a", "erase", 0), ("c", "erase", 0)]
    entries, written, erased = log_with_erases(config, steps)
    bank = BankState(config, parts)
    fold_in_batches(bank, entries, written, ())
    tensors, metadata = bank.to_tensors()
    restored = BankState.from_tensors(tensors, metadata)
    assert (restored.erased, restored.erase_count) == (set(), 2)
    older = BankState(config, parts)
    fold_in_batches(older, entries[:-2], written, ())
    older = BankState.from_tensors(*older.to_tensors())
    assert older.erase_count == 0
    older.erase(erased, {version: written[version] for version in older.needs_of(erased)})
    restored.erase(erased, {})
    older.fold(entries[-2:])
    for state in (restored, older):
        assert (state.erased, state.erase_count) == (erased, 2)
        assert [state.folded_sha256(part) for part in parts] == [
            bank.folded_sha256(part) for part in parts
        ]
        assert state.to_tensors()[1] == metadata
        write = dataclasses.replace(entries[0][0], version=len(entries) + 1)
        state.fold([(write, None)])
        assert state.digest() == bank.digest() and state.version == bank.version + 1


def test_the_folded_bytes_of_a_part_are_those_of_a_state_that_holds_it_alone():
    config = config_of("pinv")
    entries = log_of([(name, payload_of(config, name, n)) for n, name in enumerate(IDS)])
    both = folded(config, entries)
    for part in PARTS:
        alone = folded(config, entries, parts=(part,))
        assert both.folded_sha256(part) == alone.folded_sha256(part) == alone.folded_sha256()
        other = next(one for one in PARTS if one != part)
        with pytest.raises(FailedPrecondition) as caught:
            alone.folded_sha256(other)
        assert caught.value.reason == "PART_NOT_HELD"
