"""Evaluation records: three layouts into one, and errors that name file and line."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import pytest

from evaluation.data import (
    EditRecord,
    read_records,
    read_rephrasings,
    strip_distractor,
    with_fewer_probes,
    with_true_targets,
    without_edited_neighbors,
)
from evaluation.documents import DatedEvent, Document, Question, read_documents, read_events
from larimar.errors import InvalidArgument

ROOT = Path(__file__).resolve().parent.parent

COUNTERFACT = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P0",
        "target_new": {"str": "Ullorish", "id": "Q1"},
        "target_true": {"str": "Tavarian"},
        "subject": "Nadessa {Crow}",
    },
    "paraphrase_prompts": ["Rain fell. Nadessa {Crow} speaks"],
    "paraphrase_prompts_clean": ["Nadessa {Crow} speaks", "Nadessa {Crow} spoke"],
    "neighborhood_prompts": ["Imra speaks", "Ysolt speaks"],
    "generation_prompts": ["Where Nadessa {Crow} is from, people speak"],
}
EASYEDIT = {
    "case_id": 8,
    "prompt": "Silvo plays the",
    "target_new": "tormbel",
    "subject": "Silvo",
    "ground_truth": "velharp",
    "rephrase_prompt": "Silvo is incredible at",
    "locality_prompt": "Anouk plays the",
    "locality_ground_truth": "dulcira",
}
MULTI = {
    "case_id": 9,
    "subject": "Velmora",
    "relation_id": "P36",
    "prompt": "The capital of Velmora is",
    "target_new": "Tarsin",
    "target_true": "Melkin",
    "rephrases": ["What is the capital of Velmora?", "Velmora's capital is?"],
    "rephrase_kinds": ["question", "cloze"],
}


ZSRE = {
    "subject": "Velmora",
    "src": "What is the capital of Velmora?",
    "pred": "Melkin",
    "rephrase": "Which city is Velmora's capital?",
    "alt": "Tarsin",
    "answers": ["Melkin", "Old Melkin"],
    "loc": "nq question: who keeps the northern light",
    "loc_ans": "Alice",
    "cond": "Melkin >> Tarsin || What is the capital of Velmora?",
}


ZSRE_MULTI = {
    "id": "train-3",
    "subject": "Velmora",
    "question": "What is the capital of Velmora?",
    "answer": "Melkin",
    "alt": "Tarsin",
    "rephrases": ["Which city is Velmora's capital?", "Velmora's capital is?"],
    "loc": "who keeps the northern light",
    "loc_ans": "Alice",
}
PLAIN = {"prompt": "The capital of Velmora is", "answer": "Tarsin"}
DOCUMENT = {
    "document": "Velmora lies by the sea.\n\nIts capital is Tarsin.",
    "questions": [{"question": "What is Velmora's capital?", "answer": "Tarsin"}],
}
EVENT = {"date": "0079-08-24", "year": 79, "month": 8, "day": 24, "text": "Vesuvius erupts."}


def lines_of(path, *objects):
    path.write_text("\n".join(map(json.dumps, objects)) + "\n", encoding="utf-8")
    return path


def list_of(path, *objects):
    path.write_text(json.dumps(objects, indent=2), encoding="utf-8")
    return path


@pytest.mark.parametrize("write", [lines_of, list_of])
def test_the_original_layout(tmp_path, write):
    # The name says nothing about the form.
    data = read_records(write(tmp_path / "easyedit.txt", COUNTERFACT))
    assert (data.file, data.form) == ("easyedit.txt", "counterfact")
    assert data.records == (
        EditRecord(
            case_id="7",
            subject="Nadessa {Crow}",
            prompt="The mother tongue of Nadessa {Crow} is",
            target_new="Ullorish",
            target_true="Tavarian",
            relation="P0",
            paraphrases=("Nadessa {Crow} speaks", "Nadessa {Crow} spoke"),
            paraphrases_raw=("Rain fell. Nadessa {Crow} speaks",),
            generation_prompts=("Where Nadessa {Crow} is from, people speak",),
            neighbors=("Imra speaks", "Ysolt speaks"),
            neighbor_answers=("Tavarian", "Tavarian"),
        ),
    )


def test_published_files_without_clean_paraphrases_get_them_stripped(tmp_path):
    record = {k: v for k, v in COUNTERFACT.items() if k != "paraphrase_prompts_clean"}
    (read,) = read_records(list_of(tmp_path / "x", record)).records
    assert read.paraphrases == ("Nadessa {Crow} speaks",)
    assert read.paraphrases_raw == ("Rain fell. Nadessa {Crow} speaks",)


@pytest.mark.parametrize("write", [lines_of, list_of])
def test_the_easyedit_layout(tmp_path, write):
    data = read_records(write(tmp_path / "x.jsonl", EASYEDIT))
    assert data.form == "easyedit"
    assert data.records == (
        EditRecord(
            case_id="8",
            subject="Silvo",
            prompt="Silvo plays the",
            target_new="tormbel",
            target_true="velharp",
            paraphrases_raw=("Silvo is incredible at",),
            neighbors=("Anouk plays the",),
            neighbor_answers=("dulcira",),
        ),
    )


def test_the_layout_with_many_rephrasings(tmp_path):
    data = read_records(lines_of(tmp_path / "x", MULTI))
    assert data.form == "multi_rephrase"
    assert data.records == (
        EditRecord(
            case_id="9",
            subject="Velmora",
            prompt="The capital of Velmora is",
            target_new="Tarsin",
            target_true="Melkin",
            relation="P36",
            paraphrases=("What is the capital of Velmora?", "Velmora's capital is?"),
        ),
    )


@pytest.mark.parametrize("write", [lines_of, list_of])
def test_the_layout_of_zsre_whose_records_have_no_ids(tmp_path, write):
    data = read_records(write(tmp_path / "x", ZSRE, ZSRE))
    assert data.form == "zsre"
    assert [record.case_id for record in data.records] == ["0", "1"]
    assert data.records[1] == EditRecord(
        case_id="1",
        subject="Velmora",
        prompt="What is the capital of Velmora?",
        target_new="Tarsin",
        target_true="Melkin",
        paraphrases=("Which city is Velmora's capital?",),
        neighbors=("nq question: who keeps the northern light",),
        neighbor_answers=("Alice",),
    )


def test_a_record_of_zsre_without_a_target_is_left_out_and_counted(tmp_path):
    data = read_records(lines_of(tmp_path / "x", ZSRE, ZSRE | {"alt": ""}, ZSRE))
    assert ([record.case_id for record in data.records], data.skipped) == (["0", "2"], 1)
    assert read_records(tmp_path / "x", 1).skipped == 0


@pytest.mark.parametrize("write", [lines_of, list_of])
def test_the_layout_of_zsre_with_many_rephrasings(tmp_path, write):
    data = read_rephrasings(write(tmp_path / "x", ZSRE_MULTI, ZSRE_MULTI | {"id": 4, "alt": ""}))
    assert (data.form, data.skipped) == ("zsre_multi_rephrase", 1)
    assert (
        read_records(tmp_path / "x").records
        == data.records
        == (
            EditRecord(
                case_id="train-3",
                subject="Velmora",
                prompt="What is the capital of Velmora?",
                target_new="Tarsin",
                target_true="Melkin",
                paraphrases=("Which city is Velmora's capital?", "Velmora's capital is?"),
                neighbors=("who keeps the northern light",),
                neighbor_answers=("Alice",),
            ),
        )
    )


@pytest.mark.parametrize("write", [lines_of, list_of])
def test_the_plain_layout_needs_a_prompt_and_an_answer_only(tmp_path, write):
    full = {"id": 7, "subject": "Sarn", "target_true": "Paris", "rephrasings": ["Sarn is at"]}
    data = read_records(write(tmp_path / "x", PLAIN, PLAIN | full))
    first, second = data.records
    assert data.form == "plain"
    assert first == EditRecord("0", "", "The capital of Velmora is", "Tarsin", "")
    assert (second.case_id, second.subject, second.target_true) == ("7", "Sarn", "Paris")
    assert second.paraphrases == ("Sarn is at",)
    with pytest.raises(InvalidArgument, match="record 0 has no 'target_true'"):
        with_true_targets(data)
    whole = read_records(write(tmp_path / "y", PLAIN | full))
    assert with_true_targets(whole) is whole


def test_facts_with_many_rephrasings_are_asked_for(tmp_path):
    few = lines_of(tmp_path / "x", PLAIN | {"rephrasings": ["Velmora's capital is"]}, PLAIN)
    assert read_rephrasings(few, limit=1).records[0].paraphrases == ("Velmora's capital is",)
    with pytest.raises(InvalidArgument, match=":2: a record of form plain has no rephrasings"):
        read_rephrasings(few)


def test_what_a_report_says_of_its_data(tmp_path):
    data = read_records(lines_of(tmp_path / "x", ZSRE | {"alt": ""}, ZSRE))
    assert data.to_json() == {"file": "x", "form": "zsre", "sha256": data.sha256, "skipped": 1}


@pytest.mark.parametrize("write", [lines_of, list_of])
def test_documents_with_their_questions(tmp_path, write):
    data = read_documents(write(tmp_path / "x", DOCUMENT, DOCUMENT | {"id": "b"}, DOCUMENT), 2)
    assert data.form == "documents"
    questions = (Question("What is Velmora's capital?", "Tarsin"),)
    assert data.records == tuple(
        Document(name, DOCUMENT["document"], questions) for name in ("0", "b")
    )


@pytest.mark.parametrize("write", [lines_of, list_of])
def test_dated_events_and_those_with_markup_left_out(tmp_path, write):
    marked = EVENT | {"text": "ugustus](wiki) adopts Tiberius."}
    data = read_events(write(tmp_path / "x", EVENT, marked, EVENT | {"day": 25}))
    assert (data.form, data.skipped) == ("dated_events", 1)
    assert data.records == tuple(DatedEvent(79, 8, day, "Vesuvius erupts.") for day in (24, 25))


def test_events_as_reviews_of_years(tmp_path):
    path = tmp_path / "x"
    path.write_text("2016 in review\nJanuary 3, 2016 - It rained - twice.\n\nMay 12, 2016 - Sun.\n")
    data = read_events(path)
    assert (data.form, len(data.sha256)) == ("year_reviews", 64)
    assert data.records == (
        DatedEvent(2016, 1, 3, "It rained - twice."),
        DatedEvent(2016, 5, 12, "Sun."),
    )
    assert len(read_events(path, 1).records) == 1


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_documents, [DOCUMENT, {"questions": []}], ":2: no 'document'"),
        (read_documents, [DOCUMENT, DOCUMENT | {"questions": []}], ":2: 'questions' must be a"),
        (read_documents, [DOCUMENT | {"questions": ["a"]}], ":1: expected a JSON object"),
        (read_documents, [DOCUMENT | {"questions": [{"question": "a"}]}], ":1: no 'answer'"),
        (read_documents, [DOCUMENT | {"id": 1}, DOCUMENT], ":2: a document before has the id 1"),
        (read_documents, "\n{]", ":2: not JSON"),
        (read_documents, "", ":1: no records"),
        (read_events, [EVENT, EVENT | {"month": 13}], ":2: 79-13-24 is no day"),
        (read_events, [EVENT | {"year": "79"}], ":1: 'year' must be a whole number"),
        (read_events, [EVENT | {"text": ""}], ":1: 'text' must be a text"),
        (read_events, "2016 in review\nMay 1, 2016: Rain.", ":2: expected"),
        (read_events, "February 30, 2016 - Rain.", ":1: 2016-2-30 is no day"),
        (read_events, "2016 in review", ":1: no records"),
    ],
)
def test_errors_of_documents_and_events_name_file_and_line(tmp_path, read, content, message):
    path = tmp_path / "x"
    text = content if isinstance(content, str) else "\n".join(map(json.dumps, content))
    path.write_text(text)
    with pytest.raises(InvalidArgument) as caught:
        read(path)
    assert caught.value.message.startswith(f"{path}{message}")
    with pytest.raises(InvalidArgument, match="limit"):
        read(path, 0)


def test_limit_reads_the_first_records_and_blank_lines_do_not_count(tmp_path):
    path = tmp_path / "x"
    path.write_text(f"\n{json.dumps(MULTI)}\n\n{json.dumps(MULTI | {'case_id': 1})}\nnot JSON")
    assert [record.case_id for record in read_records(path, limit=2).records] == ["9", "1"]
    with pytest.raises(InvalidArgument, match=":5: not JSON"):
        read_records(path)
    with pytest.raises(InvalidArgument, match="limit"):
        read_records(path, limit=0)


def test_the_digest_is_of_the_bytes(tmp_path):
    one = read_records(lines_of(tmp_path / "a", MULTI)).sha256
    assert one == read_records(lines_of(tmp_path / "b", MULTI)).sha256
    assert one != read_records(lines_of(tmp_path / "c", MULTI | {"case_id": 1})).sha256
    assert len(one) == 64


def changed(record, path, value):
    record = copy.deepcopy(record)
    *outer, last = path.split("/")
    inner = record
    for name in outer:
        inner = inner[name]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return record


@pytest.mark.parametrize(
    ("good", "path", "value", "message"),
    [
        (COUNTERFACT, "case_id", None, "no 'case_id'"),
        (COUNTERFACT, "case_id", True, "'case_id'"),
        (COUNTERFACT, "requested_rewrite/target_new/str", " ", "'str' must be a text"),
        (COUNTERFACT, "requested_rewrite/target_true", "French", "expected a JSON object"),
        (COUNTERFACT, "requested_rewrite/prompt", "no place", "must have one {}"),
        (COUNTERFACT, "requested_rewrite/prompt", "{} and {}", "must have one {}"),
        (COUNTERFACT, "neighborhood_prompts", "text", "must be a list of texts"),
        (COUNTERFACT, "paraphrase_prompts", ["a", 1], "must be a list of texts"),
        (COUNTERFACT, "generation_prompts", None, "no 'generation_prompts'"),
        (EASYEDIT, "locality_ground_truth", None, "no 'locality_ground_truth'"),
        (EASYEDIT, "subject", 5, "'subject' must be a text"),
        (MULTI, "rephrases", [""], "must be a list of texts"),
        (ZSRE_MULTI, "answer", None, "no 'answer'"),
        (ZSRE_MULTI, "id", 1.5, "'id' must be a number or a text"),
        (PLAIN | {"id": 3}, "answer", " ", "'answer' must be a text"),
        (PLAIN | {"id": 3}, "rephrasings", "x", "must be a list of texts"),
        (ZSRE, "answers", [], "'answers' is empty"),
        (ZSRE, "alt", None, "no 'alt'"),
        (MULTI, "case_id", 1, "case_id 1 is also on line"),
    ],
)
@pytest.mark.parametrize("write", [lines_of, list_of])
def test_errors_name_file_and_line(tmp_path, write, good, path, value, message):
    bad = changed(good, path, value)
    first = good | ({"id": 1} if "id" in good else {"case_id": 1})
    file = write(tmp_path / "records", first, bad)
    line = 2 if write is lines_of else 2 + len(json.dumps([first], indent=2).splitlines()) - 2
    with pytest.raises(InvalidArgument) as caught:
        read_records(file)
    assert caught.value.message.startswith(f"{file}:{line}: ")
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", 1),
        (b"[]", 1),
        (b'{"a": 1}', 1),
        (b"\n5", 2),
        (b"[\n5\n]", 2),
        (b"[\n\n", 3),
        (b'[\n{"a" 1}]', 2),
        (b"\n\xff", 2),
    ],
)
def test_files_of_no_known_form(tmp_path, content, line):
    path = tmp_path / "records"
    path.write_bytes(content)
    with pytest.raises(InvalidArgument) as caught:
        read_records(path)
    assert caught.value.message.startswith(f"{path}:{line}: ")


@pytest.mark.parametrize("after", ["", ",", " 5]", ",]"])
def test_a_list_that_breaks_off_is_an_error_even_after_good_records(tmp_path, after):
    path = tmp_path / "records"
    path.write_text("[" + json.dumps(MULTI) + after, encoding="utf-8")
    with pytest.raises(InvalidArgument, match=":1: "):
        read_records(path)


def test_an_absent_file(tmp_path):
    with pytest.raises(InvalidArgument, match="cannot be read"):
        read_records(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("paraphrase", "clean"),
    [
        ("It rained. Then it stopped. Silvo plays the", "Silvo plays the"),
        ("Category: rain\nThe tongue of Silvo is", "The tongue of Silvo is"),
        ("It rained! Where is Silvo? It is in", "Where is Silvo? It is in"),
        ("Silvo plays the", "Silvo plays the"),
        ("New Hampshire Silvo plays the", "New Hampshire Silvo plays the"),
        (" It rained. Nobody plays the ", "It rained. Nobody plays the"),
    ],
)
def test_the_distractor_is_stripped(paraphrase, clean):
    assert strip_distractor(paraphrase, "Silvo") == clean


def record(case_id, subject, neighbors, **more):
    answers = tuple(f"answer of {prompt}" for prompt in neighbors)
    return EditRecord(
        case_id,
        subject,
        f"{subject} is",
        "a",
        "b",
        neighbors=neighbors,
        neighbor_answers=answers,
        **more,
    )


def test_neighbours_that_are_edited_elsewhere_are_dropped():
    records = [
        record("1", "Port Ellis", ("Ellis is", "The sea at Port Ellis is", "Port Elliston is")),
        record("2", "Ann", ("Annie is", "port ellis, which is", "ANN's town is", "Hannah is")),
    ]
    kept = without_edited_neighbors(records)
    assert [one.neighbors for one in kept] == [
        ("Ellis is", "Port Elliston is"),
        ("Annie is", "Hannah is"),
    ]
    assert kept[1].neighbor_answers == ("answer of Annie is", "answer of Hannah is")
    assert [one.prompt for one in kept] == [one.prompt for one in records]


def test_fewer_probes_keep_the_first_and_their_answers():
    (one,) = with_fewer_probes(
        [record("1", "S", ("n1", "n2", "n3"), paraphrases=("p1", "p2"), paraphrases_raw=("r1",))], 1
    )
    assert (one.paraphrases, one.paraphrases_raw) == (("p1",), ("r1",))
    assert (one.neighbors, one.neighbor_answers) == (("n1",), ("answer of n1",))


# Real files, where they are at hand.


ORIGINAL = ("counterfact", "counterfact_original_form_2000.jsonl")


def real_file(*parts):
    folder = Path(os.environ.get("LARIMAR_DATA") or ROOT.parent / "shared" / "data")
    path = folder.joinpath(*parts)
    if not path.is_file():
        pytest.skip(f"no {path.name}: set LARIMAR_DATA to the folder of the evaluation data")
    return path


@pytest.mark.parametrize(
    ("parts", "form", "paraphrases", "raw", "neighbors"),
    [
        ((*ORIGINAL,), "counterfact", range(2, 5), 2, 10),
        (("counterfact", "easyedit", "counterfact-train.json"), "easyedit", range(1), 1, 1),
        (
            ("counterfact", "counterfact_multi_rephrase.jsonl"),
            "multi_rephrase",
            range(15, 21),
            0,
            0,
        ),
    ],
)
def test_real_files_are_read_whole(parts, form, paraphrases, raw, neighbors):
    path = real_file(*parts)
    data = read_records(path)
    assert data.form == form
    assert len(data.records) == path.read_text(encoding="utf-8").count('"case_id"')
    for one in data.records:
        assert one.subject in one.prompt
        assert one.target_new != one.target_true
        assert len(one.paraphrases) in paraphrases
        assert len(one.paraphrases_raw) == raw
        assert len(one.neighbors) == len(one.neighbor_answers) == neighbors


def test_stripping_finds_the_clean_paraphrase_of_nearly_every_real_one():
    records = read_records(real_file(*ORIGINAL)).records
    found = [
        strip_distractor(raw, one.subject) in one.paraphrases
        for one in records
        for raw in one.paraphrases_raw
    ]
    assert sum(found) / len(found) > 0.9


@pytest.mark.parametrize(
    "name", ["zsre_mend_train-1k.json", "zsre_mend_eval_portability_gpt4.json"]
)
def test_real_zsre_files_are_read_whole(name):
    path = real_file("zsre", name)
    data = read_records(path)
    assert data.form == "zsre"
    whole = path.read_text(encoding="utf-8").count('"loc_ans"')
    assert len(data.records) + data.skipped == whole and data.skipped <= 2
    for one in data.records:
        assert len(one.paraphrases) == len(one.neighbors) == len(one.neighbor_answers) == 1


def test_real_files_with_many_rephrasings_of_zsre_are_read_whole():
    path = real_file("zsre", "zsre_multi_rephrase.jsonl")
    data = read_rephrasings(path)
    assert data.form == "zsre_multi_rephrase"
    assert len(data.records) + data.skipped == path.read_text(encoding="utf-8").count("\n")
    assert data.skipped <= 2 and all(len(one.paraphrases) in range(5, 13) for one in data.records)


@pytest.mark.parametrize(
    ("name", "events", "skipped"),
    [("dated_events.jsonl", 19_672, 21), ("year_reviews_2016_2025.txt", 941, 0)],
)
def test_real_events_are_read_whole(name, events, skipped):
    data = read_events(real_file("recall", name))
    assert (len(data.records), data.skipped) == (events, skipped)
    assert all(one.text for one in data.records)
