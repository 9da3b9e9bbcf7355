"""The decoder: plain without a latent, rows that keep to themselves, streams, scores, service."""

from __future__ import annotations

import dataclasses
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    StaticCache,
)

from larimar.cache import LEAST_POSITIONS, RowsCache
from larimar.checkpoint import ModelFolder
from larimar.decoder import Decoder, Piece, Sampling
from larimar.decoding import LEAST_PROMPT_TOKENS, Batch, Row
from larimar.encoder import Text
from larimar.errors import InvalidArgument
from larimar.lean import RECORD_AFTER, LeanSteps, Pass
from larimar.packing import is_packed, pack
from larimar.spacing import Spacing
from larimar.steady import MAX_ROWS, PROMPTS_TOGETHER, steady_prompt_counts
from tests.decoding import PROMPTS, WILD, endless, joined, rounding_caches, whole
from tests.in_process import Weights


def stock_model(folder: ModelFolder, dtype: torch.dtype) -> nn.Module:
    """The folder's weights in the model of `transformers`, loaded by nothing of ours."""
    fields = dict(folder.config.decoder_backbone)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    stock = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    tensors = load_file(folder.path / "decoder.safetensors")
    own = {
        key.removeprefix("lm."): value.float()
        for key, value in tensors.items()
        if key.startswith("lm.")
    }
    _, unexpected = stock.load_state_dict(own, strict=False)
    assert not unexpected
    if folder.config.shared_embeddings:
        table = load_file(folder.path / "embeddings.safetensors")["word_embeddings"].float()
        stock.get_input_embeddings().weight.data.copy_(table)
    stock.tie_weights()
    return stock.to(dtype).eval()


@pytest.fixture(scope="module")
def stock(weights: Weights) -> nn.Module:
    """The stock model over the same kernels."""
    model = stock_model(weights.folder, weights.dtype)
    pack(model)
    return model


@pytest.fixture(scope="module")
def exact(weights: Weights) -> tuple[Decoder, nn.Module]:
    """Ours and the stock model in float32, for comparisons at different shapes."""
    return weights.folder.decoder(torch.float32), stock_model(weights.folder, torch.float32)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.float().numpy().tobytes()


@torch.inference_mode()
def test_without_a_latent_the_logits_are_the_stock_models_bit_for_bit(decoder, stock) -> None:
    ids_BT = torch.randint(1000, 20000, (3, 9), generator=torch.Generator().manual_seed(0))
    mask_BT = torch.ones_like(ids_BT, dtype=torch.bool)
    ours = decoder.network.logits(decoder.network.hidden(ids_BT, mask_BT))
    theirs = stock(input_ids=ids_BT, attention_mask=mask_BT.long(), use_cache=False).logits
    assert bits(ours) == bits(theirs)


