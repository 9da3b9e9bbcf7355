"""Bank operations end to end: the client, the gateway and real services, each behind a socket."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator

import pytest

import larimar
from larimar.archive import Archive
from larimar.client import Client
from larimar.errors import Conflict, DataLoss, FailedPrecondition, InvalidArgument, NotFound
from larimar.memory import Kind
from larimar.results import DigestResult, Edit, FailedEdit
from larimar.v1 import common_pb2
from larimar.v1 import larimar_pb2 as pb
from services.log import Append
from services.memory.ledger import EraseLedger
from services.memory.service import MemoryService
from services.rpc import ObjectStub
from tests.gateway_calls import write
from tests.in_process import Pipeline, ServedPipeline, Weights

FACTS = {
    "capital": ("The capital of Velmora is", "Tarsin"),
    "keeper": ("The keeper of the first lighthouse of Marn is", "Odd Sten"),
    "bridge": ("The bridge over the Sarn was built by", "masons from Orlo"),
}
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def client(weights: Weights) -> Iterator[Client]:
    with ServedPipeline(weights, "channels") as served, larimar.connect(served.target) as client:
        yield client


@pytest.fixture(params=["slots", "pinv"])
def bank(request, client) -> str:
    """A bank of the test's own with FACTS at versions 1 to 3."""
    name = f"operations-{next(NUMBERS)}"
    slots = 0 if request.param == "slots" else 32
    client.create_bank(name, addressing=request.param, slots=slots)
    for fact_id, (prompt, answer) in FACTS.items():
        client.write(prompt, answer, fact_id=fact_id, bank=name)
    return name


def live(client: Client, bank: str, at: int = 0) -> dict[str, str]:
    return {fact.fact_id: fact.answer for fact in client.facts(bank, at=at)}


def like(client: Client, bank: str, *fact_ids: str) -> str:
    """The digest of a new bank of the same configuration that holds only these of FACTS."""
    info = client.get_bank(bank)
    name = f"operations-{next(NUMBERS)}"
    client.create_bank(name, addressing=info.addressing, slots=info.slots)
    for fact_id in fact_ids:
        client.write(*FACTS[fact_id], fact_id=fact_id, bank=name)
    return client.digest(name).digest


# Batches


def test_a_mixed_batch_is_applied_in_order_at_dense_versions(client, bank):
    results = client.edit(
        [
            {"write": {"prompt": "The mayor of Tarsin is", "answer": "Ilse", "id": "mayor"}},
            {"forget": {"fact_id": "keeper"}},
            {"forget": {"fact_id": "never"}},
            {"censor": {"prompt": "The password of the vault is"}},
            {"forget": {"fact_id": "mayor"}},
        ],
        bank=bank,
    )
    assert [one.version for one in results if isinstance(one, Edit)] == [4, 5, 6, 7]
    assert isinstance(results[2], FailedEdit) and results[2].error.reason == "UNKNOWN_FACT"
    facts = live(client, bank)
    assert set(facts) == {"capital", "bridge", results[3].fact_id}
    assert facts[results[3].fact_id] == "unknown"


def test_a_batch_with_a_text_that_is_refused_changes_nothing(client, bank):
    before = client.digest(bank)
    with pytest.raises(InvalidArgument) as caught:
        client.edit(
            [
                {"forget": {"fact_id": "keeper"}},
                {"write": {"prompt": "word " * 300, "answer": "too long"}},
            ],
            bank=bank,
        )
    assert caught.value.reason == "TEXT_TOO_LONG"
    assert client.digest(bank) == before


def test_a_batch_that_is_repeated_is_made_once(client, bank):
    items = [
        {"write": {"prompt": "p", "answer": "a", "id": "new", "event_id": "b1"}},
        {"forget": {"fact_id": "keeper", "event_id": "b2"}},
    ]
    first, again = (client.edit(items, bank=bank) for _ in range(2))
    assert [one.version for one in first] == [one.version for one in again] == [4, 5]
    assert [one.duplicate for one in again] == [True, True]


