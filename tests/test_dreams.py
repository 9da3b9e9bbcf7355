"""Noise on w, dreams, fill, and what a slots bank holds under a prefix."""

from __future__ import annotations

import numpy as np
import pytest

from larimar import dreams
from larimar.errors import FailedPrecondition, InvalidArgument
from larimar.memory import BankState
from tests.banks import ADDRESSINGS, IDS, QUERIES, config_of, folded, log_of, payload_of


def bank_of(addressing: str, order=IDS, **changed) -> BankState:
    config = config_of(addressing, **changed)
    steps = [(name, payload_of(config, name, IDS.index(name))) for name in order]
    return folded(config, log_of(steps), [2, 4])


@pytest.mark.parametrize("addressing", ADDRESSINGS)
def test_noise_is_of_its_seed_and_of_no_batch(addressing):
    bank, other = bank_of(addressing), bank_of(addressing, IDS[::-1])

    def read(bank: BankState, queries, noise: float, seed: int) -> list[bytes]:
        return [out.value.tobytes() for out in bank.read(queries, noise, seed)]

    noisy = read(bank, QUERIES, 0.1, 7)
    assert noisy == read(other, QUERIES, 0.1, 7)
    assert noisy == [one for query in QUERIES for one in read(bank, query[None], 0.1, 7)]
    plain = read(bank, QUERIES, 0.0, 7)
    assert plain == read(bank, QUERIES, 0.0, 8)
    assert len({*noisy, *plain, *read(bank, QUERIES, 0.1, 8)}) == 9
    for noise, seed in ((-1.0, 0), (float("nan"), 0), (0.1, -1)):
        with pytest.raises(InvalidArgument):
            bank.read(QUERIES, noise, seed)


def test_noise_on_w_is_normal_of_the_given_deviation():
    """By linearity of z = w M: what noise adds to a read is noise times a dream's worth."""
    bank = bank_of("pinv")
    plain, noisy = (
        np.stack([out.value for out in bank.read(QUERIES[:1], noise, 3)]) for noise in (0.0, 0.25)
    )
    added = bank.sums.read(0.25 * dreams.normals(bank.config.slots, 3)[None])
    np.testing.assert_allclose(noisy - plain, added, rtol=1e-4, atol=1e-6)
    w = np.concatenate([dreams.normals(1000, seed) for seed in range(20)])
    assert abs(w.mean()) < 0.03 and abs(w.std() - 1) < 0.03


@pytest.mark.parametrize("addressing", ADDRESSINGS)
def test_dreams_are_of_the_set_of_facts_and_of_the_seed(addressing, monkeypatch):
    bank = bank_of(addressing)
    five = bank.sample(5, 3)
    assert five.dtype == np.float32 and five.shape == (5, bank.config.value_size)
    assert bank_of(addressing, IDS[::-1]).sample(5, 3).tobytes() == five.tobytes()
    assert bank.sample(2, 3).tobytes() == five[:2].tobytes()
    assert len({row.tobytes() for row in (*five, *bank.sample(5, 4))}) == 10
    for bad in ((0, 0), (dreams.MAX_SAMPLES + 1, 0), (1, -1)):
        with pytest.raises(InvalidArgument):
            bank.sample(*bad)
    for none in (BankState(bank.config), folded(bank.config, [], parts=("scope",))):
        with pytest.raises(FailedPrecondition):
            none.sample(1, 0)


def test_dreams_of_a_slots_bank_lie_in_the_span_of_its_values_at_their_length(monkeypatch):
    bank = bank_of("slots", value_size=9)
    found = bank.sample(4, 0)
    values = bank.items("").values / 2.0**16
    length = np.sqrt((values**2).sum(1).mean())
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), length, rtol=1e-5)
    weights = np.stack([dreams.normals(len(IDS), 0, n) for n in range(4)])
    direct = weights @ values
    cosines = (direct * found).sum(1) / np.linalg.norm(direct, axis=1) / length
    np.testing.assert_allclose(cosines, 1, atol=1e-5)
    monkeypatch.setattr(dreams, "SUMMED_FACTS", 2)
    np.testing.assert_allclose(bank.sample(4, 0), found, rtol=1e-5, atol=1e-6)


def test_dreams_of_a_bank_of_zeros_are_zeros():
    bank = bank_of("slots")
    assert bank.values is not None
    bank.values.put(np.arange(len(IDS)), np.zeros((len(IDS), 3)))
    assert not bank.sample(2, 0).any()


def test_fill_is_rows_over_slots():
    assert bank_of("slots").fill == 0.0
    bank = bank_of("gaussian")
    assert bank.fill == bank.row_count / 5 > 1
    assert BankState(bank.config).fill == 0.0


def test_items_are_the_facts_under_a_prefix_with_their_first_rows():
    config = config_of("slots")
    names = ["doc/2", "doc/1", "other", "doc", "do"]
    payloads = {name: payload_of(config, name, n) for n, name in enumerate(names)}
    bank = folded(config, log_of(list(payloads.items())))
    found = bank.items("doc")
    assert found.ids == ["doc", "doc/1", "doc/2"]
    for name, address, value in zip(found.ids, found.addresses, found.values, strict=True):
        np.testing.assert_array_equal(address, payloads[name].addresses[0])
        np.testing.assert_array_equal(value, payloads[name].value)
    assert (found.address_bits, found.value_bits) == (16, 16)
    none = bank.items("x")
    assert (none.ids, none.addresses.shape, none.values.shape) == ([], (0, 6), (0, 3))
    for refused in (bank_of("pinv"), folded(config, [], parts=("scope",))):
        with pytest.raises(FailedPrecondition):
            refused.items("doc")