@torch.inference_mode()
def test_generation_makes_the_stock_models_logits_bit_for_bit(decoder, stock, monkeypatch) -> None:
    """Equal shapes: a static cache as long, the prompt alone, then steps of two rows."""
    seen = []
    head = decoder.network.logits

    def noted(hidden):
        seen.append(head(hidden))
        return seen[-1]

    prompt, steps = PROMPTS[0], 5
    decoder.batch()
    monkeypatch.setattr(decoder.network, "logits", noted)
    monkeypatch.setattr(decoder, "_steps", LeanSteps(decoder.network, record=False))
    for _ in decoder.generate([prompt], [Sampling(steps, temperature=10.0)]):
        pass
    ids = decoder.tokenize(prompt)
    cache = StaticCache(stock.config, max_cache_len=LEAST_POSITIONS)
    read = ids[:-1] + ids[-2:-1] * (LEAST_PROMPT_TOKENS - len(ids) + 1)
    mask_1T = torch.tensor([[1] * (len(ids) - 1) + [0] * (len(read) - len(ids) + 1)])
    assert not mask_1T.all()
    stock(
        input_ids=torch.tensor([read]),
        attention_mask=mask_1T,
        past_key_values=cache,
        use_cache=True,
    )
    for layer in cache.layers:
        layer.keys, layer.values = (one.repeat(2, 1, 1, 1) for one in (layer.keys, layer.values))
    generator, last = torch.Generator().manual_seed(0), ids[-1]
    for step, logits in enumerate(seen):
        at = len(ids) - 1 + step
        for layer in cache.layers:
            layer.cumulative_length.fill_(at)
        theirs = stock(
            input_ids=torch.tensor([[last]] * 2),
            attention_mask=torch.ones(2, at + 1, dtype=torch.long),
            position_ids=torch.tensor([[at]] * 2),
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
        assert bits(logits[0, -1]) == bits(theirs[0])
        last = int(
            torch.multinomial((theirs[0].float() / 10.0).softmax(-1), 1, generator=generator)
        )
    assert len(seen) == steps


@torch.inference_mode()
def test_packed_weights_give_the_stock_models_logits_but_for_rounding(weights: Weights) -> None:
    ids_BT = torch.randint(1000, 20000, (3, 9), generator=torch.Generator().manual_seed(0))
    mask_BT = torch.ones_like(ids_BT, dtype=torch.bool)
    ours = weights.folder.decoder(torch.float32).network
    theirs = stock_model(weights.folder, torch.float32)(input_ids=ids_BT, use_cache=False).logits
    torch.testing.assert_close(ours.logits(ours.hidden(ids_BT, mask_BT)), theirs, rtol=0, atol=1e-4)


def test_greedy_generation_is_that_of_transformers(exact) -> None:
    ours, stock = exact
    for prompt in PROMPTS:
        ids = ours.tokenize(prompt)
        generated = stock.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=ours.stop_id,
            pad_token_id=ours.pad_id,
        )[0, len(ids) :].tolist()
        tokens = (
            generated[: generated.index(ours.stop_id)] if ours.stop_id in generated else generated
        )
        row = ours.row(prompt, Sampling(max(1, len(tokens))))
        for token in tokens:
            row.tail.push(token)
        assert whole(ours, prompt, Sampling(6))[0] == row.take().text


def test_a_latent_changes_what_is_said(decoder, latents) -> None:
    plain = decoder.score(PROMPTS[0], [" Tarsin"])
    told = decoder.score(PROMPTS[0], [" Tarsin"], latents[0])
    other = decoder.score(PROMPTS[0], [" Tarsin"], latents[1])
    assert len({one[0].token_logprobs for one in (plain, told, other)}) == 3


SAMPLINGS = [Sampling(4), Sampling(7), WILD, Sampling(5, temperature=1.0, top_p=0.9, seed=8)]
ROWS = [(prompt, how) for prompt in range(len(PROMPTS)) for how in range(len(SAMPLINGS))]


@pytest.fixture(scope="module")
def lone_rows(decoder, latents) -> dict:
    """What each row says alone, made when it is first asked for."""

    class Lone(dict):
        def __missing__(self, key):
            (prompt, how), conditioned = key
            z_1C = latents[prompt][None] if conditioned else None
            self[key] = whole(decoder, PROMPTS[prompt], SAMPLINGS[how], z_1C)
            return self[key]

    return Lone()


MIXED = st.tuples(st.sampled_from(ROWS), st.booleans())


@settings(max_examples=5, deadline=None)
@given(rows=st.lists(MIXED, min_size=2, max_size=MAX_ROWS))
def test_a_row_says_what_it_would_say_alone(decoder, latents, lone_rows, rows) -> None:
    """Beside rows of other lengths, with other latents and with none."""
    steps = list(
        decoder.generate(
            [PROMPTS[prompt] for (prompt, _), _ in rows],
            [SAMPLINGS[how] for (_, how), _ in rows],
            [latents[prompt] if conditioned else None for (prompt, _), conditioned in rows],
        )
    )
    for place, row in enumerate(rows):
        pieces = [pieces[place] for pieces in steps]
        last = next(at for at, piece in enumerate(pieces) if piece.finish_reason)
        assert joined(pieces[: last + 1]) == lone_rows[row]
        assert all(piece == Piece("") for piece in pieces[last + 1 :])


