"""Published checkpoints: the reference's weights give the reference's outputs, to 1e-5."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertTokenizer, GPT2Config, PreTrainedTokenizerFast
from typer.testing import CliRunner

import larimar
from larimar.algebra import episode_read, episode_write, kl_address
from larimar.checkpoint import ModelFolder, Networks
from larimar.cli import app
from larimar.encoder import Text, TokenizedTexts
from larimar.reference import MEMORY_FILE, ReferenceCheckpoint, reference_decoder_tokenizer
from tests.golden import golden_arrays, golden_path

NEWTON_STEPS = 15
BETA = 0.5
END = "<|endoftext|>"


def lightning(weights: dict[str, torch.Tensor], **more) -> dict:
    """A checkpoint in Lightning's layout, with the buffers that old versions saved."""
    state = {f"model.{key}": tensor for key, tensor in weights.items()}
    state["model.decoder.transformer.h.0.attn.bias"] = torch.ones(1, 1, 32, 32).tril()
    state["model.decoder.transformer.h.1.attn.masked_bias"] = torch.tensor(-1e4)
    state["model.encoder.embeddings.position_ids"] = torch.arange(24)[None]
    return {
        "state_dict": state,
        "hyper_parameters": {"latent_size": 16, "memory_size": 8, "w_logvar_setting": 3},
        "epoch": 4,
        "global_step": 1000,
        "pytorch-lightning_version": "2.0.0",
        "callbacks": {},
        "loops": {},
        "lr_schedulers": [],
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": []}],
        **more,
    }


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """The reference's tiny model, by the reference's names."""
    return load_file(golden_path("tiny_model.safetensors"))


@pytest.fixture(scope="module")
def io() -> dict[str, torch.Tensor]:
    """Inputs and outputs of the reference's tiny model."""
    arrays = golden_arrays("tiny_model_io.npz")
    return {key: torch.from_numpy(array) for key, array in arrays.items()}


@pytest.fixture(scope="module")
def path(weights, tmp_path_factory) -> Path:
    """The same as a published checkpoint."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.ckpt"
    torch.save(lightning(weights), path)
    return path


def configurations() -> tuple[BertConfig, GPT2Config]:
    """The backbones, as the reference's configuration has them; vocabularies are the default."""
    document = json.loads(golden_path("tiny_model_config.json").read_text())
    encoder, decoder = document["encoder"], document["decoder"]
    for fields in (encoder, decoder):
        del fields["vocab_size"], fields["latent_size"]
    decoder["activation_function"] = decoder.pop("activation")
    return BertConfig(**encoder), GPT2Config(**decoder)


@pytest.fixture(scope="module")
def networks(path: Path) -> Networks:
    """The checkpoint's networks."""
    loaded = ReferenceCheckpoint.open(path).networks(*configurations(), "tiny")
    loaded.modules().eval()
    return loaded


@pytest.fixture(scope="module")
def texts(io) -> TokenizedTexts:
    rows = [(row[mask.bool()].tolist(), 0) for row, mask in zip(io["enc_ids"], io["enc_mask"])]
    texts = TokenizedTexts(rows, pad_id=0)
    assert torch.equal(texts.ids_BT, io["enc_ids"])
    return texts


def near(ours: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool((ours - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.abs().max())))


def logits_of(networks: Networks, ids_BT: torch.Tensor, z_BC: torch.Tensor | None) -> torch.Tensor:
    mask_BT = torch.ones_like(ids_BT, dtype=torch.bool)
    return networks.decoder.logits(networks.decoder.hidden(ids_BT, mask_BT, z_BC))


@torch.inference_mode()
def test_the_encoder_gives_the_references_states_and_latents(networks, io, texts) -> None:
    encoder = networks.encoder
    states_BTD = encoder.states(texts)
    assert near(states_BTD, io["enc_last"])
    assert near(encoder.pooled(states_BTD), io["enc_pooled"])
    assert near(encoder.value(states_BTD, texts), io["enc_mu"])
    assert near(encoder.prompt_latent(states_BTD, texts), io["enc_mu"])
    halves_B2C = encoder.to_latent(encoder.pooled(states_BTD))
    assert near(halves_B2C[:, 16:], io["enc_second_half"])


