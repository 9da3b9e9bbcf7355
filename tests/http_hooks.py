"""What schemathesis cannot read in a schema."""

from __future__ import annotations

import schemathesis

from larimar.edit_events import EDIT_TYPES, SPECVERSION

UNKNOWN = "x-schemathesis-unknown-property"
MOST_TOKENS = 4
BINARY = "application/json"
BATCH = "application/cloudevents-batch+json"


@schemathesis.hook
def filter_case(context, case) -> bool:
    """Not: base64 of something that is no edit, batches whose items fail one by one, and headers
    that nobody knows, which proxies add.
    """
    if UNKNOWN in (case.headers or {}):
        return False
    if not case.meta or case.operation.path != "/v1/events":
        return True
    if case.media_type == BATCH:
        return case.meta.generation.mode.is_positive and not any(map(_encoded, case.body))
    return not _encoded(case.body)


def _encoded(event: object) -> bool:
    return isinstance(event, dict) and "data_base64" in event


@schemathesis.hook
def before_call(context, case, kwargs) -> None:
    """What valid calls are: to a bank that there is, for a short answer, ending with a question.

    A stream of what comes ends after a second; data of an event has the headers of one.
    """
    if not case.meta or not case.meta.generation.mode.is_positive:
        return
    if case.operation.path.endswith("/stream"):
        case.headers = {**(case.headers or {}), "x-larimar-timeout-s": "1"}
    body = case.body
    if not isinstance(body, dict):
        return
    for name in ("max_tokens", "max_completion_tokens"):
        if body.get(name):
            body[name] = MOST_TOKENS
    if case.operation.path == "/v1/events" and case.media_type == BINARY:
        case.headers = {**(case.headers or {}), **_envelope(body)}
    if "model" in body:
        body["model"] = "larimar"
    if "messages" in body:
        body["messages"] = [*body["messages"], {"role": "user", "content": "Who is it?"}]


def _envelope(data: dict) -> dict[str, str]:
    kinds = (
        name
        for name, kind in EDIT_TYPES.items()
        if set(kind.required) <= set(data) <= {*kind.required, *kind.optional}
    )
    given = {"specversion": SPECVERSION, "id": "fuzzed", "source": "fuzz", "type": next(kinds)}
    return {f"ce-{name}": value for name, value in {**given, "time": "", "subject": ""}.items()}
