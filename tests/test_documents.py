"""Documents through the gateway and the command line: real services, the shipped model."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import larimar
from larimar.cli import app
from larimar.errors import FailedPrecondition, InvalidArgument, NotFound
from larimar.local_documents import ingest as ingest_here
from larimar.passages import passage_id, split_passages
from larimar.v1 import common_pb2 as common
from larimar.v1 import larimar_pb2 as pb
from services.gateway.recall import DREAM_PROMPT, MAX_DREAMS, MAX_INGEST_CHARS
from tests.awaited import Awaited
from tests.gateway_calls import PROMPT, ask, digest, events, facts, forget, write
from tests.in_process import ServedPipeline, Weights, new_bank_name

SENTENCES = [
    f"The {ordinal} bridge over the Marn was built by {builder} in the year {year}."
    for ordinal, builder, year in (
        ("first", "Odd Sten", 1702),
        ("second", "Ana Bree", 1744),
        ("third", "Tom Varr", 1791),
        ("fourth", "Lis Orm", 1803),
        ("fifth", "Per Dahl", 1835),
        ("sixth", "Eva Kind", 1868),
        ("seventh", "Jon Hale", 1880),
        ("eighth", "Mia Rook", 1912),
        ("ninth", "Ole Berg", 1934),
        ("tenth", "Kaj Lund", 1955),
    )
]
TEXT = " ".join(SENTENCES)
WORDS = 15
"""Most words of a passage here: one sentence each."""
SAMPLING = {"max_tokens": 4}


async def ingest(gateway, bank: str, text: str = TEXT, offset: int = 0, document: str = "bridges"):
    return await gateway.Ingest(
        pb.IngestRequest(
            bank=bank, document=document, text=text, offset=offset, passage_words=WORDS
        )
    )


async def recall(gateway, bank: str, prompt: str, **more) -> pb.RecallResponse:
    return await gateway.Recall(
        pb.RecallRequest(**{"bank": bank, "prompt": prompt, "sampling": SAMPLING} | more)
    )


async def texts_of(gateway, bank: str) -> dict[str, str]:
    return {fact.fact_id: fact.prompt for fact in (await facts(gateway, bank)).facts}


def places(text: str, document: str = "bridges") -> dict[str, str]:
    return {passage_id(document, one.offset): one.text for one in split_passages(text, WORDS)}


# Ingest


async def test_a_document_becomes_passages_with_their_place(gateway, bank: str) -> None:
    done = await ingest(gateway, bank)
    assert (done.passages, done.duplicates, done.version) == (10, 0, 10)
    assert (done.bank, done.document) == (bank, "bridges")
    assert await texts_of(gateway, bank) == places(TEXT)
    assert {fact.answer for fact in (await facts(gateway, bank)).facts} == {""}


async def test_the_same_text_again_changes_nothing(gateway, bank: str) -> None:
    before = await ingest(gateway, bank)
    was = await digest(gateway, bank)
    again = await ingest(gateway, bank)
    assert (again.passages, again.duplicates, again.version) == (10, 10, before.version)
    assert await digest(gateway, bank) == was


async def test_another_text_takes_the_place_of_the_old_one_and_back(gateway, bank: str) -> None:
    await ingest(gateway, bank)
    first = await digest(gateway, bank)
    other = TEXT.replace("Tom Varr", "Rut Moss").replace(SENTENCES[-1], "")
    changed = await ingest(gateway, bank, other)
    assert (changed.passages, changed.duplicates) == (9, 8)
    assert await texts_of(gateway, bank) == places(other) | {
        passage_id("bridges", TEXT.index(SENTENCES[-1])): SENTENCES[-1]
    }
    await ingest(gateway, bank, "", offset=len(other))  # the document ends here
    assert await texts_of(gateway, bank) == places(other)
    for _ in range(2):  # texts that were there before have events in the log already
        back = await ingest(gateway, bank)
        assert (back.passages, back.duplicates) == (10, 8)
        assert (await digest(gateway, bank)).digest == first.digest
        await ingest(gateway, bank, other)
        await ingest(gateway, bank, "", offset=len(other))
        assert await texts_of(gateway, bank) == places(other)


async def test_a_forgotten_passage_comes_back_with_its_text(gateway, bank: str) -> None:
    await ingest(gateway, bank)
    gone = passage_id("bridges", TEXT.index(SENTENCES[3]))
    await forget(gateway, bank, gone)
    assert gone not in await texts_of(gateway, bank)
    back = await ingest(gateway, bank)
    assert (back.passages, back.duplicates) == (10, 9)
    assert await texts_of(gateway, bank) == places(TEXT)


async def test_passages_that_moved_leave_nothing_at_their_old_place(gateway, bank: str) -> None:
    await ingest(gateway, bank)
    await ingest(gateway, bank, "A new beginning stands here. " + TEXT)
    texts = await texts_of(gateway, bank)
    assert texts == places("A new beginning stands here. " + TEXT)


async def test_a_document_in_pieces_is_the_document(gateway, bank: str) -> None:
    cut = TEXT.index(SENTENCES[5])
    await ingest(gateway, bank, TEXT[:cut])
    await ingest(gateway, bank, TEXT[cut:], offset=cut)
    whole = await digest(gateway, bank)
    assert (await ingest(gateway, bank)).duplicates == 10
    assert await digest(gateway, bank) == whole


async def test_documents_of_a_bank_leave_each_other_alone(gateway, bank: str) -> None:
    await write(gateway, bank, PROMPT, "Tarsin", fact_id="bridges")
    for document in ("bridges", "bridges.2", "a"):
        await ingest(gateway, bank, TEXT, document=document)
    await ingest(gateway, bank, "", document="bridges")
    assert await texts_of(gateway, bank) == (
        {"bridges": PROMPT} | places(TEXT, "bridges.2") | places(TEXT, "a")
    )


async def test_a_passage_past_the_encoder_is_cut_in_two(gateway, bank: str, weights) -> None:
    text = "Before it. " + " ".join(f"xq{n}zw" for n in range(60)) + " Behind it."
    request = pb.IngestRequest(bank=bank, document="long", text=text, passage_words=500)
    done = await gateway.Ingest(request)
    found = sorted((await texts_of(gateway, bank)).items())
    assert done.passages == len(found) > 1
    assert " ".join(part for _, part in found) == text
    for fact_id, part in found:
        offset = int(fact_id.split("#")[1])
        assert text[offset : offset + len(part)] == part
        assert len(weights.encoder.tokenizer(part)["input_ids"]) <= weights.encoder.max_text_tokens
    again = await gateway.Ingest(request)
    assert (again.passages, again.duplicates) == (len(found), len(found))


INVISIBLE = f"{SENTENCES[0]}\n\n\u200b\n\n\uf0b7 Introduction\n\n\ufeff\u00ad\n\n{SENTENCES[1]}"
"""As a PDF's text may be: two lines without a token, and a bullet that has none."""


