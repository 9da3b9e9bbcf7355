"""The decoder: plain without a latent, rows that keep to themselves, streams, scores, service."""

from __future__ import annotations

import math

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
    DynamicCache,
    PreTrainedTokenizerFast,
)

from larimar.checkpoint import DECODER, EMBEDDINGS, ModelFolder
from larimar.decoder import BUCKET_ROWS, BUCKET_TOKENS, Decoder, Piece, Sampling
from larimar.encoder import Text
from larimar.errors import InvalidArgument
from tests.decoding import PROMPTS, WILD, joined, whole
from tests.in_process import Weights


def stock_model(folder: ModelFolder, dtype: torch.dtype) -> nn.Module:
    """The folder's weights in the model of `transformers`, by nothing of ours."""
    fields = dict(folder.config.decoder_backbone)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    stock = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    tensors = load_file(folder.path / DECODER)
    own = {
        key.removeprefix("lm."): value.float()
        for key, value in tensors.items()
        if key.startswith("lm.")
    }
    _, unexpected = stock.load_state_dict(own, strict=False)
    assert not unexpected
    if folder.config.shared_embeddings:
        table = load_file(folder.path / EMBEDDINGS)["word_embeddings"].float()
        stock.get_input_embeddings().weight.data.copy_(table)
    stock.tie_weights()
    return stock.to(dtype).eval()


@pytest.fixture(scope="module")
def stock(weights: Weights) -> nn.Module:
    return stock_model(weights.folder, weights.dtype)


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
    """Equal shape: the same padding on the left, the same copies, a cache step by step."""
    seen = []
    head = decoder.network.logits

    def noted(hidden):
        seen.append(head(hidden))
        return seen[-1]

    monkeypatch.setattr(decoder.network, "logits", noted)
    prompts, steps = PROMPTS[:2], 5
    sampling = Sampling(steps, temperature=10.0)
    texts = ["", ""]
    for pieces in decoder.generate(prompts, [sampling] * 2):
        texts = [text + piece.text for text, piece in zip(texts, pieces, strict=True)]
    rows = [decoder.tokenize(prompt) for prompt in prompts]
    rows += [rows[0]] * (BUCKET_ROWS - len(rows))
    length = next(size for size in BUCKET_TOKENS if len(rows[0]) <= size)
    ids_BT = torch.tensor([[decoder.pad_id] * (length - len(row)) + row for row in rows])
    mask_BT = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    cache, generators = DynamicCache(), [torch.Generator().manual_seed(0) for _ in prompts]
    for logits in seen:
        theirs = stock(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        assert bits(logits) == bits(theirs)
        chosen = [
            int(torch.multinomial((row.float() / 10.0).softmax(-1), 1, generator=generator))
            for row, generator in zip(theirs, generators, strict=False)
        ]
        ids_BT = torch.tensor([[token] for token in chosen] + [[chosen[0]]] * (BUCKET_ROWS - 2))
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(BUCKET_ROWS, 1)], dim=1)
        positions_BT = mask_BT.sum(1, keepdim=True) - 1
    assert len(seen) == steps


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
        anchor = ours.tokenizer.decode(ids[-1:])
        wanted = ours.tokenizer.decode(ids[-1:] + tokens)[len(anchor) :]
        assert whole(ours, prompt, Sampling(6))[0] == wanted


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


@pytest.mark.parametrize("conditioned", [False, True])
@settings(max_examples=6, deadline=None)
@given(rows=st.lists(st.sampled_from(ROWS), min_size=2, max_size=BUCKET_ROWS))
def test_a_row_says_what_it_would_say_alone(decoder, latents, lone_rows, conditioned, rows) -> None:
    z_BC = torch.stack([latents[prompt] for prompt, _ in rows]) if conditioned else None
    steps = list(
        decoder.generate(
            [PROMPTS[prompt] for prompt, _ in rows], [SAMPLINGS[how] for _, how in rows], z_BC
        )
    )
    for place, row in enumerate(rows):
        pieces = [pieces[place] for pieces in steps]
        last = next(at for at, piece in enumerate(pieces) if piece.finish_reason)
        assert joined(pieces[: last + 1]) == lone_rows[row, conditioned]
        assert all(piece == Piece("") for piece in pieces[last + 1 :])


def test_a_seed_gives_its_text_again_and_another_seed_another(decoder) -> None:
    texts = {
        seed: [whole(decoder, PROMPTS[0], Sampling(8, temperature=10.0, seed=seed)) for _ in "ab"]
        for seed in (0, 1, 2**64 - 1)
    }
    assert all(first == second for first, second in texts.values())
    assert len({first for first, _ in texts.values()}) == 3


def test_a_tiny_nucleus_is_greedy_at_any_temperature(decoder) -> None:
    greedy = whole(decoder, PROMPTS[1], Sampling(5))
    assert whole(decoder, PROMPTS[1], Sampling(5, temperature=10.0, top_p=1e-6)) == greedy


