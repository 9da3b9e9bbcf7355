"""The fold: a bank's state is a function of its live facts, exactly, for every addressing."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from larimar import algebra, sums
from larimar.memory import (
    FIXED_LIMIT,
    BankConfig,
    BankState,
    Event,
    Kind,
    Payload,
    decide,
    make_payload,
)
from tests.banks import (
    ADDRESSINGS,
    IDS,
    QUERIES,
    SCOPE_QUERIES,
    Twin,
    config_of,
    everything_of,
    folded,
    live_facts,
    log_of,
    payload_of,
)

STEP = st.tuples(st.sampled_from(IDS), st.one_of(st.none(), st.integers(0, 8)))
PROGRAM = st.lists(STEP, max_size=25)
CUTS = st.lists(st.integers(0, 1000), max_size=8)


def accepted(config: BankConfig, program) -> list[tuple[Event, Payload | None]]:
    """The log of a random program, after `decide` refused what may not follow."""
    status: dict[str, str] = {}
    steps = []
    for fact_id, variant in program:
        kind = Kind.FORGET if variant is None else Kind.WRITE
        if decide(kind, status.get(fact_id)) is not None:
            assert variant is None and status.get(fact_id) != "live"
            continue
        status[fact_id] = "forgotten" if variant is None else "live"
        payload = None if variant is None else payload_of(config, fact_id, variant)
        steps.append((fact_id, payload))
    return log_of(steps)


@pytest.mark.parametrize("addressing", ADDRESSINGS)
@settings(max_examples=150, deadline=None)
@given(program=PROGRAM, cuts=CUTS, more_cuts=CUTS, shuffle=st.randoms(use_true_random=False))
def test_the_state_is_a_function_of_the_live_facts(addressing, program, cuts, more_cuts, shuffle):
    """Order, batching, replacements, forgets leave no trace; to forget is never to have written."""
    config = config_of(addressing)
    entries = accepted(config, program)
    bank = folded(config, entries, cuts)
    everything = everything_of(bank, config)
    assert (bank.version, bank.chain) == (len(entries), entries[-1][0].chain if entries else "")
    assert everything_of(folded(config, entries, more_cuts), config) == everything
    assert everything_of(folded(config, entries, range(len(entries))), config) == everything
    never_written_else = list(live_facts(entries).items())
    shuffle.shuffle(never_written_else)
    other = folded(config, log_of(never_written_else), more_cuts)
    assert everything_of(other, config) == everything

    twin = Twin(config, live_facts(entries))
    assert (bank.digest(), bank.folded_sha256()) == (twin.digest(), twin.folded())
    if twin.live:
        for query, out in zip(QUERIES, bank.read(QUERIES), strict=True):
            value, fact_id = twin.read(query)
            np.testing.assert_allclose(out.value, value, rtol=1e-5, atol=1e-6)
            assert out.fact_id == fact_id
        for query, (score, fact_id) in zip(SCOPE_QUERIES, bank.detect(SCOPE_QUERIES), strict=True):
            assert (pytest.approx(score, abs=1e-12), fact_id) == twin.detect(query)


@pytest.mark.parametrize("addressing", ADDRESSINGS)
@settings(max_examples=40, deadline=None)
@given(program=PROGRAM, cuts=CUTS, tail=PROGRAM)
def test_a_checkpoint_restores_any_history(addressing, program, cuts, tail):
    config = config_of(addressing)
    entries = accepted(config, program + tail)
    head = len(accepted(config, program))
    stored = {event.version: payload for event, payload in entries}
    bank = folded(config, entries[:head], cuts)
    tensors, metadata = bank.to_tensors()
    again, same = folded(config, entries[:head]).to_tensors()
    assert metadata == same and tensors.keys() == again.keys()
    for name, array in tensors.items():
        assert array.tobytes() == again[name].tobytes() and array.shape == again[name].shape
    restored = BankState.from_tensors(tensors, metadata)
    assert restored.facts == bank.facts and restored.chain == bank.chain
    assert everything_of(restored, config) == everything_of(bank, config)
    for follower in (bank, restored):
        batch = entries[head:]
        follower.fold(batch, {version: stored[version] for version in follower.needs(batch)})
    assert everything_of(restored, config) == everything_of(bank, config)
    assert everything_of(folded(config, entries), config) == everything_of(bank, config)
    assert restored.version == bank.version == len(entries)


@pytest.fixture
def threads():
    """Sets torch's CPU threads; restores them afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("addressing", ADDRESSINGS)
