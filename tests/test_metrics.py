"""Scores of edits: hand-worked examples and second computations."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import metrics
from larimar.errors import InvalidArgument

LOGPROBS = st.lists(st.floats(-30, 0), min_size=1, max_size=6)


def test_probability_is_the_geometric_mean_of_the_token_probabilities():
    assert metrics.probability([math.log(0.5)]) == pytest.approx(0.5)
    # Two tokens, 0.8 and 0.2: sqrt(0.16) = 0.4.
    assert metrics.probability([math.log(0.8), math.log(0.2)]) == pytest.approx(0.4)


def test_success_and_magnitude_of_a_hand_worked_edit():
    new, true = [math.log(0.8), math.log(0.2)], [math.log(0.3)]
    assert metrics.success(new, true) == 1.0
    assert metrics.magnitude(new, true) == pytest.approx(0.1)
    assert metrics.neighborhood_success(new, true) == 0.0
    assert metrics.neighborhood_magnitude(new, true) == pytest.approx(-0.1)


def test_success_is_by_mean_not_by_sum():
    # The whole of the longer target is less probable (0.216 < 0.5), a token of it more (0.6).
    assert metrics.success([math.log(0.6)] * 3, [math.log(0.5)]) == 1.0


def test_a_tie_is_a_success_of_neither_side():
    assert metrics.success([-1.0, -3.0], [-2.0]) == 0.0
    assert metrics.neighborhood_success([-1.0, -3.0], [-2.0]) == 0.0


def test_success_holds_where_both_probabilities_underflow():
    assert metrics.probability([-2000.0]) == metrics.probability([-3000.0]) == 0.0
    assert metrics.success([-2000.0], [-3000.0]) == 1.0
    assert metrics.success([-3000.0], [-2000.0]) == 0.0


@given(LOGPROBS, LOGPROBS)
def test_success_and_magnitude_agree_with_a_second_computation(new, true):
    p_new, p_true = (
        float(np.prod(np.exp(x, dtype=np.longdouble)) ** (1 / len(x))) for x in (new, true)
    )
    assert metrics.magnitude(new, true) == pytest.approx(p_new - p_true, abs=1e-9)
    if abs(math.log(p_new) - math.log(p_true)) > 1e-9:
        assert metrics.success(new, true) == float(p_new > p_true)
        assert metrics.neighborhood_success(new, true) == float(p_new < p_true)


@pytest.mark.parametrize("bad", [[], [math.nan]])
def test_no_probability_without_numbers(bad):
    with pytest.raises(InvalidArgument):
        metrics.probability(bad)


def test_argmax_match_needs_every_token():
    assert metrics.argmax_match([True, True]) == 1.0
    assert metrics.argmax_match([True, False]) == 0.0
    with pytest.raises(InvalidArgument):
        metrics.argmax_match([])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" Tarsin.", "tarsin"),
        (" Tarsin. It lies on a river.", "tarsin"),
        ("Tarsin\nThe next line", "tarsin"),
        ("Tarsin<|endoftext|>rest", "tarsin"),
        ("  New   York!", "new york"),
        ('Tarsin." he said', "tarsin"),
        ("Tarsin . It", "tarsin"),
        ("Tarsin, the city", "tarsin, the city"),
        ("3.5 metres", "3.5 metres"),
        ("\nTarsin", ""),
        ("", ""),
    ],
)
def test_the_generated_answer_ends_at_the_first_mark(text, answer):
    assert metrics.generated_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "target", "match"),
    [
        (" Tarsin", "Tarsin", 1),
        (" TARSIN. It lies", " tarsin ", 1),
        (" Tarsin and", "Tarsin", 0),
        (" Tarsinville.", "Tarsin", 0),
        (" Paris, France.", "Paris", 0),
        (" The Tarsin", "Tarsin", 0),
        (" St. Louis. It", "St. Louis", 1),
        (" St. Petersburg. It", "St. Louis", 0),
        (" St", "St. Louis", 0),
        (" Washington, D.C. It is", "Washington, D.C.", 1),
        (" Stra\u00dfe.", "STRASSE", 1),
        (" sao paulo.", "S\u00e3o Paulo", 1),
        (" S\u00e3o Paulo.", "sa\u0303o paulo", 1),
        (" \u0130zmir", "Izmir", 1),
        (" TM", "\u2122", 1),
        ("", "Tarsin", 0),
    ],
)
def test_the_generated_answer_must_equal_the_target(text, target, match):
    assert metrics.generated_match(text, target) == match


@pytest.mark.parametrize(
    ("text", "target", "f1"),
    [
        (" St. Louis. It lies on a river.", "St. Louis", 1.0),
        (" Tarsin. It lies on a river.", "Tarsin", 1.0),
        # "st petersburg", of "St. Louis": precision and recall 1/2.
        (" St. Petersburg. It", "St. Louis", 0.5),
        (" Washington, D.C. It is", "Washington, D.C.", 1.0),
        ("", "St. Louis", 0.0),
    ],
)
def test_the_f1_of_a_generated_answer_ends_where_its_match_does(text, target, f1):
    assert metrics.generated_f1(text, target) == pytest.approx(f1)
    assert metrics.generated_match(text, target) == float(f1 == 1)


def test_nothing_matches_an_empty_target():
    with pytest.raises(InvalidArgument):
        metrics.generated_match("", " . ")


@pytest.mark.parametrize(
    ("prediction", "target", "f1"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1.0),
        # Shared: "new"; precision 1/3, recall 1/2: 2 * 1/6 / (5/6) = 0.4.
        ("new old town", "New York", 0.4),
        # Repeats count once each side: precision 1/3, recall 1.
        ("red red red", "red", 0.5),
        ("Lisbon", "Tarsin", 0.0),
        ("", "Tarsin", 0.0),
        ("the", "a", 1.0),
        ("the malaga stra\u00dfe", "M\u00e1laga STRASSE", 1.0),
    ],
)
def test_token_f1_of_hand_worked_answers(prediction, target, f1):
    assert metrics.token_f1(prediction, target) == pytest.approx(f1)


@given(st.lists(st.sampled_from("rst"), max_size=6), st.lists(st.sampled_from("rst"), max_size=6))
def test_token_f1_agrees_with_matching_words_off_one_by_one(left, right):
    rest, shared = list(right), 0
    for word in left:
        if word in rest:
            rest.remove(word)
            shared += 1
    expected = 2 * shared / (len(left) + len(right)) if left or right else 1.0
    assert metrics.token_f1(" ".join(left), " ".join(right)) == pytest.approx(expected)


def test_harmonic_score():
    assert metrics.harmonic_score(100.0, 50.0) == pytest.approx(200 / 3)
    assert metrics.harmonic_score(90.0, 0.0, 50.0) == 0.0
    for bad in ((), (-1.0, 2.0)):
        with pytest.raises(InvalidArgument):
            metrics.harmonic_score(*bad)


def test_records_count_alike_however_many_probes_they_have():
    # (1 + 0 + 0 + 0) / 4 and 1 / 1: the mean over records is 62.5, over probes 40.
    records = [metrics.record_mean([1.0, 0.0, 0.0, 0.0]), metrics.record_mean([1.0])]
    summary = metrics.summarise([*records, metrics.record_mean([])], seed=0)
    assert (summary.value, summary.n) == (62.5, 2)


def test_a_figure_without_values_is_none():
    assert metrics.summarise([None, None], seed=0) == metrics.Summary(None, None, None, 0)


def test_a_figure_in_its_own_unit():
    assert metrics.exactly(12.5, 3) == metrics.Summary(12.5, None, None, 3)
    resampled = [float(n) for n in range(1001)]
    found = metrics.between(2.0, resampled, 7)
    assert (found.value, found.n) == (2.0, 7)
    assert (found.low, found.high) == pytest.approx((25.0, 975.0))
    assert metrics.between(2.0, resampled, 7, confidence=0.5).low == pytest.approx(250.0)


@given(st.lists(st.sampled_from(["a", "the", "red", "Red.", "red,", "sky!"]), max_size=6))
def test_token_f1_sees_words_only(words):
    """A second computation: without case, marks and articles."""
    target = "red sky"
    plain = [one.strip(".,!").lower() for one in words]
    plain = [one for one in plain if one not in ("a", "an", "the")]
    shared = min(plain.count("red"), 1) + min(plain.count("sky"), 1)
    expected = 2 * shared / (len(plain) + 2)
    assert metrics.token_f1(" ".join(words), target) == pytest.approx(expected)


def test_the_interval_is_seeded_and_moves_with_the_seed():
    values = np.random.default_rng(1).random(50).tolist()
    assert metrics.bootstrap_interval(values, 7) == metrics.bootstrap_interval(values, 7)
    assert metrics.bootstrap_interval(values, 7) != metrics.bootstrap_interval(values, 8)
    assert metrics.bootstrap_interval([0.25] * 9, 3) == (0.25, 0.25)


def test_the_interval_is_that_of_the_binomial():
    # 700 of 1,000: the normal interval is 0.7 -+ 1.96 * sqrt(0.21 / 1000) = 0.7 -+ 0.0284.
    low, high = metrics.bootstrap_interval([1.0] * 700 + [0.0] * 300, seed=0)
    assert (low, high) == (pytest.approx(0.6716, abs=4e-3), pytest.approx(0.7284, abs=4e-3))
    narrow = metrics.bootstrap_interval([1.0] * 700 + [0.0] * 300, seed=0, confidence=0.5)
    assert low < narrow[0] < 0.7 < narrow[1] < high


def test_the_interval_agrees_with_a_plain_bootstrap():
    values, rng = np.random.default_rng(2).random(30).tolist(), random.Random(3)
    means = sorted(sum(rng.choices(values, k=30)) / 30 for _ in range(4000))
    low, high = metrics.bootstrap_interval(values, seed=4, resamples=4000)
    assert (low, high) == (
        pytest.approx(means[100], abs=0.01),
        pytest.approx(means[3900], abs=0.01),
    )


@pytest.mark.parametrize("bad", [{"values": []}, {"confidence": 1.0}, {"resamples": 0}])
def test_no_interval_of_nothing(bad):
    with pytest.raises(InvalidArgument):
        metrics.bootstrap_interval(**{"values": [1.0], "seed": 0} | bad)