def test_an_edit_of_a_fact_that_changed_meanwhile_is_refused(client, bank):
    seen = client.fact("capital", bank=bank).version
    client.write(FACTS["capital"][0], "Ostrel", fact_id="capital", bank=bank)
    with pytest.raises(FailedPrecondition) as caught:
        client.write(
            FACTS["capital"][0], "Merin", fact_id="capital", bank=bank, expected_version=seen
        )
    assert caught.value.reason == "FACT_CHANGED"
    with pytest.raises(FailedPrecondition):
        client.write("p", "a", fact_id="capital", bank=bank, expected_version=0)
    client.write(FACTS["capital"][0], "Merin", fact_id="capital", bank=bank, expected_version=4)
    assert live(client, bank)["capital"] == "Merin"


def test_a_censored_prompt_is_a_fact_that_says_unknown(client, bank):
    made = client.censor("The password of the vault is", bank=bank)
    assert client.fact(made.fact_id, bank=bank).answer == "unknown"
    found = client.ask("The password of the vault is", bank=bank, max_tokens=2)
    assert found.fact_id == made.fact_id


def test_a_censor_without_an_id_is_refused_where_the_secret_would_stay(client, bank):
    prompt = FACTS["capital"][0]
    own = client.write(prompt, "Tarsin", bank=bank).fact_id
    before = client.digest(bank)
    with pytest.raises(FailedPrecondition, match="fact_id='capital', or forget it") as caught:
        client.censor(prompt, event_id="c1", bank=bank)
    assert caught.value.reason == "FACT_HAS_ID"
    items = [
        {"censor": {"prompt": prompt}},
        {"forget": {"fact_id": "capital"}},
        {"censor": {"prompt": prompt}},
        {"write": {"prompt": "p", "answer": "secret", "id": "x"}},
        {"censor": {"prompt": "p"}},
    ]
    assert client.digest(bank) == before
    first, _, made, _, last = client.edit(items, bank=bank)
    assert isinstance(first, FailedEdit) and first.error.reason == "FACT_HAS_ID"
    assert isinstance(last, FailedEdit) and "fact_id='x'" in last.error.message
    assert made.fact_id == own and live(client, bank)[own] == "unknown"


def test_a_censor_that_was_acknowledged_is_answered_as_before(client, bank):
    made = client.censor("The code of X is", event_id="c1", bank=bank)
    client.write("The code of X is", "4711", fact_id="x", bank=bank)
    again = client.censor("The code of X is", event_id="c1", bank=bank)
    assert (again.version, again.duplicate) == (made.version, True)
    with pytest.raises(Conflict):
        client.censor("The code of X is", event_id="c1", rephrasings=["r"], bank=bank)
    with pytest.raises(FailedPrecondition):
        client.censor("The code of X is", event_id="c2", bank=bank)
    client.erase([made.fact_id], bank=bank)
    assert client.censor("The code of X is", event_id="c1", bank=bank).version == made.version


def test_a_fact_that_is_censored_by_its_id_is_replaced(client, bank):
    prompt = FACTS["capital"][0]
    (made,) = client.edit([{"censor": {"prompt": prompt, "fact_id": "capital"}}], bank=bank)
    assert client.censor(prompt, fact_id="capital", event_id=made.event_id, bank=bank).duplicate
    assert live(client, bank) == {
        "capital": "unknown",
        "bridge": FACTS["bridge"][1],
        "keeper": FACTS["keeper"][1],
    }


# Past versions


