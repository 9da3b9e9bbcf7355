"""Facts that hold a text: the pages of a bank looked through, a bounded part of it a call."""

from __future__ import annotations

from fastapi.responses import JSONResponse

from larimar.errors import ResourceExhausted
from larimar.v1 import common_pb2, larimar_pb2
from services.gateway.admission import RATE_LIMITED
from services.gateway.http.rendering import plain
from services.gateway.http.routes import HttpCall

MAX_SEARCH_CHARS = 256
"""Text that is searched for: a few words of a fact."""
MAX_SEARCHED = 2000
"""Facts that one call looks at: their texts come from the store, a fraction of a second."""
LOOK = 200
"""Facts of one look."""
FOUND = 100
"""Facts of a page when the caller does not say."""


async def matching_facts(
    call: HttpCall, request: larimar_pb2.ListFactsRequest, text: str
) -> JSONResponse:
    """A page of the facts whose id, prompt, answer or a rephrasing holds a text, in any case.

    `next_after` is where the next call goes on: not empty as long as there are facts that were
    not looked at. A call that meets its tenant's rate after its first look ends there.
    """
    wanted, most = text.casefold(), request.page_size or FOUND
    look = larimar_pb2.ListFactsRequest()
    look.CopyFrom(request)
    look.page_size = LOOK
    page = larimar_pb2.ListFactsResponse()
    found: list[common_pb2.Fact] = []
    for _ in range(MAX_SEARCHED // LOOK):
        try:
            page = await call.reply("ListFacts", look)
        except ResourceExhausted as error:
            if error.reason != RATE_LIMITED or not page.next_after:
                raise
            break
        for fact in page.facts:
            if _holds(fact, wanted):
                found.append(fact)
            if len(found) == most:
                page.next_after = _after(page, fact)
                break
        if not page.next_after or len(found) == most:
            break
        look.after = page.next_after
    return JSONResponse(
        plain(
            larimar_pb2.ListFactsResponse(
                facts=found, version=page.version, total=page.total, next_after=page.next_after
            )
        )
    )


def _holds(fact: common_pb2.Fact, wanted: str) -> bool:
    texts = (fact.fact_id, fact.prompt, fact.answer, *fact.rephrasings)
    return any(wanted in text.casefold() for text in texts)


def _after(page: larimar_pb2.ListFactsResponse, last: common_pb2.Fact) -> str:
    """Where to go on after a fact of a page; empty after the last of all."""
    if last.fact_id == page.facts[-1].fact_id:
        return page.next_after
    return last.fact_id
