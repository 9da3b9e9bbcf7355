"""Long documents: what is hidden in them, and how it is found again, here and in a pipeline."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import larimar
from evaluation.__main__ import app
from evaluation.documents import DatedEvent, Document, Question
from evaluation.leakage import leaks
from evaluation.long_readers import Reader, Said, _embeddable, observed
from evaluation.long_texts import Hidden, LongText, long_text
from evaluation.longdocuments import asked_of
from larimar.errors import FailedPrecondition, InvalidArgument
from larimar.local_documents import ingest, recall
from larimar.passages import Passage
from services.settings import DEFAULT_MODEL
from tests.in_process import ServedPipeline

EVENTS = [
    DatedEvent(2000 + place % 20, 1 + place % 12, 1 + place % 28, f"In town number {place} the "
               f"old bridge was closed and {place} people crossed by boat")
    for place in range(60)
]  # fmt: skip
TEXT = (
    "The capital of Velmora is Tarsin. " + "It rained in the hills for days. " * 12 + "\n\n"
    "The mayor of Orlo is Bendik Sund. " + "Trains ran late through the valley. " * 12
)


def words(text):
    return len(text.split())


@pytest.fixture
def model():
    return larimar.load(DEFAULT_MODEL)


def test_a_long_text_has_its_length_and_hides_what_it_says_it_hides():
    made = long_text(EVENTS, 500, words, asked=5, seed=0)
    assert made == long_text(EVENTS, 500, words, asked=5, seed=0)
    assert made != long_text(EVENTS, 500, words, asked=5, seed=1)
    assert words(made.text) == made.tokens and 500 <= made.tokens < 530
    assert len(made.facts) == len(made.events) == 5
    for one in made.facts:
        line = made.text[one.begin : one.end]
        assert line.endswith(f"{one.answer}.") and "\n" not in line
        assert one.question not in made.text and one.answer not in one.question
    for one in made.events:
        assert made.text[one.begin : one.end] == f"{one.question} {one.answer}"
    begins = sorted(one.begin for one in made.facts)
    assert begins[0] < len(made.text) / 3 < 2 * len(made.text) / 3 < begins[-1]
    with pytest.raises(InvalidArgument, match="--lengths"):
        long_text(EVENTS, 10**6, words, asked=5, seed=0)


def test_the_figures_of_a_document_worked_out_by_hand():
    text = LongText(
        "x" * 100,
        7,
        (Hidden("a", "Tarsin", 0, 10), Hidden("b", "Osk", 50, 60)),
        (Hidden("c", "the old bridge", 20, 30),),
    )
    said = {"a": Said("Tarsin, a town", 5, 20), "b": Said("nothing", 60, 70)}
    gone = []
    reader = Reader(
        lambda given: gone.append(given == text.text),
        lambda question: said.get(question, Said("old bridge closed")),
        lambda: gone.append("forgotten"),
    )
    found = observed(reader, text)
    assert found["recall"] == [1.0, 0.0]
    assert found["provenance_hit"] == [1.0, 0.0]  # one overlaps, one only touches
    assert found["event_f1"] == [pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))]
    assert found["event_provenance_hit"] == [None]
    assert len(found["seconds"]) == 3 and gone == [True, "forgotten"]


def test_a_document_in_one_process_is_that_of_a_pipeline(weights, model):
    assert model.folder.model_digest == weights.folder.model_digest
    question = "Velmora's capital city is"
    with ServedPipeline(weights, "objects") as served, larimar.connect(served.target) as client:
        wrote = client.ingest(TEXT, "long", passage_words=20)
        theirs = client.recall(question, document="long", max_tokens=6)
    here = ingest(model, TEXT, "long", 20)
    ours = recall(model, question, document="long", max_tokens=6)
    assert (here.passages, here.characters) == (wrote.passages, wrote.characters)
    assert (ours.text, ours.levels) == (theirs.text, theirs.levels)
    assert [(one.offset, one.text, one.weight) for one in ours.passages] == [
        (one.offset, one.text, one.weight) for one in theirs.passages
    ]
    assert "Velmora" in ours.passages[0].text


def test_a_document_answers_what_is_asked_of_it_in_other_words(model):
    text = long_text(EVENTS, 400, lambda line: len(line.split()), asked=20, seed=1)
    ingest(model, text.text, "long")
    said = [recall(model, one.question, max_tokens=8) for one in text.facts]
    right = [leaks(one.text, fact.answer) for one, fact in zip(said, text.facts, strict=True)]
    assert sum(right) >= 17  # of 20; with a value that is of the whole text 11
    places = [
        (one.passages[0].offset, fact.begin) for one, fact in zip(said, text.facts, strict=True)
    ]
    assert sum(found == begin for found, begin in places) >= 19


def test_the_same_document_again_changes_nothing_and_another_takes_its_place(model):
    first = ingest(model, TEXT, "long", 20)
    again = ingest(model, TEXT, "long", 20)
    assert (again.version, again.duplicates) == (first.version, first.passages)
    ingest(model, "The capital of Velmora is Osk.", "long")
    assert [fact.prompt for fact in model.facts()] == ["The capital of Velmora is Osk."]
    with pytest.raises(InvalidArgument, match="blank"):
        ingest(model, " \n", "long")
    with pytest.raises(FailedPrecondition):
        ingest(model.with_new_memory("pinv"), TEXT, "long")


def test_an_answer_is_placed_where_it_stands_whatever_its_case_and_ligatures():
    text = "\ufb01le \ufb02oor stra\u00dfe " * 20 + "The mayor is Bendik SUND."
    [found] = asked_of(Document("one", text, (Question("who", "bendik sund"),)), 9).facts
    assert text[found.begin : found.end] == "Bendik SUND"


def test_a_passage_that_the_sentence_embedder_cannot_take_whole_is_cut():
    class Short:
        def tokenize(self, text):
            if len(text) > 10:
                raise InvalidArgument("too long", "TEXT_TOO_LONG")

    parts = _embeddable(Short(), Passage(7, "aaaa bbbbbbbbbbbbbbbb cccc"))
    assert all(len(one.text) <= 10 for one in parts)
    assert "".join(one.text for one in parts) == "aaaabbbbbbbbbbbbbbbbcccc"
    assert parts[0].offset == 7 and parts[-1].offset + len(parts[-1].text) == 7 + 26


def test_the_command_reports_each_length_and_reader(tmp_path):
    data = tmp_path / "events.jsonl"
    fields = ("year", "month", "day", "text")
    data.write_text(
        "\n".join(json.dumps({name: getattr(one, name) for name in fields}) for one in EVENTS)
    )
    done = CliRunner().invoke(
        app,
        ["longcontext", "--data", str(data), "--lengths", "200,400", "--asked", "2",
         "--max-tokens", "3", "--out", str(tmp_path / "out"), "--json"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    assert [(row["system"], row["length"]) for row in rows] == [
        (name, length) for name in ("larimar", "base", "rag") for length in (200, 400)
    ]
    assert rows[0]["metrics"]["provenance_hit"]["n"] == 2
    assert rows[2]["metrics"]["provenance_hit"]["value"] is None
    assert all(row["metrics"]["seconds_per_query"]["value"] > 0 for row in rows)
    assert {path.suffix for path in (tmp_path / "out").iterdir()} >= {".json", ".md", ".png"}
    refused = CliRunner().invoke(app, ["longcontext", "--data", str(data), "--lengths", "a"])
    assert refused.exit_code == 1 and "numbers of tokens" in refused.output


def test_documents_with_questions_are_asked_each_by_itself(tmp_path):
    documents = [
        {
            "id": "one",
            "document": TEXT,
            "questions": [
                {"question": "Velmora's capital city is", "answer": "Tarsin"},
                {"question": "The mayor of Orlo is", "answer": "Bendik Sund"},
            ],
        },
        {
            "document": "The capital of Velmora is Oskelund.\n\n" + "It snowed all winter. " * 20,
            "questions": [{"question": "The capital of Velmora is", "answer": "Oskelund"}],
        },
    ]
    data = tmp_path / "documents.jsonl"
    data.write_text("\n".join(map(json.dumps, documents)))
    options = ["longcontext", "--data", str(data), "--out", str(tmp_path / "out"), "--json"]
    ran = CliRunner().invoke(app, options)
    assert ran.exit_code == 0, ran.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["n"] == 3 and report["data"]["form"] == "documents"
    rows = {row["system"]: row["metrics"] for row in report["rows"]}
    assert rows["larimar"]["recall"]["n"] == 3
    assert rows["larimar"]["provenance_hit"]["value"] == 100
    assert rows["base"]["provenance_hit"]["value"] is None