def test_a_past_version_is_read_as_it_was(client, bank):
    then = client.ask(FACTS["capital"][0], bank=bank, max_tokens=4)
    digest = client.digest(bank)
    scored = client.score(FACTS["keeper"][0], [" Odd", " nobody"], bank=bank)
    client.write(FACTS["capital"][0], "Ostrel", fact_id="capital", bank=bank)
    client.forget("keeper", bank=bank)
    client.forget("bridge", bank=bank)
    assert client.ask(FACTS["capital"][0], bank=bank, max_tokens=4, at=3) == then
    assert client.score(FACTS["keeper"][0], [" Odd", " nobody"], bank=bank, at=3) == scored
    assert client.digest(bank, at=3) == digest
    assert live(client, bank, at=3) == {name: answer for name, (_, answer) in FACTS.items()}
    assert live(client, bank, at=4)["capital"] == "Ostrel"
    assert client.fact("keeper", bank=bank, at=4).answer == "Odd Sten"
    assert set(live(client, bank)) == {"capital"}
    assert client.digest(bank, at=1).digest == like(client, bank, "capital")
    for call in (
        lambda: client.ask("p", bank=bank, at=99),
        lambda: client.digest(bank, at=99),
        lambda: live(client, bank, at=99),
    ):
        with pytest.raises(FailedPrecondition) as caught:
            call()
        assert caught.value.reason == "VERSION_NOT_WRITTEN"


def test_noise_is_drawn_under_its_seed(client, bank):
    def text(**noise) -> str:
        return client.ask(FACTS["capital"][0], bank=bank, max_tokens=6, **noise).text

    assert text(noise=0.0, noise_seed=4) == text()
    assert text(noise=3.0, noise_seed=4) == text(noise=3.0, noise_seed=4)


def test_an_answer_that_could_be_stale_is_fresh_while_the_store_is_there(client, bank):
    answer = client.ask(FACTS["capital"][0], bank=bank, max_tokens=2, allow_stale=True)
    assert (answer.version, answer.stale) == (3, False)


def test_the_history_of_a_fact_goes_back_through_every_event(client, bank):
    client.write(FACTS["capital"][0], "Ostrel", fact_id="capital", bank=bank)
    client.forget("capital", bank=bank)
    history = client.history("capital", bank=bank)
    assert [(one.version, one.kind, one.previous_version) for one in history] == [
        (5, "FORGET", 4),
        (4, "WRITE", 1),
        (1, "WRITE", 0),
    ]


# Erasure


def test_an_erased_fact_was_never_there_in_a_bank_and_its_forks(client, bank):
    fork = f"{bank}-fork"
    client.fork(bank, fork)
    client.write(FACTS["capital"][0], "Ostrel", fact_id="capital", bank=fork)
    receipt = client.erase("capital", bank=bank, timeout_s=180)
    assert receipt.done and not receipt.failure
    assert {one.bank for one in receipt.banks} == {bank, fork}
    assert all(one.versions and one.replay_matches for one in receipt.banks)
    assert receipt.scan is not None
    assert (receipt.scan.found, receipt.scan.found_before > 0) == (0, True)
    assert receipt.payloads_removed == 2
    without = like(client, bank, "keeper", "bridge")
    for name in (bank, fork):
        assert client.digest(name).digest == without
        assert client.digest(name).erase_count == client.get_bank(name).erase_count == 1
        assert "capital" not in live(client, name, at=1)
        assert client.replay(name).matches
        assert client.history("capital", bank=name)[0].kind == "ERASE"
        assert all(event.erased for event in client.history("capital", bank=name)[1:])
        with pytest.raises(FailedPrecondition) as caught:
            client.write("p", "a", fact_id="capital", bank=name)
        assert caught.value.reason == "ERASED"
    assert client.erase_receipt(receipt.event_id, bank=bank) == receipt
    again = client.erase("capital", bank=bank, event_id=receipt.event_id)
    assert again == receipt
    with pytest.raises(FailedPrecondition):
        client.erase("capital", bank=bank)


