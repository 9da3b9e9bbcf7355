"""What the gateway makes of the calls on banks, over doubles of the services behind sockets."""

from __future__ import annotations

import asyncio
import time

import pytest

from larimar.errors import (
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    LarimarError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from larimar.v1 import common_pb2 as common
from larimar.v1 import larimar_pb2 as pb
from larimar.v1 import memory_pb2 as memory
from larimar.v1 import scope_pb2 as scope
from services import limits
from services.gateway import banks, calls
from services.rpc import ObjectStub
from tests.events import eventually
from tests.in_process import Door
from tests.memory_double import Doubles


@pytest.fixture
async def doubles():
    async with Doubles().serve() as doubles:
        yield doubles


@pytest.fixture
def gateway(doubles: Doubles) -> ObjectStub:
    return ObjectStub(doubles.service)


def write(fact_id: str, **more) -> pb.EditItem:
    return pb.EditItem(write=pb.WriteRequest(fact_id=fact_id, prompt="p", answer="a", **more))


# Edits


async def test_a_mixed_batch_is_one_append_and_encodes_only_what_has_text(doubles, gateway) -> None:
    items = [
        write("w", event_id="e1", rephrasings=["r"], expected_version=0),
        pb.EditItem(forget=pb.ForgetRequest(fact_id="f", event_id="e2")),
        pb.EditItem(censor=pb.CensorRequest(prompt="c", event_id="e3", bank="kept")),
        pb.EditItem(forget=pb.ForgetRequest(fact_id="refused")),
    ]
    reply = await gateway.Edit(pb.EditRequest(bank="kept", items=items))
    (sent,) = doubles.memory.requests["Append"]
    assert [item.kind for item in sent.items] == [1, 2, 1, 2]
    assert (sent.encoder_digest, sent.scope_digest) == ("encoder one", "scope one")
    assert [len(item.prompt_latents) for item in sent.items] == [2, 0, 1, 0]
    assert [bool(item.value) for item in sent.items] == [True, False, True, False]
    assert sent.items[2].answer == "unknown"
    assert sent.items[0].HasField("expected_version") and sent.items[0].expected_version == 0
    assert not sent.items[2].HasField("expected_version")
    assert len(doubles.encoder.requests["Encode"][0].items) == 3
    assert reply.bank == "kept"
    assert [one.version for one in reply.results] == [1, 2, 3, 0]
    assert [one.event_id for one in reply.results[:3]] == ["e1", "e2", "e3"]
    assert reply.results[3].event_id and reply.results[3].status.reason == "NO"


async def test_a_batch_of_forgets_needs_no_encoder(doubles, gateway) -> None:
    items = [pb.EditItem(forget=pb.ForgetRequest(fact_id="f"))]
    await gateway.Edit(pb.EditRequest(bank="kept", items=items))
    assert not doubles.encoder.requests and not doubles.scope.requests


FORGET = pb.EditItem(forget=pb.ForgetRequest(fact_id="f"))
BAD: list[tuple[type[LarimarError], str, str, dict]] = [
    (InvalidArgument, "EMPTY_EDIT", "Edit", {}),
    (InvalidArgument, "TOO_MANY_ITEMS", "Edit", {"items": [FORGET] * 257}),
    (
        InvalidArgument,
        "TOO_MANY_ITEMS",
        "Edit",
        {"items": [write("w", rephrasings=["r"] * 2)] * 171},
    ),
    (InvalidArgument, "BAD_EDIT", "Edit", {"items": [pb.EditItem()]}),
    (InvalidArgument, "BAD_EDIT", "Edit", {"items": [write("w", bank="other")]}),
    (
        InvalidArgument,
        "EMPTY_TEXT",
        "Edit",
        {"items": [FORGET, pb.EditItem(write=pb.WriteRequest())]},
    ),
    (InvalidArgument, "EMPTY_ID", "Edit", {"items": [pb.EditItem(forget=pb.ForgetRequest())]}),
    (InvalidArgument, "BAD_VERSION", "Edit", {"items": [write("w", expected_version=-1)]}),
    (FailedPrecondition, "WRONG_ENCODER", "Edit", {"items": [write("w", encoder_digest="x")]}),
    (
        FailedPrecondition,
        "WRONG_ENCODER",
        "Edit",
        {"items": [write("w", encoder_digest="encoder one"), write("w", encoder_digest="x")]},
    ),
    (InvalidArgument, "EMPTY_TEXT", "Censor", {"prompt": " "}),
    (InvalidArgument, "EMPTY_ID", "Erase", {}),
    (InvalidArgument, "EMPTY_ID", "Erase", {"fact_ids": ["a", ""]}),
    (InvalidArgument, "TOO_MANY_ITEMS", "Erase", {"fact_ids": ["a"] * 257}),
    (InvalidArgument, "ID_TOO_LONG", "Erase", {"fact_ids": ["i" * 257]}),
    (InvalidArgument, "EMPTY_ID", "GetErase", {}),
    (InvalidArgument, "BAD_VERSION", "Digest", {"at_version": -1}),
    (InvalidArgument, "BAD_VERSION", "ListFacts", {"at_version": -1}),
    (InvalidArgument, "EMPTY_ID", "ForkBank", {}),
    (InvalidArgument, "BAD_BANK_NAME", "ForkBank", {"new_bank": "A"}),
    (InvalidArgument, "BAD_VERSION", "ForkBank", {"new_bank": "a", "at_version": -1}),
    (InvalidArgument, "BAD_VERSION", "DiffBank", {"from_version": -1}),
    (InvalidArgument, "BAD_VERSION", "DiffBank", {"to_version": -1}),
    (InvalidArgument, "BAD_VERSION", "Watch", {"after_version": -1}),
    (FailedPrecondition, "VERSION_NOT_WRITTEN", "Watch", {"after_version": 1}),
    (
        InvalidArgument,
        "BAD_VERSION",
        "Score",
        {"prompt": "p", "candidates": ["c"], "at_version": -1},
    ),
    (InvalidArgument, "BAD_NOISE", "Ask", {"prompt": "p", "noise": -1.0}),
    (InvalidArgument, "BAD_NOISE", "Ask", {"prompt": "p", "noise": float("nan")}),
]


async def call(gateway, method: str, **fields):
    """A unary call, or the first of a stream."""
    reply = getattr(gateway, method)(getattr(pb, f"{method}Request")(**fields))
    return await (anext(reply) if hasattr(reply, "__anext__") else reply)


@pytest.mark.parametrize(
    ("error", "reason", "method", "fields"), BAD, ids=[f"{m}-{r}" for _, r, m, _ in BAD]
)
async def test_a_bad_request_is_named_and_not_passed_on(
    doubles, gateway, monkeypatch, error, reason, method, fields
) -> None:
    monkeypatch.setattr(banks, "WATCH_WAIT_S", 0.01)
    with pytest.raises(LarimarError) as caught:
        await call(gateway, method, bank="kept", **fields)
    assert (type(caught.value), caught.value.reason) == (error, reason)
    assert not doubles.memory.requests.keys() - {"EnumerateEvents"}


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("Edit", {"items": [FORGET]}),
        ("Censor", {"prompt": "p"}),
        ("Erase", {"fact_ids": ["f"]}),
        ("GetErase", {"event_id": "e"}),
        ("ForkBank", {"new_bank": "new"}),
        ("DiffBank", {}),
        ("ExportBank", {}),
        ("Watch", {}),
    ],
)
async def test_an_unknown_bank_is_named_with_what_to_do(gateway, method, fields) -> None:
    with pytest.raises(NotFound, match="larimar bank create nowhere") as caught:
        await call(gateway, method, bank="nowhere", **fields)
    assert caught.value.reason == "UNKNOWN_BANK"