@pytest.mark.parametrize("seed", range(3))
def test_rows_that_come_and_go_at_any_step_say_what_they_would_say_alone(
    decoder, latents, lone_rows, seed: int
) -> None:
    dice = random.Random(seed)
    waiting = [(dice.choice(ROWS), dice.random() < 0.5) for _ in range(24)]
    batch, running, ended = decoder.batch(), {}, 0
    while waiting or batch.rows:
        for _ in range(min(batch.free, len(waiting), dice.randint(0, 4))):
            (prompt, how), conditioned = waiting.pop()
            z_C = latents[prompt] if conditioned else None
            row = decoder.row(PROMPTS[prompt], SAMPLINGS[how], z_C)
            running[row] = ((prompt, how), conditioned)
            batch.add(row)
        if running and dice.random() < 0.1:
            gone = dice.choice(list(running))
            batch.drop(gone)
            running.pop(gone)
        for row in batch.step():
            if row.finished:
                piece, ended = row.take(), ended + 1
                said = (piece.text, piece.finish_reason, piece.tokens)
                assert said == lone_rows[running.pop(row)]
    assert not running and ended > 12


def test_prompts_that_join_together_leave_the_bits_of_each_alone(decoder, latents) -> None:
    def row_of(prompt: int, conditioned: bool) -> Row:
        z_C = latents[prompt] if conditioned else None
        return decoder.row(PROMPTS[prompt], Sampling(1), z_C)

    def held(batch: Batch, row: Row) -> list[torch.Tensor]:
        (lane,) = [lane for lane in batch._lanes.values() if row in lane.rows]
        kept = lane.cache.taken([lane.rows.index(row)])
        return [one[:, : row.used] for pair in kept.stored() for one in pair]

    together, picks = decoder.batch(), [(n % len(PROMPTS), n % 3 > 0) for n in range(12)]
    rows = [row_of(*pick) for pick in picks]
    passes = together._reads.together(rows)
    assert sorted(map(id, rows)) == sorted(id(row) for _, some in passes for row in some)
    assert len(passes) < len(rows) or not is_packed(decoder.network.lm)
    for row in rows:
        together.add(row)
    with torch.inference_mode():
        together._join()
        for row, pick in zip(rows, picks, strict=True):
            alone, lone = decoder.batch(), row_of(*pick)
            alone.add(lone)
            alone._join()
            assert (row.used, row.slots) == (lone.used, lone.slots)
            pairs = zip(held(together, row), held(alone, lone), strict=True)
            assert all(torch.equal(one, other) for one, other in pairs)


def test_prompts_are_read_one_by_one_where_kernels_round_by_rows(decoder, monkeypatch) -> None:
    assert steady_prompt_counts(decoder.network, 64, 0) == PROMPTS_TOGETHER
    monkeypatch.setattr(decoder.network, "step", rounding_caches(decoder.network.step))
    assert 4 not in steady_prompt_counts(decoder.network, 64, 8)


def test_no_more_rows_than_may_share_a_step(decoder) -> None:
    batch = decoder.batch()
    for _ in range(MAX_ROWS):
        batch.add(decoder.row("a", Sampling(1)))
    assert batch.free == 0
    assert len(batch.step()) == MAX_ROWS
    assert (batch.free, batch.rows) == (MAX_ROWS, [])


def test_texts_are_those_of_rows_alone_however_many_there_are(decoder, latents, lone_rows) -> None:
    rows = [(row, conditioned) for row in ROWS for conditioned in (False, True)]
    pieces = decoder.texts(
        [PROMPTS[prompt] for (prompt, _), _ in rows],
        [SAMPLINGS[how] for (_, how), _ in rows],
        [latents[prompt] if conditioned else None for (prompt, _), conditioned in rows],
    )
    assert len(rows) > 2 * MAX_ROWS
    for row, piece in zip(rows, pieces, strict=True):
        assert (piece.text, piece.finish_reason, piece.tokens) == lone_rows[row]


