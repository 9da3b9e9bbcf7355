"""Decoding with the architectures that users bring, small and with random weights."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from larimar.config import ConnectorLayout
from larimar.connector import Connector
from larimar.decoder import Decoder, DecoderNetwork, Sampling
from larimar.decoding import MAX_ROWS
from larimar.drafts import Drafts
from larimar.lean import RECORD_AFTER
from tests.decoding import PROMPTS

VOCABULARY = 30522
WIDTH, LAYERS, HEADS = 64, 2, 4
_LLAMA = {
    "hidden_size": WIDTH,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
BACKBONES = {
    "bert": {
        "is_decoder": True,
        "hidden_size": WIDTH,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
    },
    "gpt2": {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS},
    "gptj": {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "rotary_dim": 8},
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "mistral": _LLAMA | {"sliding_window": None},
}
REFERENCE = {"shared_key_value": True, "embedding_add": True, "first_position": 1}


def network_of(kind: str, slots: int = 3, **layout) -> DecoderNetwork:
    """A network of a kind in float32, whose latents are `slots` parts of 5."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=VOCABULARY, **BACKBONES[kind])
    attention = "eager" if kind == "gptj" else "sdpa"  # all that its code has
    lm = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    heads = getattr(config, "num_key_value_heads", None) or HEADS
    connector = Connector(
        ConnectorLayout(slots, 5 * slots, LAYERS, heads, WIDTH // HEADS, WIDTH, **layout)
    )
    with torch.no_grad():
        for parameter in connector.parameters():
            parameter.normal_(std=0.5)
    return DecoderNetwork(lm, connector).eval()


CASES = [(kind, layout) for kind in BACKBONES for layout in ({}, REFERENCE)]


@pytest.fixture(params=CASES, ids=lambda case: case[0] + "-reference" * bool(case[1]))
def pair(request, decoder) -> tuple[Decoder, DecoderNetwork]:
    """A serving decoder, and the same network as it was."""
    kind, layout = request.param
    network = network_of(kind, **layout)
    served = Decoder(copy.deepcopy(network), decoder.tokenizer, 384, 128, serving=True)
    return served, network


@torch.inference_mode()
def test_what_is_said_is_what_the_whole_sequence_says(pair) -> None:
    """Whether a step is run or recorded, with a latent and without."""
    served, network = pair
    z_BC = torch.randn(2, 15, generator=torch.Generator().manual_seed(1))
    rows = [
        served.row(PROMPTS[3], Sampling(RECORD_AFTER + 6), z_C) for z_C in (z_BC[0], z_BC[1], None)
    ]
    batch = served.batch()
    for row in rows:
        batch.add(row)
    while batch.rows:
        batch.step()
    assert rows[0].tail.ids != rows[1].tail.ids != rows[2].tail.ids
    for row in rows:
        ids_1T = torch.tensor([row.prompt_ids + row.tail.ids])
        mask_1T = torch.ones_like(ids_1T, dtype=torch.bool)
        logits_TV = network.logits(network.hidden(ids_1T, mask_1T, row.z_1C))[0]
        said = logits_TV[len(row.prompt_ids) - 1 : -1]
        chosen_T = torch.tensor(row.tail.ids)[:, None]
        assert (said.max(-1).values - said.gather(1, chosen_T)[:, 0]).max() < 1e-4
        (score,) = served.score(
            PROMPTS[3], [" a town by the sea"], None if row.z_1C is None else row.z_1C[0]
        )
        tail = served.tokenizer(" a town by the sea", add_special_tokens=False)["input_ids"]
        ids_1T = torch.tensor([row.prompt_ids + tail])
        hidden = network.hidden(ids_1T, torch.ones_like(ids_1T, dtype=torch.bool), row.z_1C)
        logprobs = network.logits(hidden)[0].log_softmax(-1)[len(row.prompt_ids) - 1 : -1]
        wanted = logprobs.gather(1, torch.tensor(tail)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(score.token_logprobs), wanted, rtol=0, atol=1e-4)


class Foreseen(Drafts):
    """Guesses what was said before without drafts; every fourth draft ends in a wrong token."""

    def __init__(self, ids: list[int]) -> None:
        super().__init__()
        self._foreseen, self._said, self._turn = ids, 0, 0

    def read(self, prompt_ids, said_ids) -> None:
        self._said = len(said_ids)

    def guess(self, tokens: int) -> list[int]:
        self._turn += 1
        draft = self._foreseen[self._said :][: max(0, tokens)]
        return draft if self._turn % 4 else [*draft[:-1], 999][: len(draft)]


def test_a_row_alone_says_with_drafts_what_it_says_without(pair) -> None:
    """Right guesses and wrong ones; plainly, with a latent, and where tokens are sampled."""
    served, _ = pair
    z_C = torch.randn(15, generator=torch.Generator().manual_seed(3))
    greedy, sampled = Sampling(70), Sampling(70, temperature=2.0, seed=5)
    for sampling, latent in ((greedy, None), (greedy, z_C), (sampled, None), (sampled, z_C)):
        rows, steps = [], []
        for drafts in (False, True):
            served.drafts = drafts
            row, batch = served.row(PROMPTS[3], sampling, latent), served.batch()
            if drafts:
                row.drafts = Foreseen(rows[0].tail.ids)
            rows.append(row)
            steps.append(0)
            batch.add(row)
            while batch.rows:
                batch.step()
                steps[-1] += 1
        assert rows[0].tail.ids == rows[1].tail.ids
        assert rows[0].take() == rows[1].take()
        assert steps[1] < steps[0] / 2


def test_rows_of_all_kinds_say_together_what_they_say_alone(pair) -> None:
    served, _ = pair
    z_BC = torch.randn(MAX_ROWS, 15, generator=torch.Generator().manual_seed(2))
    prompts = [PROMPTS[place % len(PROMPTS)] for place in range(MAX_ROWS)]
    samplings = [Sampling(5, temperature=2.0, seed=place) for place in range(MAX_ROWS)]
    latents = [z_C if place % 3 else None for place, z_C in enumerate(z_BC)]
    together = served.texts(prompts, samplings, latents)
    for place in range(0, MAX_ROWS, 4):
        one = slice(place, place + 1)
        assert served.texts(prompts[one], samplings[one], latents[one]) == together[one]


def test_a_prompt_of_one_token_without_a_start_token(decoder) -> None:
    """As GPT-2-style tokenizers have it: nothing is read before the first step."""
    served = Decoder(network_of("gpt2"), decoder.tokenizer, 384, 128)
    served.start_id = None
    assert served.tokenize("a") == decoder.tokenize("a")[1:]
    (piece,) = served.texts(["a"], [Sampling(3)])
    assert piece.tokens == 3
    (score,) = served.score("a", [" town"])
    assert len(score.token_logprobs) == 1
