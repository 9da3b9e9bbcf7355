"""The doors say the same: objects, gRPC channels, and the model in one process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import larimar
from services.settings import DEFAULT_MODEL
from tests.congruence import InProcess, conversation
from tests.pipelines import ServedPipeline, Weights

MEMORIES = [("slots", 0), ("pinv", 64)]


@pytest.fixture(scope="module", params=["objects", "channels"])
def client(request, weights: Weights):
    served = ServedPipeline(weights, request.param)
    with larimar.connect(served.target) as client:
        yield client
    served.stop()


@pytest.fixture(scope="module")
def in_process(weights: Weights) -> Callable[[str, int], list]:
    """What the model in this process says, by the kind of its memory."""
    said: dict[str, list] = {}

    def of(addressing: str, slots: int) -> list:
        if addressing not in said:
            model = larimar.load(DEFAULT_MODEL, addressing=addressing, slots=slots)
            said[addressing] = conversation(InProcess(model), addressing, slots)
        return said[addressing]

    return of


@pytest.mark.parametrize(("addressing", "slots"), MEMORIES)
def test_a_pipeline_says_what_the_model_in_process_says(
    client, in_process, addressing: str, slots: int
) -> None:
    wanted = in_process(addressing, slots)
    for ours, theirs in zip(conversation(client, addressing, slots), wanted, strict=True):
        assert ours == theirs


def test_the_conversation_reaches_memory_and_the_plain_decoder(in_process) -> None:
    """Else equal answers would say little."""
    said = in_process("slots", 0)
    sources = {value[3:5] for label, value in said if label.startswith("ask") and len(value) == 7}
    assert {in_scope for in_scope, _ in sources} == {True, False}
    digests = [value for label, value in said if label == "digest"]
    assert len(digests) == 4 and len(set(digests)) == 4
    refused = {value for _, value in said if isinstance(value, tuple) and len(value) == 2}
    assert ("FailedPrecondition", "ALREADY_FORGOTTEN") in refused
    assert ("InvalidArgument", "TEXT_TOO_LONG") in refused