class Scripted(nn.Module):
    """A network that says the tokens it was given, and nothing of its own."""

    def __init__(self, network: nn.Module, script: list[list[int]], vocabulary: int) -> None:
        super().__init__()
        self.connector = network.connector
        self._script = script
        self._vocabulary = vocabulary
        self._step = -1

    def hidden(self, ids_BT, mask_BT, z_BC=None, cache=None):
        self._step += 1
        return torch.zeros(BUCKET_ROWS, ids_BT.shape[1], 1)

    def logits(self, hidden):
        logits = torch.zeros(len(hidden), 1, self._vocabulary)
        for row, tokens in enumerate(self._script):
            logits[row, 0, tokens[min(self._step, len(tokens) - 1)]] = 1.0
        return logits


def scripted(decoder: Decoder, tokens: list[int], sampling: Sampling) -> list[Piece]:
    """The pieces of a prompt whose continuation is these tokens."""
    network = Scripted(decoder.network, [tokens], len(decoder.tokenizer))
    player = Decoder(network, decoder.tokenizer, 384, 128)
    return [pieces[0] for pieces in player.generate(["The end"], [sampling])]


def continuation(decoder: Decoder, tokens: list[int]) -> str:
    """What tokens add to the prompt's text."""
    anchor = decoder.tokenize("The end")[-1:]
    return decoder.tokenizer.decode(anchor + tokens)[len(decoder.tokenizer.decode(anchor)) :]


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
        cuts = [text.find(stop) for stop in stops if stop in text]
        if cuts:  # the token that makes a stop string whole is the last
            text = text[: min(cuts)]
            break
    assert joined(pieces) == (text, "stop", said)
    assert not any(stop in joined(pieces)[0] for stop in stops)


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
    network = Scripted(decoder.network, [[*tokens, byte_tokenizer.eos_token_id]], 257)
    player = Decoder(network, byte_tokenizer, 384, 128)
    pieces = [pieces[0] for pieces in player.generate(["The end"], [Sampling(128)])]
    assert joined(pieces) == (text, "stop", len(tokens))
    assert all("\ufffd" not in piece.text for piece in pieces) or "\ufffd" in text


def test_the_earliest_of_several_stop_strings_counts(decoder) -> None:
    tokens = decoder.tokenizer("red green blue", add_special_tokens=False)["input_ids"]
    assert joined(scripted(decoder, tokens, Sampling(3, stop=("lue", "n b"))))[0] == " red gree"


def test_a_stop_string_works_on_what_is_sampled(decoder) -> None:
    text, reason, tokens = whole(decoder, PROMPTS[0], WILD)
    assert (reason, tokens) == ("length", WILD.max_tokens)
    stop = text[len(text) // 2 :][:4]
    cut, reason, _ = whole(decoder, PROMPTS[0], Sampling(10, 10.0, 1.0, 3, (stop,)))
    assert (cut, reason) == (text[: text.find(stop)], "stop")


def test_the_end_token_ends_the_text_and_does_not_count(decoder) -> None:
    tokens = decoder.tokenizer("red green", add_special_tokens=False)["input_ids"]
    pieces = scripted(decoder, [*tokens, decoder.stop_id], Sampling(10))
    assert joined(pieces) == (" red green", "stop", 2)
    assert joined(scripted(decoder, [decoder.stop_id], Sampling(10))) == ("", "stop", 0)


@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_max_tokens_is_kept(decoder, tokens: int) -> None:
    text, reason, said = whole(decoder, PROMPTS[0], Sampling(tokens, temperature=10.0, seed=3))
    assert (reason, said) == ("length", tokens)
    assert whole(decoder, PROMPTS[0], WILD)[0].startswith(text)


def test_a_prompt_and_an_answer_may_be_as_long_as_the_limits(decoder, latents) -> None:
    prompt = " ".join(["river"] * decoder.max_prompt_tokens)
    candidate = " " + " ".join(["river"] * decoder.max_new_tokens)
    (score,) = decoder.score(prompt, [candidate], latents[0])
    assert len(score.token_logprobs) == decoder.max_new_tokens
    (score,) = decoder.score(prompt, [candidate])
    assert all(math.isfinite(logprob) for logprob in score.token_logprobs)
    network = Scripted(decoder.network, [[2000]], len(decoder.tokenizer))
    player = Decoder(network, decoder.tokenizer, decoder.max_prompt_tokens, decoder.max_new_tokens)
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
        for call in (decoder.bucket, lambda prompt: decoder.score(prompt, ["a"])):
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


@pytest.mark.parametrize("prompts", [[], ["a"] * (BUCKET_ROWS + 1), ["a", "river " * 40]])
def test_one_batch_is_of_one_bucket(decoder, prompts: list[str]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decoder.generate(prompts, [Sampling()] * len(prompts))
    assert caught.value.reason == "BAD_BATCH"
