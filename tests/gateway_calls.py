"""What tests ask of a gateway, a line each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from larimar.v1 import larimar_pb2 as pb

SAMPLING = {"max_tokens": 3}
PROMPT, ANSWER = "The capital of Velmora is", "Tarsin"
ELSEWHERE = "A recipe for onion soup begins with"
FACTS = [
    (f"The keeper of the {ordinal} lighthouse of Marn is", name)
    for ordinal, name in zip(
        ("first", "second", "third", "fourth", "fifth", "sixth"),
        ("Odd Sten", "Ana Bree", "Tom Varr", "Lis Orm", "Per Dahl", "Eva Kind"),
        strict=True,
    )
]


async def write(gateway, bank: str, prompt: str, answer: str, **more):
    return await gateway.Write(pb.WriteRequest(bank=bank, prompt=prompt, answer=answer, **more))


async def ask(gateway, bank: str, prompt: str, **more) -> tuple[str, pb.AskResponse]:
    """The text, and the last message of the stream."""
    request = pb.AskRequest(**{"bank": bank, "prompt": prompt, "sampling": SAMPLING} | more)
    replies = [reply async for reply in gateway.Ask(request)]
    assert not any(reply.HasField("provenance") for reply in replies[:-1])
    return "".join(reply.text for reply in replies), replies[-1]


async def write_many(gateway, writes: Iterable[pb.WriteRequest]) -> list[pb.WriteManyResponse]:
    async def requests() -> AsyncIterator[pb.WriteManyRequest]:
        for request in writes:
            yield pb.WriteManyRequest(write=request)

    return [response async for response in gateway.WriteMany(requests())]


async def digest(gateway, bank: str) -> pb.DigestResponse:
    return await gateway.Digest(pb.DigestRequest(bank=bank))


async def facts(gateway, bank: str, **page) -> pb.ListFactsResponse:
    return await gateway.ListFacts(pb.ListFactsRequest(bank=bank, **page))


async def events(gateway, bank: str, **page) -> pb.ListEventsResponse:
    return await gateway.ListEvents(pb.ListEventsRequest(bank=bank, **page))


async def forget(gateway, bank: str, fact_id: str, event_id: str = ""):
    return await gateway.Forget(pb.ForgetRequest(bank=bank, fact_id=fact_id, event_id=event_id))


async def list_banks(gateway) -> list:
    return list((await gateway.ListBanks(pb.ListBanksRequest())).banks)