@pytest.mark.parametrize("conditioned", [False, True])
def test_a_text_goes_on_where_it_outgrows_its_cache(
    decoder, latents, conditioned: bool, monkeypatch
) -> None:
    """Beside rows that grow too or end before: a shorter text begins the longer one."""
    monkeypatch.setattr(decoder, "stop_id", -1)
    how = {"temperature": 10.0, "seed": 3}
    z_C = latents[0] if conditioned else None
    longest = Sampling(LEAST_POSITIONS + 6, **how)
    lone, shorter = decoder.texts([PROMPTS[0]] * 2, [longest, Sampling(58, **how)], [z_C] * 2)
    beside = decoder.texts(
        [PROMPTS[2], PROMPTS[1], PROMPTS[0]],
        [Sampling(9), Sampling(62, **how), longest],
        [None, latents[1], z_C],
    )
    assert lone.tokens == longest.max_tokens
    assert beside[-1] == lone
    assert lone.text.startswith(shorter.text)


def test_the_longer_cache_gives_the_stock_models_words(exact) -> None:
    ours, stock = exact
    ids = ours.tokenize(PROMPTS[3])
    tokens = LEAST_POSITIONS + 10
    row = ours.row(PROMPTS[3], Sampling(tokens, temperature=10.0, seed=1))
    batch = ours.batch()
    batch.add(row)
    while batch.rows:
        batch.step()
    logits_TV = stock(input_ids=torch.tensor([ids + row.tail.ids]), use_cache=False).logits[0]
    generator = torch.Generator().manual_seed(1)
    chosen = [
        int(torch.multinomial((logits_V / 10.0).softmax(-1), 1, generator=generator))
        for logits_V in logits_TV[len(ids) - 1 : -1].detach()
    ]
    assert sum(a == b for a, b in zip(chosen, row.tail.ids, strict=True)) >= tokens - 2


def test_a_seed_gives_its_text_again_and_another_seed_another(decoder) -> None:
    texts = {
        seed: [whole(decoder, PROMPTS[0], Sampling(8, temperature=10.0, seed=seed)) for _ in "ab"]
        for seed in (0, 1, 2**64 - 1)
    }
    assert all(first == second for first, second in texts.values())
    assert len({first for first, _ in texts.values()}) == 3


@pytest.mark.parametrize("top_p", [1e-6, 1e-50])
def test_a_tiny_nucleus_is_greedy_at_any_temperature(decoder, top_p: float) -> None:
    greedy = whole(decoder, PROMPTS[1], Sampling(5))
    assert whole(decoder, PROMPTS[1], Sampling(5, temperature=10.0, top_p=top_p)) == greedy


@pytest.mark.parametrize("temperature", [1e-38, 1e-6])
def test_a_tiny_temperature_is_greedy(decoder, temperature: float) -> None:
    greedy = whole(decoder, PROMPTS[1], Sampling(5))
    assert whole(decoder, PROMPTS[1], Sampling(5, temperature=temperature)) == greedy


@pytest.mark.parametrize(
    ("rows", "positions", "readers", "adds"),
    [(2, 64, 1, False), (16, 64, 1, True), (4, 128, 1, False), (2, 64, 1, True), (4, 64, 4, True)],
)
@torch.inference_mode()
def test_a_recorded_step_gives_the_bits_of_the_step_itself(
    decoder, rows, positions, readers, adds
) -> None:
    """On other tokens, other places and another cache than it was recorded with."""
    network, generator = decoder.network, torch.Generator().manual_seed(rows)
    width = network.connector.layout.hidden_size
    steps = LeanSteps(network, record=True)
    for number in range(RECORD_AFTER + 3):
        cache = network.rows_cache(rows, positions)
        for stored in cache.stored():
            for one in stored:
                one.normal_(generator=generator)
        at_R1 = torch.randperm(positions, generator=generator)[:rows, None]
        places_R = at_R1[:, 0]
        if readers == 1:
            places_R = places_R + positions * torch.arange(rows)
        else:
            cache = cache.shared(0, readers)
        tokens = Pass(
            torch.randint(1000, 20000, (rows, 1), generator=generator),
            at_R1,
            (torch.arange(positions) <= at_R1)[:, None],
            places_R,
            cache,
            torch.randn(rows, 1, width, generator=generator) if adds else None,
        )
        if 0 < number < RECORD_AFTER - 1:
            steps._taken[rows, positions, readers, adds] += 1
            continue
        ours = steps.logits(tokens)
        assert bits(ours) == bits(network.logits(network.step(tokens)))
    assert list(steps._recorded) == [(rows, positions, readers, adds)]