@pytest.mark.parametrize("sides", [("nowhere", "kept"), ("kept", "nowhere")])
async def test_a_merge_names_the_side_that_is_unknown(gateway, sides) -> None:
    with pytest.raises(NotFound, match="larimar bank create nowhere"):
        await call(gateway, "MergeBank", source=sides[0], target=sides[1])


async def test_both_sides_of_a_merge_must_differ_and_its_policy_be_known(gateway) -> None:
    for fields, reason in [
        ({"source": "kept", "target": "kept"}, "SAME_BANK"),
        ({"source": "default"}, "SAME_BANK"),
        ({"source": "kept", "target": "other", "policy": 9}, "BAD_POLICY"),
    ]:
        with pytest.raises(InvalidArgument) as caught:
            await call(gateway, "MergeBank", **fields)
        assert caught.value.reason == reason


# A model that is served anew


async def test_a_model_served_anew_is_seen_after_a_while(doubles, gateway, monkeypatch) -> None:
    async def digest_of_new_bank(name: str) -> str:
        await gateway.CreateBank(pb.CreateBankRequest(bank=name))
        return doubles.memory.requests["MakeBank"][-1].config.encoder_digest

    monkeypatch.setattr(calls, "DESCRIBED_FOR_S", 600.0)
    assert await digest_of_new_bank("a") == "encoder one"
    doubles.encoder.digest = "encoder two"
    assert await digest_of_new_bank("b") == "encoder one", "held for a moment"
    _, held = doubles.service._described
    doubles.service._described = time.monotonic(), held  # the moment is over
    assert await digest_of_new_bank("c") == "encoder two"


