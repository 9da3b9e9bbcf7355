"""The benchmark of a growing bank: its synthetic queries, and a run that is small."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import scale
from larimar.memory import BankConfig, Kind, request_body


def test_a_fact_has_the_same_vectors_each_time_and_no_other_has_them():
    for one, again, other in zip(*map(scale.vectors_of, (3, 3, 4)), strict=True):
        assert one.tobytes() == again.tobytes() != other.tobytes()
    address_D, scope_S, value_C = scale.vectors_of(3)
    assert (len(address_D), len(scope_S), len(value_C)) == (384, 384, 768)
    assert np.linalg.norm(address_D) == pytest.approx(1) == np.linalg.norm(scope_S)


@pytest.mark.parametrize("cosine", [0.66, 0.9, 1.0])
def test_a_query_has_the_cosine_asked_for(cosine):
    row, _, _ = scale.vectors_of(5)
    query = scale.rephrased(row, cosine, np.random.default_rng(0))
    assert np.linalg.norm(query) == pytest.approx(1, abs=1e-5)
    assert query @ row == pytest.approx(cosine, abs=1e-5)


def test_synthetic_facts_are_what_the_log_takes():
    config = BankConfig(prompt_size=384, value_size=768, scope_size=384)
    ((number, payload, body),) = scale.synthetic_facts(config, range(7, 8))
    assert (number, payload.fact_id) == (7, "fact-00000007")
    assert body == request_body(Kind.WRITE, payload.fact_id, payload.prompt, payload.answer)
    np.testing.assert_array_equal(
        payload.addresses[0], np.rint(scale.vectors_of(7)[0].astype(float) * 2**16)
    )


async def test_a_small_run_measures_every_size_through_the_store(tmp_path, monkeypatch):
    passes = []
    monkeypatch.setattr(scale, "encoder_passes", lambda: lambda: passes.append(1))
    report = (await scale._grow(tmp_path, (100, 400), 5, lambda _: None)).results()
    assert len(passes) == 10 + 10 + 40, "a query each, and a single write each"
    for size in (100, 400):
        assert report["measured"][f"{size} facts: append"]["median"] > 0
        assert report["compared"][f"{size} facts: recall by address"]["met"]
        assert report["compared"][f"{size} facts: recall by scope"]["met"]
        assert report["compared"][f"{size} facts: bytes a fact in the store"]["value"] > 3072
    for what in (
        "cost of a write in batches",
        "one write with its passes",
        "read with its passes",
        "search and read alone",
    ):
        assert report["compared"][f"{what}, 400 against 100 facts"]["value"] > 0
