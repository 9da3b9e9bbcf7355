"""Decoded text has the blanks of written English, and what was streamed is what was meant."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from larimar.checkpoint import ModelFolder
from larimar.sampling import Sampling, Tail
from larimar.spacing import Spacing
from services.settings import DEFAULT_MODEL
from tests.backbone_folders import byte_tokenizer

TOKENIZER = ModelFolder.open(DEFAULT_MODEL).decoder_tokenizer()
SPACING = Spacing(TOKENIZER)
STOP = TOKENIZER.sep_token_id
WORDS = ("s", "t", "ve", "the", "x", "u", "fox", "##ing", "000", "1990", "brien")
MARKS = [*"-/'\"()[]:;,.!?%$–—_123", *WORDS]
MARK_IDS = TOKENIZER.convert_tokens_to_ids(MARKS)


def ids_of(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def tail_of(prompt: list[int], stop: tuple[str, ...] = ()) -> Tail:
    return Tail(TOKENIZER, SPACING, STOP, Sampling(500, stop=stop), prompt)


def said(prompt: list[int], ids: list[int], stop: tuple[str, ...] = ()) -> tuple[str, list[str]]:
    """The text in one piece, and in the pieces of a stream."""
    at_once, streamed, pieces = tail_of(prompt, stop), tail_of(prompt, stop), []
    for token in [*ids, STOP]:
        at_once.push(token)
        streamed.push(token)
        pieces.append(streamed.take().text)
        if at_once.finish_reason:
            break
    return at_once.take().text, pieces


@pytest.mark.parametrize(
    "text",
    [
        "the x-files (1993)",
        "mat-49, the mezzo-soprano of st john's college",
        "o'brien and d'ivoire don't say lil' kim",
        "the workers' party won't: it can't",
        "u.s. army, 10:30 a.m., 1,234,567 people, 3.5% of $5",
        'called "hey jude" (1968), "yesterday"; and/or',
        "in july 4, 2006, and 1990–1994",
        "the word—of all—stood. it was 1990. then it ended",
        "a list: one, two; three",
    ],
)
def test_what_was_written_comes_back(text) -> None:
    assert SPACING.written(TOKENIZER.decode(ids_of(text))) == text
    whole, pieces = said(ids_of("it says"), ids_of(text))
    assert whole.lstrip() == "".join(pieces).lstrip() == text


def test_a_tokenizer_that_keeps_its_blanks_is_left_alone() -> None:
    spacing, text = Spacing(byte_tokenizer()), "the x - files ( 1993 ) o ' brien"
    assert spacing.written(text) == text
    assert spacing.unsettled("u. s") == 0


@pytest.mark.parametrize(
    ("prompt", "answer", "text"),
    [
        ("the show is the x-", "files", "files"),
        ("it was founded (", "1990)", "1990)"),
        ('he said "', 'yes"', 'yes"'),
        ('he said "yes"', "twice", " twice"),
        ('"yes" he said', '"no"', ' "no"'),
        ("from 1990 –", "1994", " 1994"),
        ("the plan of the u. s", ".", "."),
    ],
)
def test_the_prompt_decides_how_its_answer_begins(prompt, answer, text) -> None:
    whole, pieces = said(ids_of(prompt), ids_of(answer))
    assert whole == "".join(pieces) == text


def test_stop_strings_are_found_in_the_text_as_it_is_written() -> None:
    tail = tail_of(ids_of("the show is"), stop=("x-files",))
    for token in ids_of("the x-files of"):
        tail.push(token)
    assert tail.finish_reason == "stop"
    assert tail.take().text == " the "


def test_a_stop_string_that_a_closing_gap_moves_is_not_streamed() -> None:
    whole, pieces = said(ids_of("word"), ids_of("word ' re5"), stop=("' r",))
    assert "".join(pieces) == whole == " word"


@settings(max_examples=400, deadline=None)
@given(
    prompt=st.lists(st.sampled_from(MARK_IDS), min_size=1, max_size=5),
    ids=st.lists(st.sampled_from(MARK_IDS), min_size=1, max_size=12),
)
@example(ids_of("the fox"), ids_of("john's"))
def test_what_was_streamed_is_never_taken_back(prompt, ids) -> None:
    whole, pieces = said(prompt, ids)
    assert "".join(pieces) == whole
