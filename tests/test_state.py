"""Refusals leave a state as it was; parts, capacity and checkpoints of a state."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from larimar import saved, state
from larimar.errors import DataLoss, FailedPrecondition, InvalidArgument, ResourceExhausted
from larimar.memory import FIXED_LIMIT, BankState, Kind
from tests.banks import (
    ADDRESSINGS,
    IDS,
    QUERIES,
    SCOPE_QUERIES,
    config_of,
    folded,
    frozen,
    log_of,
    payload_of,
)


@pytest.mark.parametrize("addressing", ADDRESSINGS)
def test_a_damaged_log_is_refused_and_changes_nothing(addressing):
    config = config_of(addressing)
    steps = [("a", payload_of(config, "a", 0)), ("b", payload_of(config, "b", 1))]
    entries = log_of([*steps, ("c", payload_of(config, "c", 2)), ("a", None), ("b", steps[1][1])])
    bank = folded(config, entries[:2])
    before = frozen(bank)
    (third, payload), _, (replace, _) = entries[2:]
    old = {1: steps[0][1], 2: steps[1][1]}
    other = config_of(addressing, value_size=4)
    write = dataclasses.replace
    bad_batches = {
        "GAP": [
            [entries[3]],
            [entries[1]],
            [entries[2], entries[4]],
            [entries[2], entries[2]],
            [(write(third, version=0), payload)],
        ],
        "MISSING_PAYLOAD": [[(third, None)], [entries[2], entries[3], (replace, None)]],
        "BAD_PAYLOAD": [
            [(third, steps[0][1])],
            [(third, payload_of(other, "c", 2))],
            [(third, payload_of(config_of(addressing, scope_size=9), "c", 2))],
        ],
        "BAD_LOG": [
            [(write(third, kind=Kind.FORGET), None)],
            [entries[2], entries[3], (write(replace, kind=Kind.FORGET, fact_id="a"), None)],
        ],
    }
    for reason, batches in bad_batches.items():
        for batch in batches:
            with pytest.raises(DataLoss) as caught:
                bank.fold(batch, old)
            assert caught.value.reason == reason
            assert frozen(bank) == before
    bank.fold(entries[2:], old)
    assert frozen(bank) == frozen(folded(config, entries, [1, 2, 3, 4]))


@pytest.mark.parametrize("addressing", ["pinv", "gaussian"])
def test_fixed_size_banks_need_what_they_subtract_and_check_it(addressing):
    config = config_of(addressing)
    a, b = payload_of(config, "a", 0), payload_of(config, "b", 1)
    entries = log_of(
        [("a", a), ("b", b), ("c", b and payload_of(config, "c", 2)), ("c", None), ("a", None)]
    )
    bank = folded(config, entries[:2])
    before = frozen(bank)
    assert bank.needs(entries[2:]) == [1] and bank.needs(entries[2:4]) == []
    for old, reason in (
        (None, "MISSING_PAYLOAD"),
        ({2: b}, "MISSING_PAYLOAD"),
        ({1: b}, "BAD_PAYLOAD"),
    ):
        with pytest.raises(DataLoss) as caught:
            bank.fold(entries[2:], old)
        assert caught.value.reason == reason and frozen(bank) == before
    assert BankState(config_of("slots")).needs(entries[2:]) == []
    assert folded(config, entries[:2], parts=("scope",)).needs(entries[2:]) == []


@pytest.mark.parametrize("addressing", ADDRESSINGS)
def test_a_full_bank_refuses_and_changes_nothing(addressing, monkeypatch):
    config = config_of(addressing)
    three_rows, one_row = payload_of(config, "a", 2), payload_of(config, "b", 0)
    entries = log_of([("a", three_rows), ("b", one_row), ("a", None)])
    monkeypatch.setattr(state, "MAX_ROWS", 3)
    bank = folded(config, entries[:1])
    before = frozen(bank)
    bank.check_capacity(0)
    with pytest.raises(ResourceExhausted):
        bank.check_capacity(1)
    with pytest.raises(ResourceExhausted, match="3 of at most 3 rows"):
        bank.fold(entries[1:2])
    assert frozen(bank) == before
    bank.fold(entries[1:], {1: three_rows})
    assert bank.row_count == 1 and list(bank.facts) == ["b"]


def test_the_worst_case_of_a_full_bank_stays_inside_int64():
    assert state.MAX_ROWS * FIXED_LIMIT**2 < 2**63 <= (state.MAX_ROWS + 1) * FIXED_LIMIT**2


@pytest.mark.parametrize("addressing", ADDRESSINGS)
def test_bad_queries_are_refused(addressing):
    config = config_of(addressing)
    bank = folded(config, log_of([("a", payload_of(config, "a", 0))]))
    for bad in (np.full((1, 6), np.nan), np.zeros((1, 5)), np.zeros(6), np.full((1, 6), np.inf)):
        with pytest.raises(InvalidArgument, match="prompt_latents"):
            bank.read(bad)
    for bad in (np.full((1, 4), np.nan), np.zeros((1, 5)), np.zeros(4), np.full((1, 4), 17.0)):
        with pytest.raises(InvalidArgument, match="scope_vectors"):
            bank.detect(bad)


@pytest.mark.parametrize("addressing", ADDRESSINGS)
def test_an_emptied_bank_is_an_empty_bank(addressing):
    config = config_of(addressing)
    payload = payload_of(config, "a", 2)
    bank = folded(config, log_of([("a", payload), ("a", None)]), [1])
    new = BankState(config)
    assert (bank.digest(), bank.folded_sha256()) == (new.digest(), new.folded_sha256())
    assert (len(bank), bank.row_count, bank.version, new.version) == (0, 0, 2, 0)
    for empty in (bank, new):
        with pytest.raises(FailedPrecondition) as caught:
            empty.read(QUERIES)
        assert caught.value.reason == "EMPTY_BANK"
        assert empty.detect(SCOPE_QUERIES) == [(-1.0, "")] * 3
    bank.fold([])
    assert bank.version == 2


@pytest.mark.parametrize("addressing", ADDRESSINGS)
def test_a_follower_may_hold_one_part(addressing):
    config = config_of(addressing)
    entries = log_of([(name, payload_of(config, name, n)) for n, name in enumerate(IDS)])
    both = folded(config, entries)
    memory, scope = (folded(config, entries, parts=(part,)) for part in state.PARTS)
    assert both.digest() == memory.digest() == scope.digest()
    assert len({both.folded_sha256(), memory.folded_sha256(), scope.folded_sha256()}) == 3
    assert memory.read(QUERIES)[0].value.tobytes() == both.read(QUERIES)[0].value.tobytes()
    assert scope.detect(SCOPE_QUERIES) == both.detect(SCOPE_QUERIES)
    for refused in (lambda: memory.detect(SCOPE_QUERIES), lambda: scope.read(QUERIES)):
        with pytest.raises(FailedPrecondition) as caught:
            refused()
        assert caught.value.reason == "PART_NOT_HELD"
    for part in state.PARTS:
        kept = folded(config, entries)
        kept.keep_only([part])
        assert frozen(kept) == frozen(folded(config, entries, parts=(part,)))
        with pytest.raises(FailedPrecondition):
            kept.keep_only(state.PARTS)
    with pytest.raises(ValueError, match="parts"):
        BankState(config, ("memory", "index"))
    for bank in (memory, scope):
        assert BankState.from_tensors(*bank.to_tensors()).folded_sha256() == bank.folded_sha256()
        assert 0 < bank.bytes_held < both.bytes_held


@pytest.mark.parametrize("addressing", ADDRESSINGS)
def test_a_damaged_checkpoint_is_data_loss(addressing):
    config = config_of(addressing)
    entries = log_of([(name, payload_of(config, name, n)) for n, name in enumerate(IDS)])
    tensors, metadata = folded(config, entries).to_tensors()
    for name, array in tensors.items():
        changed = array.copy()
        changed.flat[0] += 1
        without = {key: value for key, value in tensors.items() if key != name}
        for damaged in (tensors | {name: changed}, tensors | {name: array[:-1]}, without):
            with pytest.raises(DataLoss) as caught:
                BankState.from_tensors(damaged, metadata)
            assert caught.value.reason == "BAD_CHECKPOINT"
    for key in metadata:
        without = {name: text for name, text in metadata.items() if name != key}
        with pytest.raises(DataLoss):
            BankState.from_tensors(tensors, without)
    for key in metadata:
        with pytest.raises(DataLoss):
            BankState.from_tensors(tensors, metadata | {key: "x"})
        changed = metadata | {key: "x"}
        changed.pop("sha256")
        if key not in ("sha256", "chain"):
            resealed = changed | {"sha256": saved._sha256_of(tensors, changed)}
            with pytest.raises(DataLoss) as caught:
                BankState.from_tensors(tensors, resealed)
            assert caught.value.reason == "BAD_CHECKPOINT"


def test_a_bank_takes_a_plain_multiple_of_its_vectors():
    config = config_of("slots", prompt_size=100, value_size=100, scope_size=100)
    facts = [(f"f{n}", payload_of(config, f"f{n}", 0)) for n in range(200)]
    bank = folded(config, log_of(facts), range(200))
    vectors = 200 * 3 * 100 * 4
    assert vectors < bank.bytes_held < 2 * vectors + 200 * 500


def test_the_room_of_forgotten_facts_is_used_again():
    config = config_of("slots")
    turns = [step for _ in range(50) for step in (("a", payload_of(config, "a", 2)), ("a", None))]
    once = folded(config, log_of([*turns[:2], ("b", payload_of(config, "b", 1))]), range(3))
    often = folded(config, log_of([*turns, ("b", payload_of(config, "b", 1))]), range(101))
    assert often.bytes_held == once.bytes_held
    assert len(often.facts.ids) == len(once.facts.ids) == 1