def test_the_number_of_threads_changes_no_byte(addressing, threads):
    """At sizes where LAPACK's own last bits do change, down to what is solved in float64."""
    slots = 0 if addressing == "slots" else 512
    config = config_of(addressing, slots=slots, prompt_size=96, value_size=512, reference_seed=3)
    rng = np.random.default_rng(5)
    latents = rng.standard_normal((200, 1, 96)).astype(np.float32) / 10
    results = []
    for count in (1, 2):
        threads(count)
        sums._pinv_map.cache_clear()
        steps = [
            (
                f"f{n}",
                make_payload(
                    config, f"f{n}", "p", "a", [], z, np.resize(z, 512), np.ones((1, 4)) * n / 99
                ),
            )
            for n, z in enumerate(latents)
        ]
        bank = folded(config, log_of([*steps, ("f7", None)]), [150])
        reads = [out.value.tobytes() for out in bank.read(latents[:9, 0] + 0.01)]
        results.append((bank.digest(), bank.folded_sha256(), reads, bank.detect(SCOPE_QUERIES)))
        if bank.sums is not None:
            solved = [array.tobytes() for array in bank.sums._solve()]
            results[-1] += (solved, sums.addresses_of(config, latents[:, 0], 200).tobytes())
    assert results[0] == results[1]


@pytest.mark.parametrize("addressing", ADDRESSINGS)
def test_a_query_reads_the_same_bytes_alone_and_in_a_batch(addressing):
    config = config_of(addressing)
    bank = folded(
        config, log_of([(name, payload_of(config, name, n)) for n, name in enumerate(IDS)])
    )
    together = [(out.value.tobytes(), out.fact_id, out.weight) for out in bank.read(QUERIES)]
    alone = [bank.read(query[None])[0] for query in QUERIES]
    assert together == [(out.value.tobytes(), out.fact_id, out.weight) for out in alone]
    assert bank.detect(SCOPE_QUERIES) == [bank.detect(query[None])[0] for query in SCOPE_QUERIES]
    assert bank.read(QUERIES[:0]) == [] and bank.detect(SCOPE_QUERIES[:0]) == []
    assert together[0][0] == bank.read(QUERIES[:1])[0].value.astype(np.float32).tobytes()


@pytest.mark.parametrize("addressing", ADDRESSINGS)
def test_what_was_written_is_read_back_by_prompt_and_rephrasing(addressing):
    config = config_of(
        addressing,
        prompt_size=64,
        value_size=32,
        slots=0 if addressing == "slots" else 256,
        alpha=1e-3 if addressing == "slots" else 0.05,
        ridge=1e-6,
    )
    rng = np.random.default_rng(6)
    prompts = rng.standard_normal((40, 2, 64)).astype(np.float32) / 8
    values = rng.standard_normal((40, 32)).astype(np.float32)
    scope = np.zeros((2, 4), np.float32)
    steps = [
        (f"f{n}", make_payload(config, f"f{n}", "p", "a", ["r"], prompts[n], values[n], scope))
        for n in range(40)
    ]
    bank = folded(config, log_of(steps))
    for form in (0, 1):
        outs = bank.read(prompts[:, form])
        nearest = [int(((values - out.value) ** 2).sum(1).argmin()) for out in outs]
        assert nearest == list(range(40))
        if addressing == "slots":
            assert [out.fact_id for out in outs] == [f"f{n}" for n in range(40)]
            assert all(out.weight == 1.0 for out in outs)
            np.testing.assert_array_equal(
                [out.value for out in outs], np.rint(values * 2**16) / 2**16
            )