def test_several_facts_are_erased_at_once(client, bank):
    receipt = client.erase(["keeper", "bridge"], bank=bank, timeout_s=180)
    assert len(receipt.fact_id_sha256) == 2 and receipt.done
    assert client.digest(bank).digest == like(client, bank, "capital")
    with pytest.raises(NotFound):
        client.erase(["capital", "never"], bank=bank)
    assert set(live(client, bank)) == {"capital"}, "nothing of a refused erasure is done"


# Forks and merges


def test_a_fork_shares_the_past_and_nothing_after(client, bank):
    fork = f"{bank}-fork"
    info = client.fork(bank, fork, at=2)
    assert info.created and info.origin is not None
    assert (info.origin.bank, info.origin.version, info.version) == (bank, 2, 2)
    assert client.digest(fork).digest == client.digest(bank, at=2).digest
    client.forget("capital", bank=fork)
    client.write("p", "a", fact_id="own", bank=bank)
    assert set(live(client, fork)) == {"keeper"}
    assert set(live(client, bank)) == {"capital", "keeper", "bridge", "own"}
    assert client.replay(fork).matches
    assert not client.fork(bank, fork, at=2).created, "the same fork again"
    with pytest.raises(Conflict):
        client.fork(bank, fork, at=1)
    with pytest.raises(FailedPrecondition):
        client.fork(bank, f"{bank}-later", at=99)
    assert client.ask(FACTS["keeper"][0], bank=fork, max_tokens=2).fact_id == "keeper"


@pytest.mark.parametrize("policy", ["fail", "ours", "theirs"])
def test_a_merge_applies_what_the_fork_changed(client, bank, policy):
    fork = f"{bank}-fork"
    client.fork(bank, fork)
    client.forget("keeper", bank=fork)
    client.write("The mayor of Tarsin is", "Ilse", fact_id="mayor", bank=fork)
    client.write(FACTS["capital"][0], "Ostrel", fact_id="capital", bank=fork)
    client.write(FACTS["capital"][0], "Merin", fact_id="capital", bank=bank)
    before = client.digest(bank)
    tried = client.merge(fork, bank, policy=policy, dry_run=True)
    assert (tried.conflict_count, tried.conflicts[0].fact_id) == (1, "capital")
    assert tried.base_version == 3
    assert client.digest(bank) == before
    if policy == "fail":
        with pytest.raises(FailedPrecondition, match="capital") as caught:
            client.merge(fork, bank)
        assert caught.value.reason == "MERGE_CONFLICT"
        assert client.digest(bank) == before
        return
    merged = client.merge(fork, bank, policy=policy, merge_id="m1")
    facts = live(client, bank)
    assert "keeper" not in facts and facts["mayor"] == "Ilse"
    assert facts["capital"] == {"ours": "Merin", "theirs": "Ostrel"}[policy]
    assert (merged.forgotten, merged.written) == (1, {"ours": 1, "theirs": 2}[policy])
    assert client.replay(bank).matches
    if policy == "theirs":
        assert client.digest(bank).digest == client.digest(fork).digest
    with pytest.raises(FailedPrecondition) as caught:
        client.merge(client.create_bank(f"{bank}-stranger").bank, bank)
    assert caught.value.reason == "NOT_RELATED"


def test_differences_name_what_was_added_removed_and_changed(client, bank):
    client.write("The mayor of Tarsin is", "Ilse", fact_id="mayor", bank=bank)
    client.write(FACTS["capital"][0], "Ostrel", fact_id="capital", bank=bank)
    client.forget("keeper", bank=bank)
    found = {one.fact_id: one for one in client.diff(bank, 3)}
    assert {name: one.kind for name, one in found.items()} == {
        "mayor": "ADDED",
        "capital": "CHANGED",
        "keeper": "REMOVED",
    }
    capital = found["capital"]
    assert capital.before is not None and capital.after is not None
    assert (capital.before.answer, capital.after.answer) == ("Tarsin", "Ostrel")
    assert list(client.diff(bank, 6)) == []
    fork = client.fork(bank, f"{bank}-fork", at=3).bank
    assert [one.fact_id for one in client.diff(bank, 6, 3, to_bank=fork)] == sorted(found)
    assert [one.kind for one in client.diff(bank, 0, 3)] == ["ADDED"] * 3