async def test_lines_without_tokens_are_left_out_of_a_document(gateway, bank: str) -> None:
    await ingest(gateway, bank)
    done = await ingest(gateway, bank, INVISIBLE)
    found = list((await texts_of(gateway, bank)).values())
    assert found == [SENTENCES[0], "\uf0b7 Introduction", SENTENCES[1], *SENTENCES[3:]]
    assert (done.passages, done.duplicates) == (3, 1)
    again = await ingest(gateway, bank, INVISIBLE)
    assert (again.passages, again.duplicates, again.version) == (3, 3, done.version)
    nothing = await ingest(gateway, bank, "\u200b" * len(INVISIBLE))
    assert nothing.passages == 0
    assert list((await texts_of(gateway, bank)).values()) == SENTENCES[3:]


def test_in_process_they_are_left_out_too(weights: Weights) -> None:
    model = larimar.load(weights.folder.path)
    done = ingest_here(model, INVISIBLE, "bridges", WORDS)
    assert done.passages == 3
    assert [fact.prompt for fact in model.facts()] == [
        SENTENCES[0],
        "\uf0b7 Introduction",
        SENTENCES[1],
    ]
    assert ingest_here(model, INVISIBLE, "bridges", WORDS).duplicates == 3
    with pytest.raises(InvalidArgument):
        ingest_here(model, "\u200b\n\n\ufeff", "bridges", WORDS)


