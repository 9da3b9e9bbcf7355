"""Guesses at what a row says next: they change how many steps it takes, and nothing else."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from larimar.decoder import Decoder, Sampling
from larimar.decoding import Batch, Row
from larimar.drafts import LONGEST, DraftPasses, Drafts
from larimar.lean import Pass
from larimar.steady import MAX_ROWS, steady_draft_counts
from tests.decoding import PROMPTS, rounding_caches

ROUND_IN_CIRCLES = "the group of groups is a group of groups is a group of"
LONG = Sampling(40)


def drafts_of(ids: list[int]) -> Drafts:
    drafts = Drafts()
    drafts.read(ids, [])
    return drafts


def batch_of(decoder: Decoder, drafts: bool) -> Batch:
    """An empty batch whose rows are read with drafts, or without."""
    decoder.drafts = drafts
    try:
        return decoder.batch()
    finally:
        decoder.drafts = True


def said(decoder: Decoder, row: Row, drafts: bool) -> tuple[Row, int]:
    """A row that was decoded alone, and the steps that it took."""
    return row, steps_of(batch_of(decoder, drafts), row)


def steps_of(batch: Batch, row: Row) -> int:
    """Steps that an empty batch takes for a row."""
    batch.add(row)
    steps = 0
    while batch.rows:
        batch.step()
        steps += 1
    return steps


@pytest.fixture
def drafting(decoder) -> Decoder:
    """The decoder, on a machine whose kernels allow drafts."""
    decoder.look()
    if steady_draft_counts(decoder.network, 64, decoder._row_counts[0], (2, 4, 8)) != (2, 4, 8):
        pytest.skip("this machine's kernels round a row by what it is read with")
    return decoder


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
@pytest.mark.parametrize("temperature", [0.0, 0.3])
@pytest.mark.parametrize("stop", [(), (" of the group", "zebra")])
def test_a_text_is_the_same_with_drafts_and_without(
    drafting, latents, conditioned, temperature, stop, monkeypatch
) -> None:
    monkeypatch.setattr(drafting, "stop_id", -1)
    sampling = dataclasses.replace(LONG, temperature=temperature, seed=7, stop=stop)
    z_C = latents[1] if conditioned else None
    steps = {True: 0, False: 0}
    for prompt in (ROUND_IN_CIRCLES, PROMPTS[0]):
        rows = {}
        for drafts in (True, False):
            row = drafting.row(prompt, sampling, z_C)
            rows[drafts], taken = said(drafting, row, drafts)
            steps[drafts] += taken
        assert rows[True].tail.ids == rows[False].tail.ids
        assert rows[True].take() == rows[False].take()
        assert rows[True].chosen == rows[False].chosen
    assert steps[True] < steps[False]


def test_the_end_of_a_text_ends_it_in_the_middle_of_a_draft(drafting, monkeypatch) -> None:
    """The end token, or an error in choosing, after guesses that were right and before others."""
    plain, _ = said(drafting, drafting.row(ROUND_IN_CIRCLES, LONG), False)
    first = plain.tail.ids.index(plain.tail.ids[-1])

    def failing(row: Row) -> Row:
        row.chooser.greedy, chosen = False, []

        def some(logits_V: torch.Tensor) -> int:
            chosen.append(1)
            if len(chosen) == 30:
                raise ArithmeticError("thirty")
            return int(logits_V.argmax())

        monkeypatch.setattr(row.chooser, "choose", some)
        return row

    failed, steps = said(drafting, failing(drafting.row(ROUND_IN_CIRCLES, LONG)), True)
    assert failed.tail.ids == plain.tail.ids[:29]
    assert steps < 30
    with pytest.raises(ArithmeticError, match="thirty"):
        failed.take()
    monkeypatch.setattr(drafting, "stop_id", plain.tail.ids[-1])
    ended, _ = said(drafting, drafting.row(ROUND_IN_CIRCLES, LONG), True)
    assert ended.tail.ids == plain.tail.ids[:first]
    assert ended.take().finish_reason == "stop"


def test_text_that_repeats_itself_takes_fewer_steps(drafting) -> None:
    row, steps = said(drafting, drafting.row(ROUND_IN_CIRCLES, LONG), True)
    assert row.chosen == LONG.max_tokens
    assert steps < LONG.max_tokens / 2


@pytest.mark.parametrize("conditioned", [False, True])
@torch.inference_mode()
def test_drafts_leave_the_bits_of_a_row_in_cache_and_logits(
    drafting, latents, conditioned, monkeypatch
) -> None:
    """Every logit that a token was chosen by, and the keys and values of every token that was."""
    monkeypatch.setattr(drafting, "stop_id", -1)
    kept, z_C = {}, latents[2] if conditioned else None
    for drafts in (True, False):
        batch = batch_of(drafting, drafts)
        row = drafting.row(ROUND_IN_CIRCLES, LONG, z_C)
        row.chooser.greedy, logits = False, []  # so that logits are handed to it
        row.chooser.choose = lambda logits_V, kept=logits: (
            kept.append(logits_V) or int(logits_V.argmax())
        )
        batch.add(row)
        while row.chosen < 24:
            assert batch.step() == [row]
        (lane,) = batch._lanes.values()
        filled = row.slots + len(row.prompt_ids) - 1 + 24
        stored = [one[0, :filled].clone() for pair in lane.cache.stored() for one in pair]
        kept[drafts] = (torch.stack(logits[:24]), stored)
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


def test_a_row_that_others_join_and_leave_goes_on_as_it_was(drafting, monkeypatch) -> None:
    """Its cache moves when rows join, past 64 positions too: no view of the old one is read."""
    monkeypatch.setattr(drafting, "stop_id", -1)
    sampling = Sampling(90)
    plain, _ = said(drafting, drafting.row(ROUND_IN_CIRCLES, sampling), False)
    row, batch, steps = drafting.row(ROUND_IN_CIRCLES, sampling), drafting.batch(), 0
    batch.add(row)
    while batch.rows:
        batch.step()
        steps += 1
        if steps in (4, 20):
            for prompt in PROMPTS[:3]:
                batch.add(drafting.row(prompt, Sampling(5)))
        if steps == 12:
            batch.add(drafting.row(ROUND_IN_CIRCLES, Sampling(2)))
    assert row.tail.ids == plain.tail.ids
    assert row.take() == plain.take()
    assert steps < sampling.max_tokens


def test_what_a_broken_row_leaves_in_a_cache_reaches_no_other(decoder) -> None:
    """NaN is NaN behind any mask: a row joins where another one was that had nothing else."""
    plain, _ = said(decoder, decoder.row(PROMPTS[0], Sampling(12)), False)
    batch = decoder.batch()
    batch.add(decoder.row(PROMPTS[1], Sampling(40)))
    huge_C = torch.full((decoder.value_size,), 1e30)
    batch.add(decoder.row("one two three four five six seven", Sampling(4), huge_C))
    for _ in range(6):
        batch.step()
    row = decoder.row(PROMPTS[0], Sampling(12))
    batch.add(row)
    while not row.finished:
        batch.step()
    assert row.tail.ids == plain.tail.ids


def test_no_draft_where_kernels_round_by_rows(drafting, monkeypatch) -> None:
    step = drafting.network.step

    def rounded(tokens: Pass) -> torch.Tensor:
        out = step(tokens)
        return out * 1.001 if len(tokens.ids_RQ) > 2 else out

    monkeypatch.setattr(drafting.network, "step", rounded)
    assert steady_draft_counts(drafting.network, 64, 2, (2, 4)) == (2,)
    passes = DraftPasses(drafting.network, (2, 4, 8, 16))
    assert [passes.rows(64, 64, tokens) for tokens in (1, 3, 7)] == [2, 2, 2]


def test_no_draft_where_a_pass_leaves_another_cache(drafting, monkeypatch) -> None:
    monkeypatch.setattr(drafting.network, "step", rounding_caches(drafting.network.step))
    assert steady_draft_counts(drafting.network, 64, 2, (2, 4)) == (2,)


def test_no_draft_where_a_row_sees_what_comes_after_it(decoder, monkeypatch) -> None:
    """A kernel that took no notice of the mask would let a token see its own guess."""
    step = decoder.network.step

    def blind(tokens: Pass) -> torch.Tensor:
        return step(dataclasses.replace(tokens, visible_RQK=torch.ones_like(tokens.visible_RQK)))

    monkeypatch.setattr(decoder.network, "step", blind)
    assert steady_draft_counts(decoder.network, 64, 2, (2,)) == ()


def test_a_look_that_fails_costs_drafts_and_no_row(decoder, monkeypatch) -> None:
    def full(*_) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("larimar.drafts.steady_draft_counts", full)
    passes = DraftPasses(decoder.network, (2, 4, 8, 16))
    assert passes.rows(64, 64, 3) == 0
    row = decoder.row(ROUND_IN_CIRCLES, Sampling(3))
    assert row.draft(passes, 64) == ([], 0)


def test_a_draft_is_no_longer_than_its_cache_and_its_text_have_room(drafting) -> None:
    passes = DraftPasses(drafting.network, (2, 4, 8, 16))
    assert [passes.rows(64, free, 7) for free in (64, 8, 7, 3, 1)] == [8, 8, 4, 2, 0]
    sixteen = DraftPasses(drafting.network, (MAX_ROWS,))
    assert [sixteen.rows(64, free, 3) for free in (16, 15)] == [MAX_ROWS, 0]
    row = drafting.row(ROUND_IN_CIRCLES, Sampling(3))
    draft, count = row.draft(sixteen, 64)
    assert (len(draft), count) == (2, MAX_ROWS)


@pytest.mark.parametrize("tokens", [1, 5, 40, 62])
def test_a_text_is_the_same_where_every_pass_has_sixteen_rows(
    drafting, latents, tokens, monkeypatch
) -> None:
    """As on a GPU; past the end of a cache too."""
    monkeypatch.setattr(drafting, "stop_id", -1)
    plain, _ = said(drafting, drafting.row(ROUND_IN_CIRCLES, Sampling(tokens), latents[0]), False)
    passes = DraftPasses(drafting.network, (MAX_ROWS,))
    batch = Batch(drafting._steps, (MAX_ROWS,), drafting._reads, passes)
    row = drafting.row(ROUND_IN_CIRCLES, Sampling(tokens), latents[0])
    steps = steps_of(batch, row)
    assert row.take() == plain.take()
    assert steps < tokens or tokens < 40