@pytest.mark.parametrize("reason", ["WRONG_ENCODER", "WRONG_SCOPE"])
async def test_an_append_of_another_model_makes_it_be_described_again(
    doubles, gateway, reason
) -> None:
    await gateway.CreateBank(pb.CreateBankRequest(bank="a"))
    doubles.encoder.digest = "encoder two"
    doubles.memory.faults["Append"].append(FailedPrecondition("made with another", reason))
    with pytest.raises(FailedPrecondition):
        await gateway.Write(pb.WriteRequest(bank="a", prompt="p", answer="a"))
    await gateway.CreateBank(pb.CreateBankRequest(bank="b"))
    assert doubles.memory.requests["MakeBank"][-1].config.encoder_digest == "encoder two"


# Erasure, past versions, replay


async def test_an_erasure_is_passed_on_with_an_event_id(doubles, gateway) -> None:
    receipt = common.EraseReceipt(event_id="e", step=common.ERASE_STEP_APPENDED)
    doubles.memory.replies["EraseFacts"] = [memory.EraseFactsResponse(receipt=receipt)] * 2
    assert (await call(gateway, "Erase", bank="kept", fact_ids=["f", "g"])).receipt == receipt
    await call(gateway, "Erase", bank="kept", fact_ids=["f"], event_id="mine")
    first, second = doubles.memory.requests["EraseFacts"]
    assert (list(first.fact_ids), second.event_id) == (["f", "g"], "mine")
    assert len(first.event_id) == 32
    doubles.memory.replies["DescribeErase"] = [memory.DescribeEraseResponse(receipt=receipt)]
    assert (await call(gateway, "GetErase", bank="kept", event_id="mine")).receipt == receipt


async def test_past_versions_reach_memory(doubles, gateway) -> None:
    canned = doubles.memory.replies
    canned["ComputeDigest"] = [memory.ComputeDigestResponse(version=2, erase_count=7, digest="d")]
    canned["EnumerateFacts"] = [memory.EnumerateFactsResponse(version=2)]
    digest = await call(gateway, "Digest", bank="kept", at_version=2)
    assert (digest.version, digest.erase_count) == (2, 7)
    await call(gateway, "ListFacts", bank="kept", at_version=2)
    await call(gateway, "ListEvents", bank="kept", fact_id="f")
    sent = doubles.memory.requests
    assert sent["ComputeDigest"][0].at_version == sent["EnumerateFacts"][0].at_version == 2
    assert sent["EnumerateEvents"][0].fact_id == "f"


@pytest.mark.parametrize("memory_matches", [True, False])
@pytest.mark.parametrize("scope_matches", [True, False])
async def test_a_replay_matches_where_both_memory_and_scope_do(
    doubles, gateway, memory_matches, scope_matches
) -> None:
    doubles.memory.replies["RebuildBank"] = [
        memory.RebuildBankResponse(matches=memory_matches, folded_sha256="of memory", version=4)
    ]
    doubles.scope.replies["RebuildScope"] = [
        scope.RebuildScopeResponse(matches=scope_matches, folded_sha256="of scope")
    ]
    replay = await call(gateway, "Replay", bank="kept")
    assert replay.matches == (memory_matches and scope_matches)
    assert (replay.folded_sha256, replay.version) == ("of memory", 4)


async def test_a_checkpoint_counts_the_bytes_of_both(doubles, gateway) -> None:
    doubles.memory.replies["SaveCheckpoint"] = [
        memory.SaveCheckpointResponse(version=3, digest="d", bytes=100)
    ]
    saved = await call(gateway, "Checkpoint", bank="kept")
    assert (saved.version, saved.digest, saved.bytes) == (3, "d", 120)