async def test_a_passage_never_answers_an_ordinary_question(gateway, bank: str) -> None:
    plain, _ = await ask(gateway, bank, SENTENCES[0])
    await ingest(gateway, bank)
    text, last = await ask(gateway, bank, SENTENCES[0])
    assert text == plain
    assert not last.provenance.in_scope and last.provenance.scope_score <= 0


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"document": ""}, "BAD_DOCUMENT"),
        ({"document": "a b"}, "BAD_DOCUMENT"),
        ({"offset": -1}, "BAD_OFFSET"),
        ({"offset": 10**12 - 5}, "BAD_OFFSET"),
        ({"passage_words": -1}, "BAD_PASSAGE_WORDS"),
        ({"text": "a" * (MAX_INGEST_CHARS + 1)}, "TEXT_TOO_LONG"),
    ],
)
async def test_a_bad_ingest_is_refused(gateway, bank: str, wrong: dict, reason: str) -> None:
    given = {"bank": bank, "document": "bridges", "text": TEXT} | wrong
    with pytest.raises(InvalidArgument) as refused:
        await gateway.Ingest(pb.IngestRequest(**given))
    assert refused.value.reason == reason
    assert not (await facts(gateway, bank)).facts


async def test_documents_need_a_slots_bank_that_is_there(gateway) -> None:
    name = new_bank_name()
    with pytest.raises(NotFound):
        await ingest(gateway, name)
    await gateway.CreateBank(
        pb.CreateBankRequest(bank=name, addressing=common.ADDRESSING_PINV, slots=8)
    )
    with pytest.raises(FailedPrecondition) as refused:
        await ingest(gateway, name)
    assert refused.value.reason == "NOT_A_SLOTS_BANK"


# Recall


async def test_recall_names_the_passages_that_it_rests_on(gateway, bank: str) -> None:
    await ingest(gateway, bank)
    for number in (0, 4, 9):
        reply = await recall(gateway, bank, SENTENCES[number])
        best = reply.passages[0]
        assert best.text == SENTENCES[number]
        assert (best.document, best.offset) == ("bridges", TEXT.index(SENTENCES[number]))
        assert best.length == len(SENTENCES[number]) and best.weight > 0.99
        assert (reply.levels, reply.version, reply.bank) == (1, 10, bank)
        weights = [one.weight for one in reply.passages]
        assert weights == sorted(weights, reverse=True)
        assert sum(weights) == pytest.approx(1.0, abs=1e-6)
    assert reply == await recall(gateway, bank, SENTENCES[9])
    begun = await recall(gateway, bank, "The first bridge over the Marn was built by")
    assert begun.text and not begun.text[0].isspace()


async def test_recall_reads_levels_of_a_long_document(gateway, bank: str) -> None:
    text = " ".join(f"In the year {1700 + n} house number {n} was built." for n in range(40))
    await ingest(gateway, bank, text)
    reply = await recall(gateway, bank, "In the year 1723 house number 23 was built.")
    assert reply.levels == 2
    assert reply.passages[0].text == "In the year 1723 house number 23 was built."


async def test_recall_reads_one_document_or_all_facts(gateway, bank: str) -> None:
    await ingest(gateway, bank)
    await ingest(
        gateway, bank, "Wheat is sown in March. Rye is sown in September.", document="farm"
    )
    await write(gateway, bank, PROMPT, "Tarsin")
    only = await recall(gateway, bank, SENTENCES[2], document="farm")
    assert {one.document for one in only.passages} == {"farm"}
    assert (await recall(gateway, bank, SENTENCES[2])).passages[0].document == "bridges"
    other = (await recall(gateway, bank, PROMPT)).passages[0]
    assert (other.document, other.text) == ("", f"{PROMPT} Tarsin")
    with pytest.raises(FailedPrecondition):
        await recall(gateway, bank, SENTENCES[2], document="nothing")


