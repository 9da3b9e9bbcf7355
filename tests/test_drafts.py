"""Guesses at what a row says next: they change how many steps it takes, and nothing else."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from larimar.decoder import Sampling
from larimar.decoding import Batch, DraftPasses, Row
from larimar.drafts import LONGEST, Drafts
from larimar.lean import Pass
from larimar.packing import is_packed
from larimar.steady import MAX_ROWS, is_steady_draft
from tests.decoding import PROMPTS

ROUND_IN_CIRCLES = "the group of groups is a group of groups is a group of"
LONG = Sampling(40)


def drafts_of(ids: list[int]) -> Drafts:
    drafts = Drafts()
    drafts.read(ids, [])
    return drafts


def said(decoder, row: Row, drafts: bool) -> tuple[Row, Batch, int]:
    """A row that was decoded alone, its batch before it left it, and the steps that it took."""
    decoder.drafts = drafts
    try:
        batch, steps = decoder.batch(), 0
    finally:
        decoder.drafts = True
    batch.add(row)
    while batch.rows:
        batch.step()
        steps += 1
    return row, batch, steps


@pytest.mark.parametrize(
    ("ids", "draft"),
    [
        ([], []),
        ([1], []),
        ([1, 2, 3], []),
        ([7, 8, 9, 7], [8, 9, 7, 8]),  # what followed the same token
        ([1, 2, 5, 6, 9, 2, 8, 1, 2], [5, 6, 9, 2]),  # of the longer run, not of the later one
        ([1, 2, 3, 1, 2, 4, 1, 2], [4, 1, 2, 4]),  # of its last occurrence, and on in circles
        ([5, 5], [5, 5, 5, 5]),
    ],
)
def test_what_followed_the_longest_run_last_is_guessed(ids, draft) -> None:
    assert drafts_of(ids).guess(4) == draft
    assert drafts_of(ids).guess(0) == []


@given(ids=st.lists(st.integers(0, 3), max_size=30), data=st.data())
def test_a_guess_is_that_of_a_search_of_the_whole_text(ids: list[int], data) -> None:
    """However the text came: the prompt at once, and the rest in pieces."""
    cut = data.draw(st.integers(0, len(ids)))
    drafts = Drafts()
    for end in sorted(data.draw(st.lists(st.integers(cut, len(ids)), max_size=3))):
        drafts.read(ids[:cut], ids[cut:end])
    drafts.read(ids[:cut], ids[cut:])

    found = None
    for length in range(min(LONGEST, len(ids)), 0, -1):
        places = [p for p in range(len(ids) - length) if ids[p : p + length] == ids[-length:]]
        if places:
            found = places[-1] + length
            break
    wanted = list(ids)
    for place in range(found, found + 5) if found is not None else ():
        wanted.append(wanted[place])
    assert drafts.guess(5) == wanted[len(ids) :]


def test_drafts_grow_while_they_are_right() -> None:
    drafts = drafts_of([5, 5])
    passes = DraftPasses(None, (2, 4, 8, 16))
    for wanted in (1, 3, 7, 7):
        assert passes.longest(drafts.level) == wanted
        drafts.learn(wanted, wanted)
    drafts.learn(7, 6)
    assert passes.longest(drafts.level) == 1
    assert DraftPasses(None, (MAX_ROWS,)).longest(0) == MAX_ROWS - 1


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 0.5])
@pytest.mark.parametrize("stop", [(), (" of", "group.")])
def test_a_text_is_the_same_with_drafts_and_without(
    decoder, latents, conditioned, temperature, stop
) -> None:
    sampling = dataclasses.replace(LONG, temperature=temperature, seed=7, stop=stop)
    z_C = latents[1] if conditioned else None
    for prompt in (ROUND_IN_CIRCLES, PROMPTS[0]):
        (mine, _, few), (plain, _, many) = (
            said(decoder, decoder.row(prompt, sampling, z_C), drafts) for drafts in (True, False)
        )
        assert mine.tail.ids == plain.tail.ids
        assert mine.take() == plain.take()
        assert mine.chosen == plain.chosen == many >= few


def test_text_that_repeats_itself_takes_fewer_steps(decoder) -> None:
    row, _, steps = said(decoder, decoder.row(ROUND_IN_CIRCLES, LONG), True)
    assert is_packed(decoder.network.lm), "these tests serve packed weights"
    assert row.chosen == LONG.max_tokens
    assert steps < LONG.max_tokens / 2


@pytest.mark.parametrize("conditioned", [False, True])
@torch.inference_mode()
def test_drafts_leave_the_bits_of_a_row_in_cache_and_logits(
    decoder, latents, conditioned, monkeypatch
) -> None:
    """Every logit that a token was chosen by, and every key and value but of a wrong guess."""
    monkeypatch.setattr(decoder, "stop_id", -1)
    kept, z_C = {}, latents[2] if conditioned else None
    for drafts in (True, False):
        decoder.drafts = drafts
        batch, row = decoder.batch(), decoder.row(ROUND_IN_CIRCLES, Sampling(40), z_C)
        row.chooser.greedy, logits = False, []  # so that logits are handed to it
        row.chooser.choose = lambda logits_V, kept=logits: (
            kept.append(logits_V) or int(logits_V.argmax())
        )
        batch.add(row)
        while row.chosen < 24:
            assert batch.step() == [row]
        (lane,) = batch._lanes.values()
        stored = [one[0, :24].clone() for pair in lane.cache.stored() for one in pair]
        kept[drafts] = (torch.stack(logits[:24]), stored)
    decoder.drafts = True
    (mine, my_cache), (plain, plain_cache) = kept[True], kept[False]
    assert torch.equal(mine, plain)
    assert all(map(torch.equal, my_cache, plain_cache))


def test_rows_together_are_read_without_drafts(decoder) -> None:
    batch, rows = decoder.batch(), [decoder.row(ROUND_IN_CIRCLES, Sampling(n)) for n in (4, 30)]
    for row in rows:
        batch.add(row)
    for step in range(1, 5):
        batch.step()
        assert [row.chosen for row in rows] == [step, step]
    steps = 4
    while batch.rows:
        batch.step()
        steps += 1
    assert rows[1].chosen == 30 > steps


def test_no_draft_where_kernels_round_by_rows(decoder, monkeypatch) -> None:
    step = decoder.network.step

    def rounded(tokens: Pass) -> torch.Tensor:
        out = step(tokens)
        return out * 1.001 if len(tokens.ids_RQ) > 2 else out

    assert is_steady_draft(decoder.network, 64, 2, 4)
    monkeypatch.setattr(decoder.network, "step", rounded)
    assert is_steady_draft(decoder.network, 64, 2, 2)
    assert not is_steady_draft(decoder.network, 64, 2, 4)
    passes = DraftPasses(decoder.network, (2, 4, 8, 16))
    assert [passes.rows(64, 64, tokens) for tokens in (1, 3, 7)] == [2, 2, 2]


def test_a_draft_is_no_longer_than_its_cache_and_its_text_have_room(decoder) -> None:
    passes = DraftPasses(decoder.network, (2, 4, 8, 16))
    assert [passes.rows(64, free, 7) for free in (64, 8, 7, 3, 1)] == [8, 8, 4, 2, 0]
    sixteen = DraftPasses(decoder.network, (MAX_ROWS,))
    assert [sixteen.rows(64, free, 3) for free in (16, 15)] == [MAX_ROWS, 0]
    row = decoder.row(ROUND_IN_CIRCLES, Sampling(3))
    assert [len(row.draft(sixteen, 64)[0]), row.draft(sixteen, 64)[1]] == [2, MAX_ROWS]


@pytest.mark.parametrize("tokens", [1, 5, 40, 62])
def test_a_text_is_the_same_where_every_pass_has_sixteen_rows(
    decoder, latents, tokens, monkeypatch
) -> None:
    """As on a GPU; past the end of a cache too."""
    monkeypatch.setattr(decoder, "stop_id", -1)
    plain, *_ = said(decoder, decoder.row(ROUND_IN_CIRCLES, Sampling(tokens), latents[0]), False)
    passes = DraftPasses(decoder.network, (MAX_ROWS,))
    batch = Batch(decoder._steps, (MAX_ROWS,), decoder._reads, passes)
    row, steps = decoder.row(ROUND_IN_CIRCLES, Sampling(tokens), latents[0]), 0
    batch.add(row)
    while batch.rows:
        batch.step()
        steps += 1
    assert row.take() == plain.take()
    assert steps < tokens or tokens < 40


def test_no_draft_where_a_row_sees_what_comes_after_it(decoder, monkeypatch) -> None:
    """A kernel that took no notice of the mask would let a token see its own guess."""
    step = decoder.network.step

    def blind(tokens: Pass) -> torch.Tensor:
        return step(dataclasses.replace(tokens, visible_RQK=torch.ones_like(tokens.visible_RQK)))

    monkeypatch.setattr(decoder.network, "step", blind)
    assert not is_steady_draft(decoder.network, 64, 2, 2)
