"""The doors say the same: objects, gRPC channels, and the model in one process.

Ray handles are held to the same conversation in tests/test_ray.py.
"""

from __future__ import annotations

import pytest

import larimar
from services.settings import DEFAULT_MODEL
from tests.congruence import InProcess, conversation
from tests.in_process import ServedPipeline, Weights


@pytest.fixture(scope="module")
def over_channels(weights: Weights):
    """A client of a pipeline whose every service is behind a socket of its own."""
    with ServedPipeline(weights, "channels") as served, larimar.connect(served.target) as client:
        yield client


def assert_same(ours: list, theirs: list) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == other


def test_channels_say_what_objects_say(over_channels, conversation_over_objects) -> None:
    assert_same(conversation(over_channels), conversation_over_objects)


def test_the_model_in_process_says_what_objects_say(conversation_over_objects) -> None:
    model = larimar.load(DEFAULT_MODEL)
    assert_same(conversation(InProcess(model)), conversation_over_objects)


def test_a_memory_of_fixed_size_says_the_same_through_channels_and_in_process(
    over_channels,
) -> None:
    model = larimar.load(DEFAULT_MODEL, addressing="pinv", slots=64)
    assert_same(conversation(over_channels, "pinv", 64), conversation(InProcess(model), "pinv", 64))


def test_the_conversation_reaches_memory_and_the_plain_decoder(conversation_over_objects) -> None:
    """Else equal answers would say little."""
    said = conversation_over_objects
    sources = {value[3:5] for label, value in said if label.startswith("ask") and len(value) == 7}
    assert {in_scope for in_scope, _ in sources} == {True, False}
    digests = [value for label, value in said if label == "digest"]
    assert len(digests) == 4 and len(set(digests)) == 4
    refused = {value for _, value in said if isinstance(value, tuple) and len(value) == 2}
    assert ("FailedPrecondition", "ALREADY_FORGOTTEN") in refused
    assert ("InvalidArgument", "TEXT_TOO_LONG") in refused
