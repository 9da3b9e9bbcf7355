"""examples/facts.jsonl: made-up facts that read well, differ, and are nobody else's."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from itertools import permutations
from pathlib import Path

import pytest

from examples.notebook import Cell, cells_of, executed, notebook

ROOT = Path(__file__).resolve().parent.parent
FACTS = [
    json.loads(line)
    for line in (ROOT / "examples" / "facts.jsonl").read_text(encoding="utf-8").splitlines()
]
FIELDS = ["id", "prompt", "answer", "relation", "rephrasings", "neighbors"]
_WORD = re.compile(r"\w+(?:['-]\w+)*")


def slug(text):
    return re.sub(r"[^a-z0-9]+", "-", text.casefold().replace("'", "")).strip("-")


def subject_of(fact):
    """What the prompt is about: the words in it whose slug is the id without its relation."""
    wanted = fact["id"].removesuffix("-" + fact["relation"])
    words = list(_WORD.finditer(fact["prompt"]))
    found = {
        re.sub(r"'s$", "", fact["prompt"][first.start() : last.end()])
        for index, first in enumerate(words)
        for last in words[index:]
    }
    (subject,) = (text for text in found if slug(text) == wanted)
    return subject


SUBJECTS = [subject_of(fact) for fact in FACTS]


def neighbor_subject(fact, subject, neighbor):
    """What a neighbour is about: what it has in the place where its fact has the subject."""
    for phrasing in (fact["prompt"], *fact["rephrasings"]):
        before, after = phrasing.split(subject)
        if neighbor.startswith(before) and neighbor.endswith(after):
            return neighbor[len(before) : len(neighbor) - len(after)]
    raise AssertionError(f"{neighbor!r} is no phrasing of {fact['id']}")


NEIGHBOR_SUBJECTS = {
    neighbor_subject(fact, subject, neighbor)
    for fact, subject in zip(FACTS, SUBJECTS, strict=True)
    for neighbor in fact["neighbors"]
}


def texts(fact):
    return [fact["prompt"], *fact["rephrasings"], *fact["neighbors"]]


def mentions(text, name):
    return re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE) is not None


def test_two_hundred_facts_over_many_relations():
    assert len(FACTS) == 200
    relations = Counter(fact["relation"] for fact in FACTS)
    assert len(relations) >= 20
    assert min(relations.values()) >= 4


def test_every_fact_has_its_fields_and_clean_texts():
    for fact in FACTS:
        assert list(fact) == FIELDS
        assert len(fact["rephrasings"]) == len(fact["neighbors"]) == 2
        for text in (*texts(fact), fact["answer"]):
            assert text == " ".join(text.split())
            assert text
        assert "\N{REPLACEMENT CHARACTER}" not in json.dumps(fact, ensure_ascii=False)


def test_ids_are_slugs_of_subject_and_relation_and_unique():
    assert len({fact["id"] for fact in FACTS}) == len(FACTS)
    for fact, subject in zip(FACTS, SUBJECTS, strict=True):
        assert fact["id"] == f"{slug(subject)}-{fact['relation']}"


def test_prompts_are_unfinished_sentences_and_no_text_is_used_twice():
    own = [text for fact in FACTS for text in (fact["prompt"], *fact["rephrasings"])]
    assert len(own) == len({text.casefold() for text in own})
    for fact in FACTS:
        assert not fact["prompt"].endswith((".", "?", "!", ":"))
        assert fact["prompt"][0].isupper()
        assert len(set(texts(fact))) == 5


def test_one_rephrasing_is_a_cloze_and_one_a_question():
    for fact in FACTS:
        assert [text.endswith("?") for text in fact["rephrasings"]] == [False, True]


def test_every_phrasing_names_the_subject_once_and_never_the_answer():
    for fact, subject in zip(FACTS, SUBJECTS, strict=True):
        for text in (fact["prompt"], *fact["rephrasings"]):
            assert text.count(subject) == 1
            assert not mentions(text, fact["answer"])


def test_no_subject_is_part_of_another():
    assert len(set(SUBJECTS)) == len(SUBJECTS)
    for one, other in permutations(SUBJECTS, 2):
        assert one.casefold() not in other.casefold()


def test_a_subject_is_in_no_other_fact():
    for index, subject in enumerate(SUBJECTS):
        for other, fact in enumerate(FACTS):
            if other != index:
                assert not any(mentions(text, subject) for text in (*texts(fact), fact["answer"]))


def test_neighbours_ask_the_same_about_other_subjects():
    for fact, subject in zip(FACTS, SUBJECTS, strict=True):
        about = [neighbor_subject(fact, subject, neighbor) for neighbor in fact["neighbors"]]
        assert len(set(about)) == 2
        assert all(name[0].isupper() for name in about)


def test_no_neighbours_subject_is_among_the_facts():
    own = [
        text for fact in FACTS for text in (fact["prompt"], fact["answer"], *fact["rephrasings"])
    ]
    for name in NEIGHBOR_SUBJECTS:
        assert not any(mentions(text, name) for text in own), name


def test_about_half_of_the_answers_are_known_words():
    vocabulary = data_file("vocab", "bert_cased_vocab.txt").read_text(encoding="utf-8").split("\n")
    known = set(vocabulary)
    # A name of several words is known when each is: "Isaac Newton", but not "Sabine Ortolane".
    share = sum(set(fact["answer"].split()) <= known for fact in FACTS) / len(FACTS)
    assert 0.4 < share < 0.6


def data_file(*parts):
    folder = Path(os.environ.get("LARIMAR_DATA") or ROOT.parent / "shared" / "data")
    path = folder.joinpath(*parts)
    if not path.is_file():
        pytest.skip(f"no {path.name}: set LARIMAR_DATA to the folder of the evaluation data")
    return path


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


@pytest.mark.parametrize(
    "parts",
    [
        ("counterfact", "easyedit", "counterfact-train.json"),
        ("counterfact", "counterfact_original_form_2000.jsonl"),
        ("counterfact", "counterfact_multi_rephrase.jsonl"),
        ("zsre", "zsre_mend_train-1k.json"),
        ("zsre", "zsre_mend_eval_portability_gpt4.json"),
        ("zsre", "zsre_multi_rephrase.jsonl"),
    ],
)
def test_nothing_is_from_the_evaluation_sets(parts):
    path = data_file(*parts)
    content = path.read_text(encoding="utf-8")
    lines = content.splitlines() if path.suffix == ".jsonl" else [content]
    theirs = {text for line in lines for text in strings(json.loads(line))}
    assert theirs.isdisjoint(text for fact in FACTS for text in texts(fact))
    together = "\n".join(theirs)
    assert [subject for subject in SUBJECTS if subject in together] == []


# The tour.


def test_cells_are_split_at_their_marks():
    cells = cells_of("# %% [markdown]\n# # Title\n#\n# text\n\n# %%\nx = 1\n\n# %%\nprint(x)\n")
    assert cells == [
        Cell("# Title\n\ntext", True),
        Cell("x = 1", False),
        Cell("print(x)", False),
    ]
    made = notebook(cells, executed(cells))
    assert [cell["cell_type"] for cell in made["cells"]] == ["markdown", "code", "code"]
    assert made["cells"][2]["outputs"][0]["text"] == ["1\n"]
    assert made["cells"][0]["source"] == ["# Title\n", "\n", "text"]


def test_the_tour_runs_and_says_what_its_text_says(monkeypatch):
    monkeypatch.chdir(ROOT)
    cells = cells_of((ROOT / "examples" / "tour.py").read_text(encoding="utf-8"))
    outputs = executed(cells)
    said = "".join(
        text for cell in outputs for one in cell for text in one.get("text", ())
    ).casefold()
    assert said.count("'tarsin', in scope true") == 4
    assert "in scope: false; equal to the bit: [true, true, true]" in said
    assert "with the other's answer parts: isaac newton" in said
    assert "digest as if never written: true" in said
    assert "the same memory: true" in said
    assert any(one["output_type"] == "display_data" for cell in outputs for one in cell)


def test_the_notebook_is_made_of_the_tour():
    cells = cells_of((ROOT / "examples" / "tour.py").read_text(encoding="utf-8"))
    made = json.loads((ROOT / "examples" / "tour.ipynb").read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in made["cells"]]
    assert sources == [cell.source for cell in cells], "run examples/notebook.py again"
    code = [cell for cell in made["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in code)
    text = json.dumps(made)
    assert str(ROOT) not in text and "Traceback" not in text
