"""Passages: places that hold for any text, and sentence ends where people see them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from larimar.errors import InvalidArgument
from larimar.passages import (
    MAX_OFFSET,
    MAX_WORD,
    Passage,
    document_name,
    halves,
    parse_passage_id,
    passage_id,
    pieces,
    split_passages,
    stated,
)
from larimar.sentences import sentences

TEXTS = st.text(alphabet="ab1 .!?\n\"')A\u3002\u00a0", max_size=200) | st.text(max_size=80)


def said(text: str) -> list[str]:
    return [text[low:high].strip() for low, high in sentences(text)]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("He came. She left.", 2),
        ("Dr. Smith met J. R. Tolkien. They spoke.", 2),
        ("It costs 3.14 or .5 or 1,000.00 in all. Cheap!", 2),
        ("The U.S. Army came at 5 p.m. to St. Louis. It left.", 2),
        ('"Did he go?" she asked. "No." He stayed.', 3),
        ("Yahoo! is a firm. What? No!", 3),
        ("See Fig. 3 and No. 5 on Jan. 7. I said no. He did.", 3),
        ("It was I. He agreed.", 2),
        ("It ended (at last). Then it began\u2026 again.", 2),
        ("Acme Inc. and Smith et al. Found it.", 1),
        ("A heading\n\nA sentence. Another\nover two lines.", 3),
        ("\u4eca\u65e5\u306f\u3002\u660e\u65e5\uff01", 2),
        ("no stop at all", 1),
        (" \n ", 0),
    ],
)
def test_sentences_end_where_people_see_it(text: str, count: int) -> None:
    assert len(said(text)) == count, said(text)


def test_a_text_that_the_library_fails_on_is_one_sentence(monkeypatch) -> None:
    panic = type("PanicException", (BaseException,), {})

    def fails(*_):
        raise panic("not a char boundary")

    assert said(" 1)\u00a0\"a A\u00a0.''\"1A") == ["1)\u00a0\"a A\u00a0.''\"1A"]
    monkeypatch.setattr("larimar.sentences.get_sentence_boundaries", fails)
    assert said("He came. She left.\n\nThey spoke.") == ["He came. She left.", "They spoke."]


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.integers(1, 9))
def test_passages_cover_the_text_in_order(text: str, most_words: int) -> None:
    end = 0
    for passage in split_passages(text, most_words):
        assert text[passage.offset : passage.offset + passage.length] == passage.text
        assert passage.text and passage.text == passage.text.strip()
        assert not text[end : passage.offset].strip()
        assert len(passage.text.split()) <= most_words
        end = passage.offset + passage.length
    assert not text[end:].strip()


def test_each_sentence_is_a_passage_of_its_own() -> None:
    text = "One two three. Four five. Six seven eight nine. Ten."
    found = ["One two three.", "Four five.", "Six seven eight nine.", "Ten."]
    assert [one.text for one in split_passages(text)] == found


@pytest.mark.parametrize(
    ("text", "about", "says"),
    [
        ("The capital of Velmora is Tarsin.", "The capital of Velmora", "is Tarsin."),
        ("He  left\nOslo", "He  left", "Oslo"),
        ("Rain fell.", "Rain", "fell."),
        ("Rain.", "Rain.", ""),
    ],
)
def test_what_a_passage_states_is_its_last_third(text: str, about: str, says: str) -> None:
    assert stated(text) == (about, says)


def test_a_long_sentence_is_cut_between_words_and_a_long_word_within() -> None:
    text = " ".join(str(n) for n in range(10)) + ". Next."
    assert [one.text for one in split_passages(text, 4)] == ["0 1 2", "3 4 5", "6 7 8 9.", "Next."]
    assert [one.length for one in split_passages("x" * (5 * MAX_WORD), 2)] == [64, 128, 128]


def test_passages_have_a_word_or_more() -> None:
    for words in (0, -1, 513):
        with pytest.raises(InvalidArgument, match="1 to 512 words"):
            split_passages("a b", words)


@given(TEXTS, st.integers(1, 50))
def test_pieces_are_the_text(text: str, most: int) -> None:
    found = list(pieces(text, most))
    assert "".join(piece.text for piece in found) == text
    assert all(0 < piece.length <= most for piece in found)
    assert [piece.offset for piece in found] == [
        sum(one.length for one in found[:n]) for n in range(len(found))
    ]


def test_pieces_end_with_sentences() -> None:
    text = "One is here. Two is here. Three is here."
    assert [piece.text for piece in pieces(text, 30)] == [
        "One is here. Two is here.",
        " Three is here.",
    ]


@given(st.text(min_size=2).filter(lambda text: text == text.strip()))
def test_halves_are_the_passage_without_white_space_between(text: str) -> None:
    low, high = halves(Passage(7, text))
    assert low.text and high.text and low.offset == 7
    assert text[: low.length] == low.text and text[high.offset - 7 :] == high.text
    assert not text[low.length : high.offset - 7].strip()


def test_halves_are_cut_near_the_middle() -> None:
    assert [half.text for half in halves(Passage(0, "aa bb cc dd"))] == ["aa bb", "cc dd"]
    assert [half.text for half in halves(Passage(0, "abcdef"))] == ["abc", "def"]
    with pytest.raises(InvalidArgument):
        halves(Passage(0, "a"))


def test_passage_ids_sort_by_offset_and_tell_their_place() -> None:
    offsets = [0, 9, 10, 99, 1000, MAX_OFFSET]
    ids = [passage_id("a.b-c_1", offset) for offset in offsets]
    assert ids == sorted(ids)
    assert [parse_passage_id(one) for one in ids] == [("a.b-c_1", offset) for offset in offsets]
    assert ids[2] == "a.b-c_1#000000000010"


@pytest.mark.parametrize("other", ["", "fact", "a#1", "a b#000000000001", "a#0000000000001"])
def test_other_fact_ids_are_no_passages(other: str) -> None:
    assert parse_passage_id(other) is None


@pytest.mark.parametrize(("name", "offset"), [("", 0), ("a#b", 0), ("a", -1), ("a", 10**12)])
def test_what_names_no_passage_is_refused(name: str, offset: int) -> None:
    with pytest.raises(InvalidArgument):
        passage_id(name, offset)


@given(st.text())
def test_any_text_makes_a_document_name(text: str) -> None:
    assert parse_passage_id(passage_id(document_name(text), 0)) == (document_name(text), 0)


@pytest.mark.parametrize("unit", [".", " ", "\n", "\n   ", '."', "a", ". ", "A. ", "!?"])
def test_no_text_takes_long(unit: str) -> None:
    text = (unit * (1 << 16))[: 1 << 16]
    started = time.perf_counter()
    split_passages(text)
    list(pieces(text, 1000))
    assert time.perf_counter() - started < 10  # quadratic would be minutes