class Scripted(nn.Module):
    """A network that says the tokens it was given, and nothing of its own."""

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, network: nn.Module, script: list[int], vocabulary: int) -> None:
        super().__init__()
        self.lm = nn.Identity()
        self.connector = network.connector
        self._script = iter(script + script[-1:] * 128)
        self._vocabulary = vocabulary

    def rows_cache(self, rows, positions):
        return RowsCache.empty(1, rows, positions, 1, 1, torch.zeros(1))

    def step(self, tokens):
        return torch.zeros(*tokens.ids_RQ.shape, 1)

    def logits(self, hidden):
        logits = torch.zeros(len(hidden), 1, self._vocabulary)
        logits[:, 0, next(self._script)] = 1.0
        return logits


def player_of(network: Scripted, tokenizer) -> Decoder:
    """A decoder with this network, a token a step: the next one must be the script's next."""
    player = Decoder(network, tokenizer, 384, 128)
    player.drafts = False
    return player


def scripted(decoder: Decoder, tokens: list[int], sampling: Sampling) -> list[Piece]:
    """The pieces of a prompt whose continuation is these tokens."""
    network = Scripted(decoder.network, tokens, len(decoder.tokenizer))
    player = player_of(network, decoder.tokenizer)
    return [pieces[0] for pieces in player.generate(["The end"], [sampling])]


def continuation(decoder: Decoder, tokens: list[int]) -> str:
    """What tokens add to the prompt's text."""
    spacing, prompt = Spacing(decoder.tokenizer), decoder.tokenize("The end")
    before, after = (decoder.tokenizer.decode(ids) for ids in (prompt, prompt + tokens))
    return spacing.written(after).removeprefix(before)


@settings(max_examples=60, deadline=None)
@given(tokens=st.lists(st.integers(999, 30521), min_size=1, max_size=24), data=st.data())
def test_pieces_of_a_stream_add_up_to_the_text(decoder, tokens, data) -> None:
    """Whatever the tokens: word ends, punctuation that joins, stop strings or none."""
    text = continuation(decoder, tokens)
    stops = []
    for _ in range(data.draw(st.integers(0, 2))):
        low = data.draw(st.integers(0, max(0, len(text) - 1)))
        stops.append(text[low : low + data.draw(st.integers(1, 6))] or "x")
    pieces = scripted(decoder, [*tokens, decoder.stop_id], Sampling(128, stop=tuple(stops)))
    for said in range(1, len(tokens) + 1):
        text = continuation(decoder, tokens[:said])
        blanks = len(text) - len(text.lstrip())
        cuts = [text.find(stop, blanks) for stop in stops if stop in text[blanks:]]
        if cuts:  # the token that makes a stop string whole is the last
            text = text[: min(cuts)]
            break
    assert joined(pieces) == (text, "stop", said)
    assert not any(stop in joined(pieces)[0].lstrip() for stop in stops)


def test_a_stop_string_that_spans_tokens_ends_the_text_before_it(decoder) -> None:
    tokens = decoder.tokenizer("red green blue", add_special_tokens=False)["input_ids"]
    assert len(tokens) == 3
    pieces = scripted(decoder, tokens, Sampling(3, stop=("en bl",)))
    assert joined(pieces) == (" red gre", "stop", 3)
    assert [piece.text for piece in pieces] == ["", " red g", "re"]


def test_nothing_of_a_stop_string_is_let_out_before_it_is_whole(decoder) -> None:
    tokens = decoder.tokenizer("!!!!", add_special_tokens=False)["input_ids"]
    pieces = scripted(decoder, tokens, Sampling(4, stop=("!!!!",)))
    assert [piece.text for piece in pieces] == [""] * 4


@pytest.fixture(scope="module")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token for every byte, as in GPT-2: a character may take several."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: at for at, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


@settings(max_examples=40, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12))
def test_a_character_of_several_tokens_comes_whole(decoder, byte_tokenizer, text: str) -> None:
    tokens = byte_tokenizer(text, add_special_tokens=False)["input_ids"]
    network = Scripted(decoder.network, [*tokens, byte_tokenizer.eos_token_id], 257)
    player = player_of(network, byte_tokenizer)
    pieces = [pieces[0] for pieces in player.generate(["The end"], [Sampling(128)])]
    assert joined(pieces) == (text, "stop", len(tokens))
    assert all("\ufffd" not in piece.text for piece in pieces) or "\ufffd" in text


