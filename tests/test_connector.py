"""The connector, held to the reference implementation's logits on its own tiny weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from larimar.config import ConnectorLayout
from larimar.connector import Connector
from larimar.decoder import DecoderNetwork
from tests.golden import golden_path

REFERENCE = ConnectorLayout(
    slots=1,
    value_size=16,
    layers=2,
    kv_heads=3,
    head_dim=8,
    hidden_size=24,
    shared_key_value=True,
    slot_bias=False,
    embedding_add=True,
    first_position=1,
)


@pytest.fixture(scope="module")
def reference() -> tuple[DecoderNetwork, dict[str, np.ndarray]]:
    """The reference's tiny decoder in a stock GPT-2, and its inputs and outputs."""
    weights = load_file(golden_path("tiny_model.safetensors"))
    lm = GPT2LMHeadModel(
        GPT2Config(vocab_size=63, n_positions=32, n_embd=24, n_layer=2, n_head=3, n_inner=96)
    ).eval()
    own = {
        key.removeprefix("decoder."): value
        for key, value in weights.items()
        if key.startswith("decoder.") and ".linear" not in key
    }
    missing, unexpected = lm.load_state_dict(own, strict=False)
    assert not unexpected and not [key for key in missing if "attn.bias" not in key]
    connector = Connector(REFERENCE)
    connector.to_slot.weight.data = weights["decoder.transformer.linear.weight"]
    connector.to_embedding.weight.data = weights["decoder.transformer.linear_emb.weight"]
    return DecoderNetwork(lm, connector).eval(), dict(np.load(golden_path("tiny_model_io.npz")))


def logits_of(network: DecoderNetwork, io: dict, latent: bool) -> np.ndarray:
    ids_BT = torch.from_numpy(io["dec_ids"]).long()
    z_BC = torch.from_numpy(io["dec_z"]).float() if latent else None
    mask_BT = torch.ones_like(ids_BT, dtype=torch.bool)
    with torch.inference_mode():
        return network.logits(network.hidden(ids_BT, mask_BT, z_BC)).numpy()


def assert_near(ours: np.ndarray, wanted: np.ndarray) -> None:
    assert np.abs(ours - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max())


def test_slot_and_added_embedding_give_the_references_logits(reference) -> None:
    network, io = reference
    assert_near(logits_of(network, io, latent=True), io["dec_logits"])


def test_slot_alone_gives_the_references_logits(reference) -> None:
    network, io = reference
    layout = dataclasses.replace(REFERENCE, embedding_add=False)
    alone = Connector(layout)
    alone.to_slot.weight.data = network.connector.to_slot.weight.data
    without_embedding = DecoderNetwork(network.lm, alone).eval()
    assert_near(logits_of(without_embedding, io, latent=True), io["dec_logits_memory_only"])


def test_without_a_latent_it_is_the_plain_decoder(reference) -> None:
    network, io = reference
    ours = logits_of(network, io, latent=False)
    ids_BT = torch.from_numpy(io["dec_ids"]).long()
    with torch.inference_mode():
        stock = network.lm(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT)).logits
    assert np.array_equal(ours, stock.numpy())
    assert_near(ours, io["dec_logits_no_latent"])


def test_cache_holds_the_references_slot(reference) -> None:
    network, io = reference
    cache = network.connector.cache(torch.from_numpy(io["dec_z"]).float())
    keys, values = cache.layers[0].keys, cache.layers[0].values
    assert_near(keys[:, :, 0].detach().numpy(), io["dec_present0_key"][:, :, 0])
    assert_near(values[:, :, 0].detach().numpy(), io["dec_present0_value"][:, :, 0])


def test_a_grouped_query_rotary_decoder_takes_the_same_connector() -> None:
    torch.manual_seed(0)
    lm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    ).eval()
    layout = ConnectorLayout(
        slots=3, value_size=12, layers=2, kv_heads=2, head_dim=8, hidden_size=32
    )
    network = DecoderNetwork(lm, Connector(layout)).eval()
    ids_BT = torch.randint(0, 50, (2, 5))
    mask_BT = torch.ones_like(ids_BT, dtype=torch.bool)
    z_BC = torch.randn(2, 12)
    with torch.inference_mode():
        conditioned = network.logits(network.hidden(ids_BT, mask_BT, z_BC))
        other = network.logits(network.hidden(ids_BT, mask_BT, z_BC * 2))
        plain = network.logits(network.hidden(ids_BT, mask_BT))
        stock = lm(input_ids=ids_BT, attention_mask=mask_BT.long()).logits
    assert torch.equal(plain, stock)
    assert not torch.allclose(conditioned, plain, atol=1e-4)
    assert not torch.allclose(conditioned, other, atol=1e-4)


def test_value_size_must_be_whole_slots() -> None:
    with pytest.raises(ValueError, match="multiple"):
        Connector(dataclasses.replace(REFERENCE, slots=3))
