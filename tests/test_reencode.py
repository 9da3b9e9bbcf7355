"""Re-encoding: the whole of a bank's log under other models, and what comes to it meanwhile."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterator

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

import larimar
from larimar.cli import app, reencoding
from larimar.client import Client
from larimar.errors import (
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from larimar.v1 import common_pb2
from larimar.v1 import larimar_pb2 as pb
from services.audit import AuditTrail, read
from services.gateway import reencode_entries
from services.gateway.admission import Admission
from services.gateway.auditing import Auditor
from services.log import Log, MemoryLog
from services.memory.ledger import EraseLedger
from services.rpc import ObjectStub
from services.settings import TenantLimits
from tests.gateway_calls import FACTS, ask, digest, events, facts, forget, write
from tests.in_process import Door, Pipeline, ServedPipeline, Weights, new_bank_name

pytest_plugins = ("tests.log_stores",)
OTHER_ENCODER = "0" * 64


@pytest.fixture(scope="module")
def other(weights: Weights) -> Weights:
    """A model of another encoder: its values are another map of the same states."""
    encoder = weights.folder.encoder(weights.dtype)
    with torch.no_grad():
        encoder.network.to_part.mul_(-0.5)
    sha256 = {**weights.folder.sha256, "encoder.safetensors": OTHER_ENCODER}
    folder = dataclasses.replace(weights.folder, sha256=sha256)
    assert folder.encoder_digest != weights.folder.encoder_digest
    return dataclasses.replace(weights, folder=folder, encoder=encoder)


@pytest.fixture
def served(pipeline: Pipeline, other: Weights) -> Pipeline:
    """A pipeline of the other model on the log of the first."""
    return Pipeline(other, pipeline.log)


@pytest.fixture
def new(served: Pipeline) -> ObjectStub:
    return served.gateway()


async def reencode(gateway, bank: str, new_bank: str, **more) -> list[pb.ReencodeBankResponse]:
    request = pb.ReencodeBankRequest(bank=bank, new_bank=new_bank, **more)
    return [one async for one in gateway.ReencodeBank(request)]


async def lines(gateway, bank: str) -> list[tuple]:
    """Of each entry what a re-encoding keeps."""
    return [
        (one.version, one.kind, one.fact_id, one.event_id, one.previous_version, one.erased)
        for one in (await events(gateway, bank, page_size=1000)).events
    ]


async def a_history(gateway, bank: str) -> None:
    """Writes with rephrasings, a replacement, a forgotten fact, a passage, an erased fact."""
    for number, (prompt, answer) in enumerate(FACTS[:4]):
        await write(
            gateway,
            bank,
            prompt,
            answer,
            fact_id=f"f{number}",
            event_id=f"e{number}",
            rephrasings=["Who keeps it?"] * (number == 1),
        )
    await write(gateway, bank, FACTS[0][0], "Ada Lund", fact_id="f0", event_id="again")
    await forget(gateway, bank, "f2", "gone")
    text = "The tide at Marn runs six hours in and turns at the third bell."
    await gateway.Ingest(pb.IngestRequest(bank=bank, document="tides", text=text))
    erased = await gateway.Erase(pb.EraseRequest(bank=bank, fact_ids=["f3"], event_id="erase"))
    assert erased.receipt.banks[0].versions


async def test_a_bank_is_the_same_bank_under_another_encoder(gateway, bank, new) -> None:
    await a_history(gateway, bank)
    target = new_bank_name()
    said = await reencode(new, bank, target)
    last, live = said[-1], list((await facts(gateway, bank)).facts)
    assert (last.version, last.total, last.facts) == (8, 8, len(live) == 3 and 3)
    assert [one.fact_id for one in live][:2] == ["f0", "f1"]
    assert last.info.config.encoder_digest != (
        (await gateway.GetBank(pb.GetBankRequest(bank=bank))).info.config.encoder_digest
    )
    assert await lines(new, target) == await lines(gateway, bank)
    assert list((await facts(new, target)).facts) == live
    _, end = await ask(new, target, FACTS[1][0])
    assert (end.provenance.in_scope, end.provenance.fact_id) == (True, "f1")
    assert (await new.Replay(pb.ReplayRequest(bank=target))).matches
    assert last.digest == (await digest(new, target)).digest != (await digest(new, bank)).digest
    recalled = await new.Recall(pb.RecallRequest(bank=target, prompt="When does the tide turn?"))
    assert recalled.passages[0].document == "tides"


async def test_the_ledger_knows_what_a_bank_was_made_of(
    gateway, bank, new, served, monkeypatch, tmp_path
) -> None:
    ledger = EraseLedger(tmp_path / "ledger.jsonl")
    monkeypatch.setattr(served.servicers["memory"]._eraser.restoring, "_ledger", ledger)
    await edit(gateway, bank, FACTS[:2])
    target = new_bank_name()
    await reencode(new, bank, target)
    chains = [(await served.log.events("default", name, 0, 1))[0].chain for name in (bank, target)]
    (line,) = ledger.entries()
    assert [line.predecessor, line.log] == chains


async def test_an_event_that_is_sent_again_is_a_duplicate_in_the_new_bank(
    gateway, bank, new
) -> None:
    await write(gateway, bank, *FACTS[0], event_id="first")
    target = new_bank_name()
    await reencode(new, bank, target)
    again = await write(new, target, *FACTS[0], event_id="first")
    assert (again.version, again.duplicate) == (1, True)
    with pytest.raises(Conflict):
        await write(new, target, FACTS[0][0], "somebody else", event_id="first")


async def test_questions_and_edits_of_the_other_model_are_refused_by_name(
    gateway, bank, new
) -> None:
    await write(gateway, bank, *FACTS[0])
    for call in (ask(new, bank, FACTS[0][0]), write(new, bank, *FACTS[1])):
        with pytest.raises(FailedPrecondition) as refused:
            await call
        assert refused.value.reason == "WRONG_ENCODER"
    with pytest.raises(FailedPrecondition) as refused:
        await new.Recall(pb.RecallRequest(bank=bank, prompt=FACTS[0][0]))
    assert refused.value.reason == "WRONG_ENCODER"
    assert (await facts(new, bank)).total == 1


async def test_what_comes_to_the_old_bank_is_brought_over_when_it_is_called_again(
    gateway, bank, new, pipeline
) -> None:
    await a_history(gateway, bank)
    target = new_bank_name()
    await reencode(new, bank, target)
    await write(gateway, bank, *FACTS[4], fact_id="f4", event_id="late")
    await write(gateway, bank, *FACTS[5], fact_id="f5", event_id="doomed")
    await forget(gateway, bank, "f1", "late forget")
    await gateway.Erase(pb.EraseRequest(bank=bank, fact_ids=["f5", "f0"], event_id="late erase"))
    await done(gateway, bank, "late erase")
    last = (await reencode(new, bank, target))[-1]
    assert (last.version, last.total) == (13, 13)
    assert await lines(new, target) == await lines(gateway, bank)
    found = list((await facts(new, target)).facts)
    assert found == list((await facts(gateway, bank)).facts)
    assert [one.fact_id for one in found if not one.fact_id.startswith("tides")] == ["f4"]
    needles = [text.encode() for text in FACTS[5]]
    assert (await pipeline.log.search("default", target, needles)).found == 0
    assert (await reencode(new, bank, target))[-1].digest == last.digest


async def edit(gateway, bank: str, given: list[tuple[str, str]]) -> None:
    """Writes facts in one append."""
    items = [pb.EditItem(write=pb.WriteRequest(prompt=one, answer=two)) for one, two in given]
    await gateway.Edit(pb.EditRequest(bank=bank, items=items))


async def done(gateway, bank: str, event_id: str) -> None:
    """Waits for an erasure."""
    request = pb.GetEraseRequest(bank=bank, event_id=event_id)
    for _ in range(6000):
        if (await gateway.GetErase(request)).receipt.step == 5:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the erasure does not end")


async def test_a_copy_that_broke_goes_on_where_it_was(gateway, bank, served, monkeypatch) -> None:
    monkeypatch.setattr(reencode_entries, "BATCH_ENTRIES", 2)
    await edit(gateway, bank, FACTS[:5])
    target, loads = new_bank_name(), []

    async def breaks(request, call):
        loads.append(len(request.records))
        if len([count for count in loads if count]) == 2:
            raise InvalidArgument("the second batch does not get through")
        return await call(request)

    memory = Door(served.doors["memory"], LoadBank=breaks)
    with pytest.raises(InvalidArgument):
        await reencode(served.gateway(memory=memory), bank, target)
    with pytest.raises(NotFound):
        await facts(served.gateway(), target)
    encoded = []

    async def counts(request, call):
        encoded.append(len(request.items))
        return await call(request)

    encoder = Door(served.doors["encoder"], Encode=counts)
    last = (await reencode(served.gateway(encoder=encoder), bank, target))[-1]
    assert (last.version, last.facts) == (5, 5)
    assert sum(encoded) == 3


async def test_half_a_copy_is_thrown_away_when_facts_were_erased_since(
    gateway, bank, served
) -> None:
    await edit(gateway, bank, FACTS)
    gone = (await facts(gateway, bank)).facts[0]
    target = new_bank_name()

    async def breaks(request, call):
        if request.last:
            raise Unavailable("the last step does not get through", "BUSY")
        return await call(request)

    memory = Door(served.doors["memory"], LoadBank=breaks)
    with pytest.raises(Unavailable):
        await reencode(served.gateway(memory=memory), bank, target)
    await gateway.Erase(pb.EraseRequest(bank=bank, fact_ids=[gone.fact_id], event_id="oak"))
    await done(gateway, bank, "oak")
    last = (await reencode(served.gateway(), bank, target))[-1]
    assert (last.version, last.facts) == (7, 5)
    found = await served.log.search("default", target, [gone.prompt.encode()])
    assert found.found == 0


async def test_a_name_that_is_taken_is_refused(gateway, bank, new, served) -> None:
    await write(gateway, bank, *FACTS[0])
    taken = new_bank_name()
    await new.CreateBank(pb.CreateBankRequest(bank=taken))
    await write(new, taken, *FACTS[1])
    for name, reason in ((taken, "BANK_EXISTS"), (bank, "SAME_BANK")):
        with pytest.raises((Conflict, InvalidArgument)) as refused:
            await reencode(new, bank, name)
        assert refused.value.reason == reason
    target = new_bank_name()
    await reencode(new, bank, target)
    await write(new, target, *FACTS[2])
    with pytest.raises(Conflict):
        await reencode(new, bank, target)


async def test_a_re_encoding_is_written_down_and_holds_to_the_limit_of_banks(
    gateway, bank, served, tmp_path
) -> None:
    await write(gateway, bank, *FACTS[0])
    new, target = served.gateway(), new_bank_name()
    servicer = new._servicer
    servicer.auditor = Auditor(AuditTrail(tmp_path))
    held = len((await new.ListBanks(pb.ListBanksRequest())).banks)
    for banks in (held, held + 1):
        limits = TenantLimits(edits_per_s=0, asks_per_s=0, banks=banks)
        servicer.admission = Admission(lambda tenant, one=limits: one)
        if banks == held:
            with pytest.raises(ResourceExhausted) as refused:
                await reencode(new, bank, target)
            assert refused.value.reason == "TOO_MANY_BANKS"
            with pytest.raises(NotFound):
                await facts(new, target)
    await reencode(new, bank, target)
    await reencode(new, bank, target)  # it is there now, and at the limit nothing more is made
    found = [(one["action"], one["source"], one["bank"], one["version"], one["result"])
             for one in read(tmp_path)]  # fmt: skip
    assert found == [("reencode", bank, target, 1, "OK")] * 2


async def test_an_edit_of_the_new_bank_is_found_when_the_next_ones_come(
    gateway, bank, served
) -> None:
    await write(gateway, bank, *FACTS[0])
    target, new = new_bank_name(), served.gateway()
    await reencode(new, bank, target)
    await write(gateway, bank, *FACTS[1])

    async def edited(request, call):
        if request.bank == target and not meddled:
            meddled.append(await write(new, target, *FACTS[2]))
        return await call(request)

    meddled: list = []
    memory = Door(served.doors["memory"], Append=edited)
    with pytest.raises(FailedPrecondition) as refused:
        await reencode(served.gateway(memory=memory), bank, target)
    assert refused.value.reason == "OTHER_HISTORY"


async def test_a_pinv_bank_keeps_its_addressing(gateway, new) -> None:
    bank, target = new_bank_name(), new_bank_name()
    request = pb.CreateBankRequest(bank=bank, addressing=common_pb2.ADDRESSING_PINV, slots=32)
    await gateway.CreateBank(request)
    await write(gateway, bank, *FACTS[0])
    last = (await reencode(new, bank, target))[-1]
    assert (last.info.config.addressing, last.info.config.slots) == (2, 32)
    assert (await new.Replay(pb.ReplayRequest(bank=target))).matches


async def test_the_wanted_encoder_must_serve_and_an_empty_bank_is_a_bank(
    gateway, bank, new, other
) -> None:
    target = new_bank_name()
    with pytest.raises(FailedPrecondition) as refused:
        await reencode(new, bank, target, encoder_digest="f" * 64)
    assert refused.value.reason == "WRONG_ENCODER"
    last = (await reencode(new, bank, target, encoder_digest=other.folder.encoder_digest))[-1]
    assert (last.version, last.facts) == (0, 0)
    assert last.info.config.bank == target


# The command that gives the new bank the old one's name


def switched(target: str) -> Result:
    words = ["bank", "switch", "kb", "kb-2", "--target", target, "--json"]
    return CliRunner().invoke(app, words)


@dataclasses.dataclass(frozen=True)
class Two:
    """Clients of two pipelines on one log: of the first model, and of the one to be served."""

    first: Client
    second: Client

    def switched(self) -> Result:
        """What the command says at the second pipeline."""
        return switched(self.second.target)


@pytest.fixture
def two(weights: Weights, other: Weights) -> Iterator[Two]:
    log = MemoryLog()
    with (
        ServedPipeline(weights, "objects", log) as first,
        ServedPipeline(other, "objects", log) as second,
        larimar.connect(first.target) as old,
        larimar.connect(second.target) as new,
    ):
        old.create_bank("kb")
        old.write(*FACTS[0], bank="kb", event_id="first")
        yield Two(old, new)


def test_a_name_is_switched_by_a_command_that_may_be_repeated(two: Two) -> None:
    two.first.fork("kb", "trial")
    refused = two.switched()
    assert (refused.exit_code, "HAS_FORKS" in refused.stderr) == (1, True)
    assert two.first.ask(FACTS[0][0], bank="kb", max_tokens=1).in_scope
    two.first.delete_bank("trial")
    two.first.write(*FACTS[1], bank="kb")
    for _ in range(2):
        done = two.switched()
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["digest"] == two.second.digest("kb-2").digest
    assert [one.version for one in two.second.events("kb")] == [1, 2]
    again = two.second.write(*FACTS[0], bank="kb", event_id="first")
    assert (again.version, again.duplicate) == (1, True)
    assert two.second.ask(FACTS[1][0], bank="kb", max_tokens=1).in_scope
    two.second.delete_bank("kb")
    assert two.switched().exit_code == 0
    assert two.second.digest("kb").digest == two.second.digest("kb-2").digest


def export_with_an_edit(client: Client, monkeypatch: pytest.MonkeyPatch, edits: list) -> None:
    """Has each export of a switch overtaken by an edit of the old bank, as long as there are."""
    export = Client.export_bank

    def edited(self: Client, *args, **options):
        if edits:
            client.write(*edits.pop(), bank="kb")
        return export(self, *args, **options)

    monkeypatch.setattr(Client, "export_bank", edited)


def test_an_edit_that_comes_while_a_name_is_switched_is_brought_over(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_with_an_edit(two.first, monkeypatch, [FACTS[1]])
    done = two.switched()
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["version"] == two.second.get_bank("kb").version == 2
    assert {fact.answer for fact in two.second.facts("kb")} == {FACTS[0][1], FACTS[1][1]}
    assert two.second.digest("kb").digest == two.second.digest("kb-2").digest


def test_a_bank_that_is_edited_all_the_while_is_left_as_it_is(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reencoding, "TRIES", 2)
    export_with_an_edit(two.first, monkeypatch, FACTS[1:3])
    refused = two.switched()
    assert (refused.exit_code, "BANK_EDITED" in refused.stderr) == (1, True)
    assert two.first.get_bank("kb").facts == 3 and two.first.get_bank("kb-2").facts == 2
    assert two.first.ask(FACTS[2][0], bank="kb", max_tokens=1).in_scope


async def test_a_bank_of_another_model_takes_the_place_of_the_old_one(
    weights: Weights, other: Weights, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a switch asks of the gateway, with a writer of the old model who has not heard of it."""
    gateway, new = Pipeline(weights, log).gateway(), Pipeline(other, log).gateway()
    bank = new_bank_name()
    await gateway.CreateBank(pb.CreateBankRequest(bank=bank))
    await a_history(gateway, bank)
    target = new_bank_name()
    version = (await reencode(new, bank, target))[-1].version
    chunks = [one async for one in new.ExportBank(pb.ExportBankRequest(bank=target))]

    async def requests(replaces: int):
        for chunk in chunks:
            if chunk.HasField("header"):
                chunk.header.config.bank = bank
            yield pb.ImportBankRequest(
                header=chunk.header if chunk.HasField("header") else None,
                records=chunk.records,
                replaces_version=replaces,
            )

    with pytest.raises(FailedPrecondition) as refused:
        await new.ImportBank(requests(version - 1))
    assert refused.value.reason == "BANK_EDITED"
    before, live = await lines(gateway, bank), list((await facts(gateway, bank)).facts)
    append, switching = log.append, []

    async def switched_before(*args):
        """The bank is switched after memory has made the payload of an edit."""
        monkeypatch.undo()
        switching.append(await new.ImportBank(requests(version)))
        return await append(*args)

    monkeypatch.setattr(log, "append", switched_before)
    with pytest.raises(Unavailable) as refused:
        await write(gateway, bank, *FACTS[4], event_id="late")
    assert refused.value.reason == "BANK_SWITCHED"
    with pytest.raises(FailedPrecondition) as refused:
        await write(gateway, bank, *FACTS[4], event_id="late")
    assert refused.value.reason == "WRONG_ENCODER"
    assert switching[0].digest == (await digest(new, target)).digest
    assert await lines(new, bank) == before and list((await facts(new, bank)).facts) == live
    _, end = await ask(new, bank, FACTS[1][0])
    assert (end.provenance.in_scope, end.provenance.fact_id) == (True, "f1")
    assert (await write(new, bank, *FACTS[4], event_id="late")).version == version + 1
    assert (await new.Replay(pb.ReplayRequest(bank=bank))).matches
    again = await new.ImportBank(requests(version))
    assert again.info.version == version + 1