def test_the_earliest_of_several_stop_strings_counts(decoder) -> None:
    tokens = decoder.tokenizer("red green blue", add_special_tokens=False)["input_ids"]
    assert joined(scripted(decoder, tokens, Sampling(3, stop=("lue", "n b"))))[0] == " red gree"


def test_a_blank_as_stop_string_ends_the_text_after_its_first_word(decoder) -> None:
    """The blank before that word belongs to how the decoder writes, and to no answer."""
    tokens = decoder.tokenizer("red green", add_special_tokens=False)["input_ids"]
    pieces = scripted(decoder, tokens, Sampling(3, stop=(" ",)))
    assert joined(pieces) == (" red", "stop", 2)
    assert [piece.text for piece in pieces] == [" red", ""]


def test_blanks_before_the_first_word_are_no_stop_however_they_come(
    decoder, byte_tokenizer
) -> None:
    tokens = byte_tokenizer("  \n x \ny", add_special_tokens=False)["input_ids"]
    network = Scripted(decoder.network, tokens, 257)
    player = player_of(network, byte_tokenizer)
    sampling = Sampling(len(tokens), stop=(" \n",))
    pieces = [pieces[0] for pieces in player.generate(["The end"], [sampling])]
    assert joined(pieces) == ("  \n x", "stop", 7)