# Exact search.


def test_equal_distances_and_cosines_go_to_the_smallest_fact_id():
    config = config_of("slots")
    for order in (("b", "a", "c"), ("c", "b", "a")):
        steps = [
            (name, dataclasses.replace(payload_of(config, "x", 0), fact_id=name)) for name in order
        ]
        bank = folded(config, log_of(steps))
        out = bank.read(QUERIES[:1])[0]
        assert (out.fact_id, out.weight) == ("a", pytest.approx(1 / 3))
        assert bank.detect(SCOPE_QUERIES[:1])[0][1] == "a"
        written = payload_of(config, "x", 0).scope[:1] / 2**16
        assert bank.facts_at(np.concatenate([written, -written]), 0.999) == [["a", "b", "c"], []]
        bank.fold([(Event(4, Kind.FORGET, "a", "e", 0, "", ""), None)])
        assert bank.read(QUERIES[:1])[0].fact_id == bank.detect(SCOPE_QUERIES[:1])[0][1] == "b"


def crowded(seed: int) -> tuple[BankConfig, list[Payload], np.ndarray, np.ndarray]:
    """Rows that float32 cannot tell apart: long, and apart by a few units of fixed point."""
    config = config_of("slots", prompt_size=48, scope_size=48, alpha=1.0)
    rng = np.random.default_rng(seed)
    centre = rng.integers(-FIXED_LIMIT // 2, FIXED_LIMIT // 2, 48)
    payloads = []
    for n in range(300):
        row = centre + rng.integers(-3, 4, 48)
        value = rng.integers(-99, 99, 3)
        payloads.append(Payload(f"f{n:03}", "p", "a", (), row[None], value, row[None]))
    return config, payloads, centre, centre[None] / 2**16


def test_search_is_exact_where_float32_is_not():
    config, payloads, centre, query = crowded(7)
    rows = {p.fact_id: p.addresses[0].astype(int) for p in payloads}
    by_distance = sorted((int(((row - centre) ** 2).sum()), name) for name, row in rows.items())
    in_float32 = np.array(list(rows.values()), np.float32)
    coarse = (in_float32**2).sum(1) - 2 * in_float32 @ centre.astype(np.float32)
    assert list(rows)[int(coarse.argmin())] != by_distance[0][1], "the case must be hard"
    answers = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(300)
        steps = [(payloads[n].fact_id, payloads[n]) for n in order]
        bank = folded(config, log_of(steps), [100, 200])
        near = bank.addresses.nearest(centre[None], bank.facts.ids)[0]
        assert [(distance, bank.facts.ids[slot]) for distance, slot in near] == by_distance[:64]
        out = bank.read(query)[0]
        answers.append((out.value.tobytes(), out.fact_id, out.weight, bank.detect(query)))
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][1] == by_distance[0][1]

    def cosine(row: np.ndarray) -> float:
        dot, square, other = (sum(map(int, x)) for x in (row * centre, row**2, centre**2))
        return dot / math.sqrt(square * other)

    assert answers[0][3][0][1] == max(rows, key=lambda name: cosine(rows[name]))


def test_a_query_that_was_written_has_cosine_one_and_a_zero_vector_none():
    config = config_of("slots")
    bank = folded(config, log_of([("a", payload_of(config, "a", 0))]))
    written = payload_of(config, "a", 0).scope[:1] / 2**16
    assert bank.detect(written) == [(1.0, "a")]
    assert bank.detect(-written)[0][0] == -1.0
    assert bank.detect(np.zeros((1, 4))) == [(0.0, "a")]