# Questions of a past version, or with the store down


def detected(version: int, fact_id: str = "f", stale: bool = False) -> scope.DetectResponse:
    found = scope.Detection(in_scope=True, score=0.9, fact_id=fact_id)
    return scope.DetectResponse(detections=[found], version=version, stale=stale)


def read(version: int, fact_id: str = "f", stale: bool = False) -> memory.ReadResponse:
    out = memory.ReadOut(value=b"z", fact_id=fact_id)
    return memory.ReadResponse(readouts=[out], version=version, stale=stale)


async def recollect(doubles: Doubles, noise: float = 0.0, noise_seed: int = 0, **fields):
    request = pb.AskRequest(bank="kept", prompt="p", **fields)
    context = doubles.service._context(None)
    return await doubles.service._recollect("kept", request, context, noise, noise_seed)


async def test_a_past_version_is_asked_of_scope_and_memory(doubles) -> None:
    doubles.scope.replies["Detect"] = [detected(2)]
    doubles.memory.replies["Read"] = [read(2)]
    latent, source = await recollect(doubles, at_version=2, noise=0.5, noise_seed=7)
    assert latent == (b"z", "encoder one")
    assert (source.version, source.fact_id, source.stale) == (2, "f", False)
    (detect,), (sent,) = doubles.scope.requests["Detect"], doubles.memory.requests["Read"]
    assert detect.at_version == sent.at_version == 2
    assert (sent.noise, sent.noise_seed, sent.encoder_digest) == (0.5, 7, "encoder one")


@pytest.mark.parametrize(("scope_stale", "memory_stale"), [(1, 0), (0, 1), (1, 1), (0, 0)])
async def test_an_answer_is_stale_where_either_was(doubles, scope_stale, memory_stale) -> None:
    doubles.scope.replies["Detect"] = [detected(5, stale=bool(scope_stale))]
    doubles.memory.replies["Read"] = [read(5, stale=bool(memory_stale))]
    _, source = await recollect(doubles, allow_stale=True)
    assert source.stale == bool(scope_stale or memory_stale)
    assert doubles.scope.requests["Detect"][0].allow_stale
    assert doubles.memory.requests["Read"][0].allow_stale


async def test_a_memory_that_is_behind_scope_is_met_at_its_own_version(doubles) -> None:
    """With the store down, neither can catch up."""
    doubles.scope.replies["Detect"] = [detected(6, stale=True), detected(4, "g", stale=True)]
    doubles.memory.replies["Read"] = [read(4, "g", stale=True)] * 2
    _, source = await recollect(doubles, allow_stale=True)
    assert (source.fact_id, source.version, source.stale) == ("g", 4, True)
    assert [one.at_version for one in doubles.scope.requests["Detect"]] == [0, 4]
    assert [one.min_version for one in doubles.memory.requests["Read"]] == [0, 0]


async def test_without_that_choice_memory_never_answers_behind_scope(doubles) -> None:
    doubles.scope.replies["Detect"] = [detected(6)]
    doubles.memory.replies["Read"] = [read(6)]
    await recollect(doubles, min_version=3)
    assert doubles.memory.requests["Read"][0].min_version == 6


async def test_a_bank_that_is_always_empty_when_read_is_no_answer(doubles) -> None:
    doubles.scope.replies["Detect"] = [detected(6)] * 9
    doubles.memory.faults["Read"] = [FailedPrecondition("empty", "EMPTY_BANK")] * 9
    with pytest.raises(Unavailable) as caught:
        await recollect(doubles)
    assert caught.value.reason == "BUSY"


# Forks, merges, differences