def test_a_stop_string_works_on_what_is_sampled(decoder) -> None:
    sampling, text = endless(decoder, PROMPTS[0])
    stop = text[len(text) // 2 :][:4]
    cut, reason, _ = whole(decoder, PROMPTS[0], dataclasses.replace(sampling, stop=(stop,)))
    assert (cut, reason) == (text[: text.find(stop)], "stop")


def test_the_end_token_ends_the_text_and_does_not_count(decoder) -> None:
    tokens = decoder.tokenizer("red green", add_special_tokens=False)["input_ids"]
    pieces = scripted(decoder, [*tokens, decoder.stop_id], Sampling(10))
    assert joined(pieces) == (" red green", "stop", 2)
    assert joined(scripted(decoder, [decoder.stop_id], Sampling(10))) == ("", "stop", 0)


class Hasty(LeanSteps):
    """Steps of a network that would always rather end."""

    def logits(self, step):
        found = super().logits(step).clone()
        found[..., self.stop_id] = 1e4
        return found


@pytest.mark.parametrize("sampling", [Sampling(10), Sampling(10, temperature=1.0)])
def test_an_answer_from_a_latent_is_not_empty(decoder, latents, monkeypatch, sampling) -> None:
    hasty = Hasty(decoder.network, record=False)
    hasty.stop_id = decoder.stop_id
    monkeypatch.setattr(decoder, "_steps", hasty)
    plain, spoken = decoder.texts(PROMPTS[:2], [sampling] * 2, [None, latents[0]])
    assert (plain.text, plain.tokens, plain.finish_reason) == ("", 0, "stop")
    assert spoken.text.strip() and (spoken.tokens, spoken.finish_reason) == (1, "stop")


@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_max_tokens_is_kept(decoder, tokens: int) -> None:
    sampling, longest = endless(decoder, PROMPTS[0])
    short = dataclasses.replace(sampling, max_tokens=tokens)
    text, reason, said = whole(decoder, PROMPTS[0], short)
    assert (reason, said) == ("length", tokens)
    assert longest.startswith(text)


def test_a_prompt_and_an_answer_may_be_as_long_as_the_limits(decoder, latents) -> None:
    prompt = " ".join(["river"] * decoder.max_prompt_tokens)
    candidate = " " + " ".join(["river"] * decoder.max_new_tokens)
    (score,) = decoder.score(prompt, [candidate], latents[0])
    assert len(score.token_logprobs) == decoder.max_new_tokens
    (score,) = decoder.score(prompt, [candidate])
    assert all(math.isfinite(logprob) for logprob in score.token_logprobs)
    network = Scripted(decoder.network, [2000], len(decoder.tokenizer))
    player = player_of(network, decoder.tokenizer)
    assert whole(player, prompt, Sampling(decoder.max_new_tokens))[1:] == ("length", 128)


def test_the_last_token_of_the_longest_answer_has_a_position(decoder) -> None:
    """A prompt and a text at their limits stay within the decoder's positions."""
    longest = 1 + decoder.max_prompt_tokens + decoder.max_new_tokens - 1
    assert longest <= decoder.network.lm.config.max_position_embeddings


@pytest.mark.parametrize("conditioned", [False, True])
def test_scores_are_log_softmax_by_hand(exact, weights, conditioned: bool) -> None:
    ours, stock = exact
    prompt, candidates = PROMPTS[0], [" Tarsin", " a town by the sea", " red", "##ing?"] * 3
    z_1C = torch.from_numpy(weights.encoder.values([Text(prompt, "Tarsin")]))
    scores = ours.score(prompt, candidates, z_1C[0] if conditioned else None)
    head = ours.tokenize(prompt)
    for candidate, score in zip(candidates, scores, strict=True):
        tail = ours.tokenizer(candidate, add_special_tokens=False)["input_ids"]
        ids_1T = torch.tensor([head + tail])
        with torch.inference_mode():
            if conditioned:
                mask_1T = torch.ones_like(ids_1T, dtype=torch.bool)
                hidden = ours.network.hidden(ids_1T, mask_1T, z_1C)
                logits_TV = ours.network.logits(hidden)[0]
            else:
                logits_TV = stock(input_ids=ids_1T, use_cache=False).logits[0]
        assert len(score.token_logprobs) == len(tail)
        for step, token in enumerate(tail):
            row = logits_TV[len(head) - 1 + step].double().numpy()
            by_hand = row[token] - row.max() - math.log(np.exp(row - row.max()).sum())
            assert score.token_logprobs[step] == pytest.approx(by_hand, abs=1e-4)
            assert score.token_is_argmax[step] == (row.argmax() == token)


def test_a_candidates_score_does_not_depend_on_the_others(decoder, latents) -> None:
    candidates = [" Tarsin", " Ostrel", " red", " a town by the sea", " river" * 20, " x"] * 2
    for z_C in (None, latents[0]):
        together = decoder.score(PROMPTS[0], candidates, z_C)
        alone = [decoder.score(PROMPTS[0], [candidate], z_C)[0] for candidate in candidates]
        assert together == alone


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(0),
        Sampling(129),
        Sampling(4, temperature=-0.1),
        Sampling(4, temperature=10.1),
        Sampling(4, temperature=math.nan),
        Sampling(4, top_p=0.0),
        Sampling(4, top_p=1.1),
        Sampling(4, stop=("a", "")),
        Sampling(4, stop=("a", "b", "c", "d", "e")),
    ],
)
def test_bad_sampling_settings_are_refused(decoder, sampling: Sampling) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decoder.generate([PROMPTS[0]], [sampling])
    assert caught.value.reason == "BAD_SAMPLING"


def test_bad_texts_are_refused(decoder) -> None:
    most = decoder.max_prompt_tokens
    for prompt, reason in (("", "EMPTY_TEXT"), ("river " * (most + 1), "TEXT_TOO_LONG")):
        for call in (decoder.tokenize, lambda prompt: decoder.score(prompt, ["a"])):
            with pytest.raises(InvalidArgument) as caught:
                call(prompt)
            assert caught.value.reason == reason
    for candidates, reason in (
        ([], "EMPTY_TEXT"),
        (["a", ""], "EMPTY_TEXT"),
        (["river " * (decoder.max_new_tokens + 1)], "TEXT_TOO_LONG"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            decoder.score("a", candidates)
        assert caught.value.reason == reason


@pytest.mark.parametrize("prompts", [[], ["a"] * (MAX_ROWS + 1)])
def test_one_batch_is_of_so_many_prompts(decoder, prompts: list[str]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decoder.generate(prompts, [Sampling()] * len(prompts))
    assert caught.value.reason == "BAD_BATCH"