async def test_recall_reads_the_past(gateway, bank: str) -> None:
    then = (await ingest(gateway, bank)).version
    new = SENTENCES[2].replace("Tom Varr", "Rut Moss")
    await ingest(gateway, bank, TEXT.replace(SENTENCES[2], new))
    old = await recall(gateway, bank, SENTENCES[2], at_version=then)
    assert (old.version, old.passages[0].text) == (then, SENTENCES[2])
    now = await recall(gateway, bank, new)
    assert (now.version, now.passages[0].text) == (then + 1, new)


async def test_recall_needs_a_prompt_and_something_to_read(gateway, bank: str) -> None:
    with pytest.raises(InvalidArgument):
        await recall(gateway, bank, " ")
    with pytest.raises(InvalidArgument):
        await recall(gateway, bank, PROMPT, document="a b")
    with pytest.raises(FailedPrecondition):
        await recall(gateway, bank, PROMPT)


# Dream


async def dream(gateway, bank: str, **more) -> pb.DreamResponse:
    return await gateway.Dream(pb.DreamRequest(bank=bank, sampling=SAMPLING, **more))


async def test_dreams_are_as_many_as_asked_and_belong_to_their_seed(gateway, bank: str) -> None:
    await ingest(gateway, bank)
    reply = await dream(gateway, bank, count=3, seed=1)
    assert (len(reply.texts), reply.version, reply.bank) == (3, 10, bank)
    assert all(text.startswith(DREAM_PROMPT) and text != DREAM_PROMPT for text in reply.texts)
    assert reply == await dream(gateway, bank, count=3, seed=1)
    assert reply.texts != (await dream(gateway, bank, count=3, seed=2)).texts
    begun = await dream(gateway, bank, count=9, seed=1, prompt="The bridge")
    assert all(text.startswith("The bridge") for text in begun.texts) and len(begun.texts) == 9


async def test_dreams_need_facts_and_a_bounded_count(gateway, bank: str) -> None:
    with pytest.raises(FailedPrecondition):
        await dream(gateway, bank)
    with pytest.raises(InvalidArgument):
        await dream(gateway, bank, count=MAX_DREAMS + 1)
    with pytest.raises(InvalidArgument):
        await dream(gateway, bank, prompt=" ")


# The clients and the command line


@pytest.fixture(scope="module")
def served(weights: Weights):
    with ServedPipeline(weights, "objects") as served:
        yield served


@pytest.fixture(params=["blocking", "awaited"])
def client(request, served: ServedPipeline):
    client = larimar.connect(served.target)
    if request.param == "awaited":
        client.close()
        client = Awaited(served.target)
    yield client
    client.close()


def test_both_clients_send_long_documents_in_pieces(client, monkeypatch) -> None:
    monkeypatch.setattr("larimar.messages.PIECE_CHARS", 200)
    bank = new_bank_name()
    client.create_bank(bank)
    told = list(client.ingest_pieces(TEXT, "bridges", bank=bank, passage_words=WORDS))
    assert len(told) > 3
    assert [one.characters for one in told] == sorted(one.characters for one in told)
    assert (told[-1].characters, told[-1].passages, told[-1].duplicates) == (len(TEXT), 10, 0)
    shorter = TEXT[: TEXT.index(SENTENCES[4])]
    done = client.ingest(shorter, "bridges", bank=bank, passage_words=WORDS)
    assert (done.passages, done.duplicates, done.document) == (4, 4, "bridges")
    assert {fact.fact_id: fact.prompt for fact in client.facts(bank)} == places(shorter)
    reply = client.recall(SENTENCES[1], bank=bank, max_tokens=3)
    assert reply.passages[0].text == SENTENCES[1] and reply.bank == bank
    dreams = client.dream(2, bank=bank, seed=3, max_tokens=3)
    assert len(dreams.texts) == 2
    with pytest.raises(InvalidArgument):
        client.ingest(" \n", "bridges", bank=bank)
    client.delete_bank(bank)


