"""The audit log: who changed what, by ids alone; its files, and the command that reads them."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from larimar.aio import AsyncClient
from larimar.errors import LarimarError, Unavailable
from larimar.security import Security
from larimar.v1 import larimar_pb2 as pb
from services import audit
from services.audit import AuditTrail, files, read
from services.audit_admin import chosen
from services.contracts import add_servicer
from services.gateway.auditing import Auditor
from services.gateway.auth import KeyInterceptor
from services.gateway.consumer import INBOX, InboxConsumer
from services.inbox import Death, MemoryInbox, Settled
from services.keys import SCOPES, MemoryKeys, new_key
from services.rpc import start_server
from tests.command_line import command
from tests.events import event_json, eventually
from tests.gateway_calls import ANSWER, FACTS, PROMPT, forget, write
from tests.in_process import Door, Pipeline

TEXTS = (PROMPT, ANSWER, *(text for fact in FACTS for text in fact))


@pytest.fixture
def gateway(pipeline: Pipeline, tmp_path: Path) -> Any:
    """A door to a gateway that keeps an audit log in the test's folder."""
    door = pipeline.gateway()
    door._servicer.auditor = Auditor(AuditTrail(tmp_path))
    return door


def lines(folder: Path, *names: str) -> list[tuple]:
    """Some fields of every line, in order."""
    return [tuple(entry.get(name) for name in names) for entry in read(folder)]


async def test_an_edit_leaves_who_what_and_how_it_ended(gateway, bank: str, tmp_path) -> None:
    written = await write(gateway, bank, PROMPT, ANSWER, fact_id="f", event_id="e1")
    await write(gateway, bank, PROMPT, ANSWER, fact_id="f", event_id="e1")
    with pytest.raises(LarimarError):
        await write(gateway, bank, PROMPT, "another", fact_id="f", event_id="e1")
    await forget(gateway, bank, "f", "e2")
    found = lines(tmp_path, "action", "bank", "fact_id", "event_id", "version", "result")
    assert found == [
        ("create bank", bank, None, None, None, "OK"),
        ("write", bank, "f", "e1", written.version, "OK"),
        ("write", bank, "f", "e1", written.version, "DUPLICATE"),
        ("write", bank, "f", "e1", 0, "CONFLICT"),
        ("forget", bank, "f", "e2", 2, "OK"),
    ]
    assert lines(tmp_path, "tenant", "key") == [("default", "")] * 5


async def test_an_edit_whose_outcome_is_unknown_is_there_too(pipeline, bank, tmp_path) -> None:
    async def lost(request: Any, call: Any) -> Any:
        await call(request)
        raise Unavailable("the answer was lost", "STORE_REFUSES")

    door = pipeline.gateway(memory=Door(pipeline.doors["memory"], Append=lost))
    door._servicer.auditor = Auditor(AuditTrail(tmp_path))
    with pytest.raises(Unavailable):
        await write(door, bank, PROMPT, ANSWER, event_id="e")
    found = lines(tmp_path, "event_id", "version", "result")
    assert found[-1] == ("e", 0, "STORE_REFUSES")


@pytest.fixture
async def client(gateway) -> AsyncIterator[tuple[AsyncClient, str]]:
    """A client with a key of a tenant of its own, and the id of the key."""
    keys, servicer = MemoryKeys(), gateway._servicer
    key, shown = new_key(f"tenant-{os.urandom(4).hex()}", SCOPES, "")
    await keys.add(key)
    server, port = await start_server(
        "127.0.0.1:0", add_servicer("gateway", servicer), interceptors=[KeyInterceptor(keys)]
    )
    async with AsyncClient(
        f"127.0.0.1:{port}", timeout_s=120.0, security=Security(api_key=shown)
    ) as made:
        yield made, key.key_id
    await server.stop(grace=0)


async def test_everything_that_changes_anything_is_written_down_and_no_text(
    gateway, client, tmp_path: Path
) -> None:
    caller, key_id = client
    folder, trail = tmp_path / "archive", tmp_path
    await caller.create_bank("one")
    for prompt, answer in FACTS[:2]:
        await caller.write(prompt, answer, bank="one", rephrasings=["Who keeps it, they ask, is"])
    facts = [{"prompt": prompt, "answer": answer} for prompt, answer in FACTS]
    results = [one async for one in caller.write_many(facts, bank="one")]
    await caller.censor(PROMPT, bank="one")
    await caller.fork("one", "two")
    await caller.forget(results[2].fact_id, bank="two")
    await caller.merge("two", "one")
    await caller.merge("two", "one", dry_run=True)
    await caller.export_bank(folder, bank="one")
    await caller.import_bank(folder, bank="three")
    await caller.erase([results[3].fact_id], bank="three", event_id="gone", wait=False)
    await caller.delete_bank("three")
    with pytest.raises(LarimarError):
        await caller.delete_bank("three")
    for read_only in (caller.digest("one"), caller.ask(PROMPT, bank="one", max_tokens=1)):
        await read_only
    actions = [action for (action,) in lines(trail, "action")]
    assert actions == [
        "create bank", *["write"] * 9, "fork", "forget", "merge", "import", "erase",
        *["delete bank"] * 2,
    ]  # fmt: skip
    assert [result for (result,) in lines(trail, "result")][-2:] == ["OK", "UNKNOWN_BANK"]
    assert {key for (key,) in lines(trail, "key")} == {key_id}
    (merged,) = [entry for entry in read(trail) if entry["action"] == "merge"]
    assert (merged["source"], merged["bank"], merged["forgotten"]) == ("two", "one", 1)
    (erased,) = [entry for entry in read(trail) if entry["action"] == "erase"]
    assert (erased["fact_ids"], erased["event_id"]) == ([results[3].fact_id], "gone")
    content = "".join(path.read_text() for path in files(trail))
    assert [text for text in (*TEXTS, "they ask") if text in content] == []