@torch.inference_mode()
def test_the_decoder_gives_the_references_logits(networks, io) -> None:
    ids_BT, z_BC = io["dec_ids"], io["dec_z"]
    assert near(logits_of(networks, ids_BT, z_BC), io["dec_logits"])
    assert near(logits_of(networks, ids_BT, z_BC * 0), io["dec_logits_zero_latent"])
    assert near(logits_of(networks, ids_BT, None), io["dec_logits_no_latent"])
    assert near(mean_loss(logits_of(networks, ids_BT, z_BC), ids_BT), io["dec_loss"][0])


@torch.inference_mode()
def test_slot_and_added_embedding_alone_give_the_references_logits(networks, io) -> None:
    ids_BT, z_BC = io["dec_ids"], io["dec_z"]
    lm, connector = networks.decoder.lm, networks.decoder.connector
    rows, tokens = ids_BT.shape
    slot_alone = lm(
        input_ids=ids_BT,
        attention_mask=torch.ones(rows, 1 + tokens),
        position_ids=torch.arange(1, 1 + tokens).expand(rows, -1),
        past_key_values=connector.cache(z_BC),
    ).logits
    assert near(slot_alone, io["dec_logits_memory_only"])
    embeddings = lm.get_input_embeddings()(ids_BT) + connector.embedding(z_BC)
    assert near(lm(inputs_embeds=embeddings).logits, io["dec_logits_emb_only"])


def mean_loss(logits_BTV: torch.Tensor, ids_BT: torch.Tensor) -> torch.Tensor:
    """The reference's cross-entropy: a mean over every position, those of padding too."""
    return F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten())


@torch.inference_mode()
def test_the_objective_gives_the_references_losses(networks, io, texts, path) -> None:
    """Equation 1 for one episode of 4 facts, without noise: z is written and read again."""
    memory = ReferenceCheckpoint.open(path).memory
    z_NC = networks.encoder.value(networks.encoder.states(texts), texts).double()
    prior_KC = torch.eye(8, 16, dtype=torch.float64)
    m_KC, _ = episode_write(z_NC, prior_KC, newton_steps=NEWTON_STEPS)
    read_NC, w_NK = episode_read(z_NC, m_KC, newton_steps=NEWTON_STEPS)
    assert near(m_KC, io["fwd_M"][0]) and near(read_NC, io["fwd_zread"][:, 0])
    logvar_K = F.linear(
        m_KC.flatten(), memory["w_logvar.weight"].double(), memory["w_logvar.bias"].double()
    )
    ids_NT = io["dec_ids"]
    rec = mean_loss(logits_of(networks, ids_NT, read_NC.float()), ids_NT)
    ae = mean_loss(logits_of(networks, ids_NT, z_NC.float()), ids_NT)
    dec = mean_loss(logits_of(networks, ids_NT, torch.zeros(4, 16)), ids_NT)
    kl_N = kl_address(w_NK, logvar_K).sum(1)
    assert near(rec, io["fwd_loss_rec"][0])
    assert near(ae, io["fwd_loss_ae"][0])
    assert near(dec, io["fwd_loss_dec"][0])
    assert near(kl_N, io["fwd_loss_kl"])
    assert near(rec + ae + dec + BETA * kl_N, io["fwd_loss"])


def test_sizes_and_the_kind_of_log_variance_are_read_from_shapes(weights, tmp_path) -> None:
    kinds = {
        "scalar": {"w_logvar": torch.zeros(1)},
        "slot": {"w_logvar": torch.zeros(8)},
        "latent": {"w_logvar.weight": torch.zeros(8, 16), "w_logvar.bias": torch.zeros(8)},
        "memory": {"w_logvar.weight": torch.zeros(8, 128), "w_logvar.bias": torch.zeros(8)},
        "both": {"w_logvar.weight": torch.zeros(8, 144), "w_logvar.bias": torch.zeros(8)},
    }
    rest = {key: tensor for key, tensor in weights.items() if "w_logvar" not in key}
    for kind, tensors in kinds.items():
        named = {f"memory.{key}": tensor for key, tensor in tensors.items()}
        torch.save(lightning(rest | named), tmp_path / "a.ckpt")
        found = ReferenceCheckpoint.open(tmp_path / "a.ckpt")
        assert (found.slots, found.value_size, found.logvar_kind) == (8, 16, kind)