async def test_forks_merges_and_differences_are_passed_on(doubles, gateway) -> None:
    doubles.memory.banks["other"] = []
    canned = doubles.memory.replies
    canned["BranchBank"] = [memory.BranchBankResponse(created=True)]
    canned["CombineBanks"] = [memory.CombineBanksResponse(merge_id="m", written=2)]
    canned["CompareVersions"] = [memory.CompareVersionsResponse(added=3, next_after="x")]
    assert (await call(gateway, "ForkBank", bank="kept", new_bank="b", at_version=3)).created
    merged = await call(gateway, "MergeBank", source="kept", target="other", policy=3, dry_run=True)
    differs = await call(
        gateway, "DiffBank", bank="kept", from_version=1, to_version=2, to_bank="other", after="a"
    )
    assert (merged.merge.written, differs.diff.added, differs.diff.next_after) == (2, 3, "x")
    sent = doubles.memory.requests
    assert (sent["BranchBank"][0].new_bank, sent["BranchBank"][0].at_version) == ("b", 3)
    combined = sent["CombineBanks"][0]
    assert (combined.source, combined.target, combined.policy) == ("kept", "other", 3)
    assert combined.dry_run and len(combined.merge_id) == 32
    compared = sent["CompareVersions"][0]
    assert (compared.from_version, compared.to_version, compared.to_bank) == (1, 2, "other")
    assert compared.after == "a"


# Archives


def records(count: int, size: int) -> list[common.ArchiveRecord]:
    return [
        common.ArchiveRecord(event=common.Event(version=n + 1), payload=bytes([n % 256]) * size)
        for n in range(count)
    ]


HEADER = common.ArchiveHeader(config=common.BankConfig(bank="b"), version=9, digest="d")


async def imported(gateway, *requests: pb.ImportBankRequest) -> pb.ImportBankResponse:
    async def stream():
        for request in requests:
            yield request

    return await gateway.ImportBank(stream())


async def test_an_import_goes_to_memory_in_bounded_pieces(doubles, gateway) -> None:
    sent = records(9, 1_500_000)
    reply = await imported(
        gateway,
        pb.ImportBankRequest(header=HEADER),
        *(pb.ImportBankRequest(records=sent[low : low + 4]) for low in (0, 4, 8)),
    )
    pieces = doubles.memory.requests["LoadBank"]
    assert doubles.memory.loaded == sent
    assert len(pieces) > 3
    assert all(piece.ByteSize() < limits.MAX_LOAD_BYTES + 1000 for piece in pieces)
    assert [piece.HasField("header") for piece in pieces] == [
        place in (0, len(pieces) - 1) for place in range(len(pieces))
    ]
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert {piece.bank for piece in pieces} == {"b"}
    assert (reply.digest, reply.erased_again, reply.info.version) == ("d", 2, 9)


async def test_a_small_import_is_one_piece(doubles, gateway) -> None:
    await imported(gateway, pb.ImportBankRequest(header=HEADER, records=records(3, 10)))
    (piece,) = doubles.memory.requests["LoadBank"]
    assert piece.last and piece.HasField("header") and len(piece.records) == 3


async def test_a_piece_is_sent_again_where_the_service_was_down(doubles, gateway) -> None:
    doubles.memory.faults["LoadBank"].append(Unavailable("down", "STORE_DOWN"))
    await imported(gateway, pb.ImportBankRequest(header=HEADER, records=records(1, 10)))
    assert len(doubles.memory.requests["LoadBank"]) == 2


async def test_an_import_is_refused_where_memory_refuses_it(doubles, gateway) -> None:
    doubles.memory.faults["LoadBank"].append(Conflict("taken", "BANK_EXISTS"))
    with pytest.raises(Conflict):
        await imported(gateway, pb.ImportBankRequest(header=HEADER))


@pytest.mark.parametrize(
    ("requests", "reason"),
    [
        ([], "NO_HEADER"),
        ([pb.ImportBankRequest(records=records(1, 1))], "NO_HEADER"),
        ([pb.ImportBankRequest(header=common.ArchiveHeader())], "BAD_BANK_NAME"),
    ],
)
async def test_an_import_begins_with_its_header(doubles, gateway, requests, reason) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await imported(gateway, *requests)
    assert caught.value.reason == reason
    assert not doubles.memory.requests["LoadBank"]


async def test_an_import_that_breaks_off_is_not_finished(doubles, gateway) -> None:
    async def broken():
        yield pb.ImportBankRequest(header=HEADER, records=records(1, 10))
        raise ConnectionError("the caller went away")

    with pytest.raises(ConnectionError):
        await gateway.ImportBank(broken())
    assert not any(piece.last for piece in doubles.memory.requests["LoadBank"])


