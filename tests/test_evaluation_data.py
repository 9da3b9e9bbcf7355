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
    strip_distractor,
    with_fewer_probes,
    without_edited_neighbors,
)
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
        (ZSRE, "answers", [], "'answers' is empty"),
        (ZSRE, "alt", None, "no 'alt'"),
        (MULTI, "case_id", 1, "case_id 1 is also on line"),
    ],
)
@pytest.mark.parametrize("write", [lines_of, list_of])
def test_errors_name_file_and_line(tmp_path, write, good, path, value, message):
    bad = changed(good, path, value)
    file = write(tmp_path / "records", good | {"case_id": 1}, bad)
    line = (
        2
        if write is lines_of
        else 2 + len(json.dumps([good | {"case_id": 1}], indent=2).splitlines()) - 2
    )
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