async def test_what_the_inbox_brings_and_what_becomes_of_dead_letters(
    gateway, bank: str, tmp_path: Path
) -> None:
    servicer = gateway._servicer
    servicer.inbox = inbox = MemoryInbox()
    await inbox.append("default", event_json("e", bank=bank, prompt=PROMPT, fact_id="f"))
    consumer = asyncio.create_task(InboxConsumer(servicer, inbox, "default").run())

    async def empty() -> bool:
        return not await inbox.length("default")

    await eventually(empty)
    consumer.cancel()
    await asyncio.gather(consumer, return_exceptions=True)
    assert lines(tmp_path, "action", "fact_id", "key")[1:] == [("write", "f", INBOX)]
    for call, request in (
        (gateway.RequeueDeadLetters, pb.RequeueDeadLettersRequest),
        (gateway.DropDeadLetters, pb.DropDeadLettersRequest),
    ):
        death = Death(b"{}", "BAD_EVENT", "no event", 1)
        entry_id = await inbox.append("default", b"{}")
        taken = [entry.entry_id for entry in await inbox.take("default", 9, 10)]
        assert entry_id in taken
        await inbox.settle("default", [Settled(entry_id, death)])
        ((letter,), _) = await inbox.letters("default", "", 10)
        await call(request(letter_ids=[letter.letter_id]))
    assert lines(tmp_path, "action", "letters")[2:] == [("requeue", 1), ("drop", 1)]


# Files


def test_files_are_private_rotated_and_the_oldest_go(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path / "a", most_bytes=3000, file_bytes=1000)
    for number in range(100):
        trail.add("t", "k", [{"action": "write", "number": number}])
    trail.close()
    found = files(tmp_path / "a")
    sizes = [path.stat().st_size for path in found]
    assert len(found) in (3, 4) and max(sizes) <= 1000 and sum(sizes[:-1]) <= 3000
    assert {path.stat().st_mode & 0o777 for path in found} == {0o600}
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    numbers = [number for (number,) in lines(tmp_path / "a", "number")]
    assert numbers == list(range(numbers[0], 100)) and numbers[0] > 0


def test_a_process_whose_file_was_removed_goes_on_in_another(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path)
    trail.add("t", "", [{"action": "write", "number": 0}])
    files(tmp_path)[0].unlink()
    trail.add("t", "", [{"action": "write", "number": 1}])
    assert lines(tmp_path, "number") == [(1,)]