async def test_an_export_streams_what_memory_dumps(doubles, gateway) -> None:
    sent = records(2, 10)
    doubles.memory.dump = [
        memory.DumpBankResponse(header=HEADER),
        memory.DumpBankResponse(records=sent[:1]),
        memory.DumpBankResponse(records=sent[1:]),
    ]
    replies = [one async for one in gateway.ExportBank(pb.ExportBankRequest(bank="kept"))]
    assert [one.HasField("header") for one in replies] == [True, False, False]
    assert [record for one in replies for record in one.records] == sent
    assert replies[0].header == HEADER


# Watches


async def test_a_watch_gives_what_is_there_and_what_comes(doubles, gateway, monkeypatch) -> None:
    monkeypatch.setattr(banks, "WATCH_PAGE", 2)
    for _ in range(5):
        doubles.memory.event("kept")
    stream = gateway.Watch(pb.WatchRequest(bank="kept", after_version=2))
    assert [(await anext(stream)).event.version for _ in range(3)] == [3, 4, 5]
    coming = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.2)
    assert not coming.done()
    doubles.memory.event("kept")
    assert (await asyncio.wait_for(coming, 120)).event.version == 6
    await stream.aclose()


async def test_a_quiet_watch_asks_again_without_hurry(doubles, gateway, monkeypatch) -> None:
    monkeypatch.setattr(banks, "WATCH_WAIT_S", 0.1)
    asked, begun = doubles.memory.requests["EnumerateEvents"], time.monotonic()
    coming = asyncio.ensure_future(anext(gateway.Watch(pb.WatchRequest(bank="kept"))))
    await eventually(lambda: len(asked) > 4)
    doubles.memory.event("kept")
    assert (await asyncio.wait_for(coming, 120)).event.version == 1
    assert 4 < len(asked) <= 2 + (time.monotonic() - begun) / 0.1


async def test_a_bank_made_anew_ends_its_watches(doubles, gateway, monkeypatch) -> None:
    monkeypatch.setattr(banks, "WATCH_WAIT_S", 0.1)
    doubles.memory.event("kept")
    stream = gateway.Watch(pb.WatchRequest(bank="kept"))
    await anext(stream)
    doubles.memory.banks["kept"] = []
    with pytest.raises(FailedPrecondition) as caught:
        await asyncio.wait_for(anext(stream), 120)
    assert caught.value.reason == "VERSION_NOT_WRITTEN"


async def test_watches_are_bounded_and_one_that_ends_makes_room(
    doubles, gateway, monkeypatch
) -> None:
    monkeypatch.setattr(banks, "MAX_WATCHES", 2)
    doubles.memory.event("kept")
    request = pb.WatchRequest(bank="kept")
    held = [gateway.Watch(request) for _ in range(2)]
    for stream in held:
        await anext(stream)
    with pytest.raises(ResourceExhausted) as caught:
        await anext(gateway.Watch(request))
    assert caught.value.reason == "TOO_MANY_WATCHES"
    await held[0].aclose()
    assert (await anext(gateway.Watch(request))).event.version == 1


async def test_one_bank_at_once_is_replayed_and_the_end_of_that_makes_room(
    doubles, gateway, monkeypatch
) -> None:
    doubles.memory.event("kept")
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def waits(request, rebuild):
        begun.set()
        await go_on.wait()
        return memory.RebuildBankResponse(matches=True)

    monkeypatch.setattr(
        doubles.service, "_memory", Door(doubles.service._memory, RebuildBank=waits)
    )
    doubles.scope.replies["RebuildScope"] = [scope.RebuildScopeResponse(matches=True)] * 3
    request = pb.ReplayRequest(bank="kept")
    first = asyncio.ensure_future(gateway.Replay(request))
    await asyncio.wait_for(begun.wait(), 120)
    with pytest.raises(ResourceExhausted) as caught:
        await gateway.Replay(request)
    assert caught.value.reason == "TOO_MANY_REPLAYS" and caught.value.retry_after_s
    go_on.set()
    assert (await first).matches
    assert (await gateway.Replay(request)).matches


async def test_the_default_bank_is_there_when_it_is_first_watched(doubles, gateway) -> None:
    coming = asyncio.ensure_future(anext(gateway.Watch(pb.WatchRequest())))
    while "default" not in doubles.memory.banks:
        await asyncio.sleep(0.01)
    doubles.memory.event("default")
    assert (await asyncio.wait_for(coming, 120)).event.version == 1


def test_limits_of_the_contract_are_those_of_the_gateway() -> None:
    assert limits.MAX_APPEND_ITEMS == limits.MAX_ERASE_FACTS == 256