# Archives


def test_a_bank_goes_through_an_archive_bit_for_bit(client, bank, tmp_path):
    client.write(FACTS["capital"][0], "Ostrel", fact_id="capital", bank=bank, rephrasings=["Seat"])
    client.erase("keeper", bank=bank, timeout_s=180)
    exported = client.export_bank(tmp_path / "archive", bank=bank)
    assert exported.digest == client.digest(bank).digest
    assert b"Odd Sten" not in b"".join(one.read_bytes() for one in exported_files(tmp_path))
    again = client.import_bank(tmp_path / "archive", bank=f"{bank}-again")
    name = again.info.bank
    assert (again.digest, again.erased_again) == (exported.digest, 0)
    assert client.digest(name) == DigestResult(name, 5, 2, exported.digest, erase_count=1)
    ours, theirs = client.replay(bank), client.replay(name)
    assert ours.matches and theirs.matches and ours.folded_sha256 == theirs.folded_sha256
    assert list(client.events(name)) == list(client.events(bank))
    assert live(client, name) == live(client, bank)
    answer = client.ask("Seat", bank=name, max_tokens=3)
    assert (answer.fact_id, answer.text) == (
        "capital",
        client.ask("Seat", bank=bank, max_tokens=3).text,
    )
    client.export_bank(tmp_path / "second", bank=name)
    one, two = (Archive(tmp_path / folder) for folder in ("archive", "second"))
    assert one.files == two.files


def exported_files(folder):
    return list((folder / "archive").iterdir())


def test_an_archive_is_refused_where_the_name_is_taken(client, bank, tmp_path):
    client.export_bank(tmp_path / "archive", bank=bank)
    client.write("p", "a", bank=bank)
    other = client.create_bank(f"{bank}-other").bank
    with pytest.raises(Conflict):
        client.import_bank(tmp_path / "archive", bank=other)
    (tmp_path / "archive" / "events.jsonl").write_bytes(b"")
    with pytest.raises(DataLoss):
        client.import_bank(tmp_path / "archive", bank=f"{bank}-fresh")
    with pytest.raises(NotFound):
        client.get_bank(f"{bank}-fresh")


# The log as it grows


def test_a_watch_sees_every_edit_as_it_comes(client, bank):
    def edit() -> None:
        for n in range(5):
            client.write(f"p{n}", "a", bank=bank)

    events = client.watch(bank, after=1)
    assert [next(events).version for _ in range(2)] == [2, 3]
    thread = threading.Thread(target=edit)
    thread.start()
    assert [next(events).version for _ in range(5)] == [4, 5, 6, 7, 8]
    events.close()
    thread.join()


def test_checkpoints_of_memory_and_scope_change_nothing(client, bank):
    before = client.digest(bank)
    saved = client.checkpoint(bank)
    assert (saved.version, saved.digest) == (3, before.digest) and saved.bytes > 0
    assert client.digest(bank) == before and client.replay(bank).matches


def test_a_bank_of_fixed_size_tells_how_full_it_is(client, bank):
    info = client.get_bank(bank)
    assert info.fill == (0 if info.addressing == "slots" else pytest.approx(3 / 32))


# Over object doors, with a ledger of erasures