def test_processes_write_beside_one_another_and_are_read_in_order(tmp_path: Path) -> None:
    def work(trail: AuditTrail, name: str) -> None:
        for number in range(50):
            trail.add("t", name, [{"action": "write", "number": number}], durable=number == 49)

    trails = [AuditTrail(tmp_path) for _ in range(3)]
    threads = [
        threading.Thread(target=work, args=(trail, f"k{place}"))
        for place, trail in enumerate((*trails, trails[0]))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = list(read(tmp_path))
    assert len(entries) == 200 and len(files(tmp_path)) == 3
    for trail in trails:
        trail.close()
    AuditTrail(tmp_path).add("t", "", [{"action": "write"}])
    assert len(files(tmp_path)) == 3, "a file whose process has ended is taken over"
    times = [entry["time"] for entry in entries]
    assert times == sorted(times)


def test_a_file_that_another_takes_before_it_is_locked_is_left_to_it(tmp_path, monkeypatch) -> None:
    trail, other = AuditTrail(tmp_path), AuditTrail(tmp_path)
    locked = audit._locked

    def late(file) -> bool:
        monkeypatch.undo()
        other.add("t", "", [{"action": "write", "number": 0}])
        return locked(file)

    monkeypatch.setattr(audit, "_locked", late)
    trail.add("t", "", [{"action": "write", "number": 1}])
    other.add("t", "", [{"action": "write", "number": 2}])
    assert [len(path.read_bytes().splitlines()) for path in files(tmp_path)] == [2, 1]


def test_files_begun_in_one_moment_have_names_of_their_own(tmp_path, monkeypatch) -> None:
    moments = iter([7, 7, 8])
    monkeypatch.setattr(audit.time, "time_ns", lambda: next(moments))
    trails = [AuditTrail(tmp_path) for _ in range(2)]
    for trail in trails:
        trail.add("t", "", [{"action": "write"}])
    assert [path.name.split("-")[0] for path in files(tmp_path)] == ["7", "8"]


@pytest.mark.parametrize("ended", [True, False])
def test_a_torn_line_is_left_out_and_takes_no_other_with_it(tmp_path: Path, ended: bool) -> None:
    trail = AuditTrail(tmp_path)
    trail.add("t", "", [{"action": "write", "number": 0}])
    with files(tmp_path)[0].open("ab") as file:
        file.write(b'{"time": "2026')
    if ended:  # as a process that was killed while it wrote
        trail.close()
        trail = AuditTrail(tmp_path)
    trail._failing = not ended  # as after a write that stopped there
    trail.add("t", "", [{"action": "write", "number": 1}])
    assert lines(tmp_path, "number") == [(0,), (1,)] and len(files(tmp_path)) == 1


def test_a_log_that_cannot_be_written_is_said_once_and_stops_nothing(tmp_path, caplog) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("")
    trail = AuditTrail(blocked / "audit")
    for _ in range(3):
        trail.add("t", "", [{"action": "write"}])
    assert [record.message for record in caplog.records].count(
        "the audit log cannot be written: Not a directory"
    ) == 1
    blocked.unlink()
    trail.add("t", "", [{"action": "write"}])
    assert len(lines(blocked / "audit")) == 1


# The command


def run(*args: str, data_dir: Path) -> Any:
    done = command("audit", *args, "--data-dir", str(data_dir), "--json", text=True)
    if done.returncode:
        return json.loads(done.stderr)["error"]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_operator_reads_it_without_a_pipeline(tmp_path: Path) -> None:
    assert run(data_dir=tmp_path)["code"] == "NO_DATA_DIR"
    made = command("key", "create", "--tenant", "acme", "--data-dir", str(tmp_path), "--json")
    key_id = json.loads(made.stdout)["id"]
    command("key", "revoke", key_id, "--data-dir", str(tmp_path))
    trail = AuditTrail(tmp_path / "audit")
    trail.add("other", "k", [{"action": "write", "bank": "b", "fact_id": "f", "result": "OK"}])
    trail.add("other", "k", [{"action": "erase", "bank": "b", "fact_ids": ["f", "g"]}])
    everything = run(data_dir=tmp_path)
    assert [entry["action"] for entry in everything] == [
        "create key", "revoke key", "write", "erase",
    ]  # fmt: skip
    assert {entry["key"] for entry in everything[:2]} == {"operator"}
    assert {entry["key_id"] for entry in everything[:2]} == {key_id}
    assert [entry["action"] for entry in run("--limit", "1", data_dir=tmp_path)] == ["erase"]
    assert run("--since", "2999-01-01T00:00:00Z", "--key", "k", data_dir=tmp_path) == []
    table = command("audit", "--since", "1h", "--data-dir", str(tmp_path), text=True)
    assert "create key" in table.stdout and f"key_id {key_id}" in table.stdout


@pytest.mark.parametrize("since", ["yesterday", "0001-01-01T00:00:00+14:00", "999999999999d"])
def test_what_is_no_time_of_this_calendar_is_a_usage_error(tmp_path, since: str) -> None:
    done = command("audit", "--since", since, "--data-dir", str(tmp_path), text=True)
    assert done.returncode == 2 and "is no time" in done.stderr


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ({}, [0, 1, 2]),
        ({"tenant": "acme"}, [0, 1]),
        ({"fact_id": "f"}, [0, 2]),
        ({"fact_id": "g"}, [2]),
        ({"action": "fork", "bank": "b"}, [1]),
        ({"key": "k2", "since": "2026-01-03"}, [2]),
        ({"since": "2026-01-04"}, []),
    ],
)
def test_lines_are_chosen_by_what_they_are_about(wanted: dict, numbers: list[int]) -> None:
    entries = [
        {"tenant": "acme", "key": "k1", "action": "write", "bank": "b", "fact_id": "f"},
        {"tenant": "acme", "key": "k2", "action": "fork", "bank": "b"},
        {"tenant": "zeta", "key": "k2", "action": "erase", "bank": "c", "fact_ids": ["f", "g"]},
    ]
    dated = [
        {**entry, "time": f"2026-01-0{number + 1}T00:00:00.000Z", "number": number}
        for number, entry in enumerate(entries)
    ]
    assert [entry["number"] for entry in chosen(dated, wanted)] == numbers
