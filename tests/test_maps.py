"""The map of a bank: where facts and a query lie."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2 as httpx
import numpy as np
import pytest

from services.gateway.maps import flattened
from tests.in_process import new_bank_name
from tests.served_http import ServedHttp

FACTS = {
    "capital": ("The capital of Velmora is", "Tarsin"),
    "capital-2": ("The capital city of Velmora is", "Tarsin"),
    "soup": ("A good soup begins with", "onions"),
    "mayor": ("The mayor of Oskel in 1998 was", "Ida Brandt"),
}


@pytest.fixture(scope="module")
def http(weights) -> Iterator[httpx.Client]:
    with ServedHttp(weights) as served, httpx.Client(base_url=served.url, timeout=120) as client:
        yield client


@pytest.fixture
def bank(http: httpx.Client) -> str:
    name = new_bank_name()
    assert http.post("/v1/banks", json={"bank": name}).status_code == 200
    return name


def mapped(http: httpx.Client, bank: str, **asked) -> dict:
    answer = http.post(f"/v1/banks/{bank}/map", json=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def written(http: httpx.Client, bank: str) -> None:
    for fact_id, (prompt, answer) in FACTS.items():
        body = {"prompt": prompt, "answer": answer, "fact_id": fact_id}
        assert http.post(f"/v1/banks/{bank}/facts", json=body).status_code == 200


def test_a_query_lies_on_the_fact_that_it_repeats_and_moves_none(http, bank: str) -> None:
    written(http, bank)
    alone = mapped(http, bank)
    assert (alone["query"], alone["total"], alone["version"]) == (None, 4, 4)
    assert [one["fact_id"] for one in alone["facts"]] == sorted(FACTS)
    assert all(one["similarity"] is None for one in alone["facts"])
    asked = mapped(http, bank, query=FACTS["soup"][0])
    places = {one["fact_id"]: (one["x"], one["y"]) for one in asked["facts"]}
    assert places == {one["fact_id"]: (one["x"], one["y"]) for one in alone["facts"]}
    assert asked["query"] == pytest.approx(places["soup"])
    similar = {one["fact_id"]: one["similarity"] for one in asked["facts"]}
    assert similar["soup"] == pytest.approx(1.0, abs=1e-5)
    assert max(similar["mayor"], similar["capital"]) < 0.99


def test_a_map_is_of_a_version(http, bank: str) -> None:
    assert mapped(http, bank)["facts"] == []
    written(http, bank)
    then = mapped(http, bank, query="soup", at_version=1)
    assert ([one["fact_id"] for one in then["facts"]], then["version"]) == (["capital"], 1)
    missing = http.post(f"/v1/banks/{bank}/map", json={"at_version": 99})
    assert missing.json()["error"]["code"] == "VERSION_NOT_WRITTEN"


def test_the_axes_are_those_along_which_vectors_vary_most() -> None:
    generator = np.random.default_rng(7)
    wide_N3 = generator.normal(size=(50, 3)) * [0.1, 9.0, 3.0]
    places_N2 = flattened(wide_N3, 50)
    for axis, column in ((0, 1), (1, 2)):
        same = np.corrcoef(places_N2[:, axis], wide_N3[:, column])[0, 1]
        assert same > 0.95, "and the sign is that of the largest component"
    assert np.abs(places_N2).max() == pytest.approx(1.0)
    again_N2 = flattened(np.concatenate([wide_N3, [[0.0, 500.0, 0.0]]]), 50)
    assert np.array_equal(again_N2[:50], places_N2)
    assert again_N2[50, 0] > 1


def test_one_fact_is_in_the_middle() -> None:
    assert np.array_equal(flattened(np.ones((1, 3)), 1), np.zeros((1, 2)))