def test_a_search_of_many_queries_is_cut_to_a_bounded_scan(monkeypatch):
    config = config_of("slots")
    steps = [(name, payload_of(config, name, n)) for n, name in enumerate(IDS)]
    bank = folded(config, log_of(steps))
    whole = everything_of(bank, config)
    monkeypatch.setattr("larimar.rows.SCAN_ENTRIES", 1)
    monkeypatch.setattr("larimar.rows.EXACT_BLOCK", 2)
    assert everything_of(bank, config) == whole


# Fixed-size banks.


def _of_length_1(rows):
    return rows / rows.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("slots", [4, 16])
def test_addresses_and_reads_are_the_readable_reference_s(slots):
    for addressing in ("pinv", "gaussian"):
        config = config_of(addressing, slots=slots, prompt_size=9)
        latents = np.random.default_rng(1).standard_normal((5, 9)).astype(np.float32)
        z, reference = torch.from_numpy(latents).double(), algebra.reference_memory(0, slots, 9)
        w = (
            algebra.pinv_address(z, reference, 1e-9)
            if addressing == "pinv"
            else algebra.gaussian_address(z, _of_length_1(reference), config.alpha)
        )
        np.testing.assert_allclose(sums.addresses_of(config, latents, 5), w, rtol=1e-9, atol=1e-12)
        steps = [(name, payload_of(config, name, n)) for n, name in enumerate(IDS)]
        bank = folded(config, log_of(steps))
        tensors, _ = bank.to_tensors()
        memory = algebra.solve_memory(
            torch.from_numpy(tensors["C"]), torch.from_numpy(tensors["B"]), 16, 16, config.ridge
        )
        read = np.stack([out.value for out in bank.read(latents)])
        np.testing.assert_allclose(read, w @ memory, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("addressing", ["pinv", "gaussian"])
def test_an_address_has_the_same_bits_alone_and_in_a_batch(addressing):
    """In float64, before any rounding: a GEMM differs from a GEMV in the last bits."""
    config = config_of(addressing, slots=200, prompt_size=300)
    latents = np.random.default_rng(3).standard_normal((9, 300)).astype(np.float32)
    together = sums.addresses_of(config, latents, 9)
    for row in range(9):
        alone = sums.addresses_of(config, latents[row : row + 1], 1)
        assert alone.tobytes() == together[row].tobytes()


def test_sums_are_exact_at_the_extremes_and_come_back_to_nothing():
    config = config_of("pinv", slots=2, value_size=1)
    limit, rows = FIXED_LIMIT, 256
    texts = tuple("r" * (rows - 1))
    addresses = np.tile([limit, -limit], (rows, 1))
    scope = np.zeros((rows, 4), int)
    facts = [
        (f"f{n}", Payload(f"f{n}", "p", "a", texts, addresses, np.array([-limit]), scope))
        for n in range(40)
    ]
    entries = log_of([*facts, *((name, None) for name, _ in facts)])
    bank = BankState(config)
    bank.fold(entries[:40])
    total = 40 * rows * limit * limit
    tensors, _ = bank.to_tensors()
    assert tensors["C"].tolist() == [[total, -total], [-total, total]]
    assert tensors["B"].tolist() == [[-total], [total]]
    assert bank.row_count == 40 * rows
    bank.fold(entries[40:], {n + 1: payload for n, (_, payload) in enumerate(facts)})
    assert everything_of(bank, config) == everything_of(BankState(config), config)


def test_an_inverse_root_is_one_and_refuses_what_has_none():
    rng = np.random.default_rng(2)
    a = rng.standard_normal((9, 12))
    gram = a @ a.T
    root = sums.inverse_root(gram)
    np.testing.assert_allclose(root.T @ root @ gram, np.eye(9), atol=1e-9)
    for bad in (np.diag([1.0, 0.0]), np.diag([1.0, -1.0]), np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match="positive definite"):
            sums.inverse_root(bad)