# As a model folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, str]:
    """Folders with the configuration and the tokenizer of encoder and decoder, and no weights."""
    root = tmp_path_factory.mktemp("sources")
    encoder, decoder = configurations()
    words = [f"w{number}" for number in range(59)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: at for at, token in enumerate([*special, *words[:45]])}
    encoder.save_pretrained(root / "encoder")
    BertTokenizer(vocab=vocabulary).save_pretrained(root / "encoder")
    decoder.save_pretrained(root / "decoder")
    backend = Tokenizer(models.WordLevel({w: at for at, w in enumerate([*words, END])}, "w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END).save_pretrained(
        root / "decoder"
    )
    return {"encoder": str(root / "encoder"), "decoder": str(root / "decoder")}


def imported(checkpoint: Path, sources: dict[str, str], out: Path, *more: str):
    named = [f"--{side}={folder}" for side, folder in sources.items()]
    command = ["import-reference", str(checkpoint), *named, "--out", str(out), *more]
    return CliRunner().invoke(app, command)


def test_a_checkpoint_becomes_a_model_folder(path, sources, weights, networks, tmp_path) -> None:
    out = tmp_path / "model"
    done = imported(path, sources, out, "--dtype", "float32", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == {
        "folder": str(out),
        "value_size": 16,
        "slots": 8,
        "log_variance": "memory",
    }
    folder = ModelFolder.open(out)
    encoder = folder.encoder(torch.float32)
    texts = TokenizedTexts([encoder.tokenize(Text("w3 w7", "w9"))], pad_id=0)
    with torch.inference_mode():
        wanted = networks.encoder.value(networks.encoder.states(texts), texts)[0]
    assert np.allclose(encoder.values([Text("w3 w7", "w9")])[0], wanted.numpy(), atol=1e-5)
    decoder = folder.networks().decoder.eval()
    z_1C = wanted[None].clone()
    with torch.inference_mode():
        ids_1T = torch.tensor([[61, 3, 7, 9]])
        ours = Networks(folder.config, folder.networks().encoder, decoder)
        assert torch.equal(logits_of(ours, ids_1T, z_1C), logits_of(networks, ids_1T, z_1C))
    kept = load_file(folder.file(MEMORY_FILE))
    assert torch.equal(kept["memory_mean"], weights["memory.memory_mean"])
    assert imported(path, sources, out).exit_code == 2, "a folder is not written over"


def test_the_decoder_has_the_tokens_that_the_reference_adds_in_its_order(sources) -> None:
    tokenizer = reference_decoder_tokenizer(sources["decoder"])
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert ids == (60, 61, 62)


class Bomb:
    """Runs something when it is unpickled."""

    fired = False

    def __reduce__(self):
        return (setattr, (Bomb, "fired", True))


def refusal(result) -> str:
    assert result.exit_code == 1
    return result.stderr


def test_what_is_no_checkpoint_is_refused_and_nothing_in_it_runs(
    weights, path, sources, tmp_path
) -> None:
    out = tmp_path / "model"
    bad = tmp_path / "bad.ckpt"
    torch.save(lightning(weights, callbacks={"one": Bomb()}), bad)
    assert "save its state_dict alone" in refusal(imported(bad, sources, out))
    assert not Bomb.fired
    bad.write_bytes(b"nothing of the kind")
    assert "not a checkpoint of tensors" in refusal(imported(bad, sources, out))
    torch.save({"state_dict": {"net.weight": torch.zeros(2)}}, bad)
    assert "net.weight" in refusal(imported(bad, sources, out))
    torch.save(
        lightning({key: one for key, one in weights.items() if not key.startswith("memory")}), bad
    )
    assert "lacks memory's memory_mean" in refusal(imported(bad, sources, out))
    assert "no checkpoint at" in refusal(imported(tmp_path / "none", sources, out))
    assert not out.exists()


def test_a_checkpoint_of_another_decoder_is_refused(path, sources, tmp_path) -> None:
    other = tmp_path / "decoder"
    other.mkdir()
    for file in Path(sources["decoder"]).iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "config.json").read_text())
    for changed in ({"n_layer": 3}, {"n_positions": 40}):
        (other / "config.json").write_text(json.dumps(config | changed))
        result = imported(path, sources | {"decoder": str(other)}, tmp_path / "out")
        assert "not of the model that --decoder names" in refusal(result)


def test_a_bare_state_dictionary_is_taken_too(weights, tmp_path) -> None:
    torch.save(weights, tmp_path / "state.pt")
    assert ReferenceCheckpoint.open(tmp_path / "state.pt").value_size == 16
    with pytest.raises(larimar.NotFound, match="Lightning file"):
        ReferenceCheckpoint.open(tmp_path / "nothing.pt")