@pytest.fixture
def run(served: ServedPipeline):
    def invoke(*args: str, stdin: bytes | None = None):
        return CliRunner().invoke(
            app, list(args), input=stdin, env={"LARIMAR_TARGET": served.target}
        )

    return invoke


@pytest.fixture
def shelf(served: ServedPipeline):
    """A bank for documents."""
    with larimar.connect(served.target) as client:
        bank = new_bank_name()
        client.create_bank(bank)
        yield bank
        client.delete_bank(bank)


def test_a_file_is_ingested_and_recalled(run, shelf: str, tmp_path) -> None:
    file = tmp_path / "old bridges.txt"
    file.write_text(TEXT, encoding="utf-8")
    done = run("ingest", str(file), "--bank", shelf, "--passage-words", str(WORDS))
    assert done.exit_code == 0, done.stderr
    assert "document old_bridges.txt, 10 passages (0 were there already)" in done.stdout
    again = run("ingest", str(file), "--bank", shelf, "--passage-words", str(WORDS), "--json")
    assert json.loads(again.stdout) == {
        "bank": shelf,
        "document": "old_bridges.txt",
        "passages": 10,
        "duplicates": 10,
        "characters": len(TEXT),
        "version": 10,
    }
    asked = run("recall", SENTENCES[6], "--bank", shelf, "--max-tokens", "3", "--json")
    assert asked.exit_code == 0, asked.stderr
    reply = json.loads(asked.stdout)
    assert reply["passages"][0]["text"] == SENTENCES[6]
    assert reply["passages"][0]["document"] == "old_bridges.txt"
    shown = run("recall", SENTENCES[6], "--bank", shelf, "--document", "old_bridges.txt")
    assert "Jon Hale" in shown.stdout and "1 levels; bank" in shown.stderr


def test_dreams_are_printed_a_line_each(run, shelf: str) -> None:
    refused = run("dream", "--bank", shelf)
    assert refused.exit_code == 1 and "empty" in refused.stderr
    run("ingest", "-", "--document", "bridges", "--bank", shelf, stdin=TEXT.encode())
    shown = run("dream", "--bank", shelf, "--count", "3", "--seed", "4", "--max-tokens", "3")
    assert shown.exit_code == 0, shown.stderr
    assert len(shown.stdout.splitlines()) == 3
    told = run(
        "dream", "--bank", shelf, "--count", "3", "--seed", "4", "--max-tokens", "3", "--json"
    )
    texts = json.loads(told.stdout)["texts"]
    assert [" ".join(text.split()) for text in texts] == shown.stdout.splitlines()


def test_a_bad_file_is_refused_before_anything_is_sent(run, shelf: str, tmp_path) -> None:
    missing = run("ingest", str(tmp_path / "none.txt"), "--bank", shelf)
    assert missing.exit_code == 2 and "there is no file" in missing.stderr
    latin = tmp_path / "latin.txt"
    latin.write_bytes("good\nna\u00efve".encode("latin-1"))
    refused = run("ingest", str(latin), "--bank", shelf, "--json")
    assert refused.exit_code == 1
    assert json.loads(refused.stderr)["error"]["code"] == "NOT_UTF8"
    assert ":2:" in refused.stderr
    empty = run("ingest", "-", "--document", "x", "--bank", shelf, "--json", stdin=b" \n")
    assert json.loads(empty.stderr)["error"]["code"] == "EMPTY_TEXT"


async def test_event_ids_name_place_and_text(gateway, bank: str) -> None:
    await ingest(gateway, bank, SENTENCES[0])
    (event,) = (await events(gateway, bank)).events
    place, _, digest_of_text = event.event_id.rpartition(":")
    assert place == passage_id("bridges", 0) == event.fact_id
    assert len(digest_of_text) == 24