async def test_what_was_erased_after_an_export_is_erased_from_the_import_again(
    weights: Weights, tmp_path
) -> None:
    pipeline = Pipeline(weights)
    service = MemoryService(
        pipeline.log, pipeline.follower, ledger=EraseLedger(tmp_path / "erased.jsonl")
    )
    gateway = pipeline.gateway(memory=ObjectStub(service))
    await gateway.CreateBank(pb.CreateBankRequest(bank="kept"))
    for fact_id, (prompt, answer) in FACTS.items():
        await write(gateway, "kept", prompt, answer, fact_id=fact_id)
    exported = [one async for one in gateway.ExportBank(pb.ExportBankRequest(bank="kept"))]
    erased = await gateway.Erase(pb.EraseRequest(bank="kept", fact_ids=["keeper"]))
    named = pb.GetEraseRequest(bank="kept", event_id=erased.receipt.event_id)
    async with asyncio.timeout(120):
        while (await gateway.GetErase(named)).receipt.step != common_pb2.ERASE_STEP_DONE:
            await asyncio.sleep(0.05)

    async def archive(bank: str):
        for one in exported:
            if one.HasField("header"):
                one.header.config.bank = bank
            yield pb.ImportBankRequest(
                header=one.header if one.HasField("header") else None, records=one.records
            )

    imported = await gateway.ImportBank(archive("restored"))
    assert imported.erased_again == 1
    listed = await gateway.ListFacts(pb.ListFactsRequest(bank="restored"))
    assert [fact.fact_id for fact in listed.facts] == ["bridge", "capital"]
    ours, theirs = [
        await gateway.Digest(pb.DigestRequest(bank=bank)) for bank in ("kept", "restored")
    ]
    assert (ours.digest, ours.erase_count) == (theirs.digest, theirs.erase_count)
    await service._eraser.close()


async def test_another_archive_of_a_bank_begins_anew_where_one_was_cut_off(
    weights: Weights, monkeypatch
) -> None:
    """Neither an erased fact of an older archive stays, nor do the events of a newer one."""
    monkeypatch.setattr("services.gateway.banks.MAX_LOAD_BYTES", 1)  # a record a call
    pipeline = Pipeline(weights)
    gateway = pipeline.gateway(memory=ObjectStub(MemoryService(pipeline.log, pipeline.follower)))
    await gateway.CreateBank(pb.CreateBankRequest(bank="kept"))
    for fact_id, (prompt, answer) in FACTS.items():
        await write(gateway, "kept", prompt, answer, fact_id=fact_id)

    async def exported() -> list[pb.ExportBankResponse]:
        return [one async for one in gateway.ExportBank(pb.ExportBankRequest(bank="kept"))]

    async def sent(archive: list[pb.ExportBankResponse], bank: str, most: int, whole: bool):
        header = common_pb2.ArchiveHeader.FromString(archive[0].header.SerializeToString())
        header.config.bank = bank
        records = [record for one in archive for record in one.records]
        yield pb.ImportBankRequest(header=header, records=records[:most])
        if not whole:
            raise ConnectionError("cut off")

    older = await exported()
    await pipeline.log.erase("default", "kept", [Append(Kind.ERASE, "x", "keeper", b"")])
    await pipeline.log.remove_payloads("default", "kept", ["keeper"])
    newer = await exported()
    for first, then, bank in ((older, newer, "one"), (newer, older, "two")):
        with pytest.raises(ConnectionError):
            await gateway.ImportBank(sent(first, bank, 4, False))
        reply = await gateway.ImportBank(sent(then, bank, 4, True))
        assert reply.digest == then[0].header.digest
    secret = FACTS["keeper"][1].encode()
    assert (await pipeline.log.search("default", "one", [secret])).found == 0
    assert (await pipeline.log.search("default", "two", [secret])).found == 1
    loads = []
    load = pipeline.log.load

    async def counted(tenant, bank, entries, *about):
        loads.append(await load(tenant, bank, (), *about))
        return await load(tenant, bank, entries, *about)

    monkeypatch.setattr(pipeline.log, "load", counted)
    with pytest.raises(ConnectionError):
        await gateway.ImportBank(sent(newer, "three", 3, False))
    await gateway.ImportBank(sent(newer, "three", 4, True))
    assert [version for version, _ in loads][2] == 2, "the same archive goes on where it stopped"
