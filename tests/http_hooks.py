"""What schemathesis cannot read in a schema: how much a small model on a busy machine can do."""

from __future__ import annotations

import schemathesis

MOST_TOKENS = 4


@schemathesis.hook
def before_call(context, case, kwargs) -> None:
    """A valid body asks a bank that there is for a short answer, and ends with a question."""
    body = case.body
    if not case.meta or not case.meta.generation.mode.is_positive or not isinstance(body, dict):
        return
    for name in ("max_tokens", "max_completion_tokens"):
        if body.get(name):
            body[name] = MOST_TOKENS
    if "model" in body:
        body["model"] = "larimar"
    if "messages" in body:
        body["messages"] = [*body["messages"], {"role": "user", "content": "Who is it?"}]
