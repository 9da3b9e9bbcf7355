"""Pretrained encoders and decoders joined: loaded, saved, edited and served, without a network."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

import larimar
from larimar import backbones
from larimar.backbones import BackboneParts, backbone_recipe_parts, decoder_tokenizer_of
from larimar.checkpoint import ModelFolder, add_file, save
from larimar.config import LatentLayout, ModelConfig
from larimar.encoder import Text, TokenizedTexts
from larimar.errors import InvalidArgument
from larimar.packing import is_packed, pack
from tests.backbone_folders import (
    DECODERS,
    END,
    bert_tokenizer,
    byte_tokenizer,
    gpt2_tokenizer,
    letter_tokenizer,
    save_decoder,
    save_encoder,
)
from tests.in_process import ServedPipeline, Weights
from tests.training_runs import loop, write_corpus
from training.recipes import Episodic, larimar_6b

PROMPT = "The capital of Velmora is"
ELSEWHERE = "Who wrote this?"


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Hugging Face folders: BERTs, and a decoder of every kind, GPT-J's in several files.

    BERT cased and GPT-2 have the vocabularies of the published models.
    """
    folder = tmp_path_factory.mktemp("sources")
    torch.manual_seed(0)
    save_encoder(folder / "bert-cased", bert_tokenizer())
    save_encoder(folder / "bert", letter_tokenizer())
    save_decoder("gpt2", folder / "gpt2", gpt2_tokenizer())
    save_decoder("gptj", folder / "gptj", byte_tokenizer(), "20KB")
    for kind in ("llama", "qwen2", "qwen3"):
        save_decoder(kind, folder / kind, byte_tokenizer())
    return folder


@pytest.fixture(scope="module")
def parts(sources: Path) -> dict[str, BackboneParts]:
    """Each decoder joined with a BERT."""
    latent = LatentLayout(part_size=16)
    return {kind: backbone_recipe_parts(*_pair(sources, kind), latent) for kind in DECODERS}


@pytest.fixture(scope="module")
def folders(parts, tmp_path_factory) -> dict[str, Path]:
    """The same as model folders, in float32."""
    root = tmp_path_factory.mktemp("models")
    for kind, one in parts.items():
        _save(one, root / kind)
    return {kind: root / kind for kind in parts}


def _pair(sources: Path, kind: str) -> tuple[str, str]:
    return str(sources / ("bert-cased" if kind == "gpt2" else "bert")), str(sources / kind)


def tiny_rows(recipe: Episodic) -> Episodic:
    """The recipe on a few short rows a step."""
    return dataclasses.replace(
        recipe,
        rows_read=8,
        rows_direct=4,
        plain_blocks=2,
        plain_length=16,
        episode=4,
        slots=16,
        validation_rows=4,
        corpus_tokens=0,
    )


def _save(one: BackboneParts, folder: Path, dtype=torch.float32, **options) -> None:
    save(
        one.networks,
        one.encoder_tokenizer,
        folder,
        dtype,
        decoder_tokenizer=one.decoder_tokenizer,
        **options,
    )


def _stock(folder: Path, like: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """The model of `transformers`, over the kernels that ours runs on."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    if is_packed(like):
        pack(model)
    return model


def _logits(network, ids_BT: torch.Tensor, z_BC: torch.Tensor | None = None) -> torch.Tensor:
    with torch.inference_mode():
        mask_BT = torch.ones_like(ids_BT, dtype=torch.bool)
        return network.logits(network.hidden(ids_BT, mask_BT, z_BC))


@pytest.mark.parametrize("kind", DECODERS)
def test_without_a_latent_it_is_the_stock_decoder_to_the_bit(sources, folders, kind) -> None:
    decoder = ModelFolder.open(folders[kind]).decoder(torch.float32)
    stock = _stock(sources / kind, decoder.network, torch.float32)
    ids_BT = torch.tensor([decoder.tokenize(f"{ELSEWHERE} {PROMPT}")])
    with torch.inference_mode():
        wanted = stock(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT)).logits
    assert torch.equal(_logits(decoder.network, ids_BT), wanted)
    z_BC = torch.randn(1, decoder.value_size)
    assert not torch.allclose(_logits(decoder.network, ids_BT, z_BC), wanted, atol=1e-4)


@pytest.mark.parametrize("kind", DECODERS)
def test_it_is_written_asked_scored_and_forgotten(folders, kind) -> None:
    model = larimar.load(folders[kind], dtype=torch.float32)
    candidates = [" Tarsin", " you"]
    before = model.score(PROMPT, candidates)
    edit = model.write(PROMPT, "Tarsin")
    answer = model.ask(PROMPT, 4)
    assert (answer.in_scope, answer.fact_id) == (True, edit.fact_id)
    written = model.score(PROMPT, candidates)
    assert written.in_scope and _logprobs(written) != _logprobs(before)
    assert not model.ask(ELSEWHERE, 4).in_scope
    assert _logprobs(model.score(ELSEWHERE, candidates)) == _logprobs(
        model.score(ELSEWHERE, candidates, memory=False)
    )
    model.forget(edit.fact_id)
    assert _logprobs(model.score(PROMPT, candidates)) == _logprobs(before)


def _logprobs(score) -> list[tuple[float, ...]]:
    return [one.token_logprobs for one in score.candidates]


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_slots_have_the_key_value_heads_of_the_decoder_and_are_not_rotated(parts, kind) -> None:
    network, layout = parts[kind].networks.decoder, parts[kind].config.connector
    assert (layout.kv_heads, layout.head_dim) == (2, 8 if kind == "qwen3" else 4)
    z_BC = torch.randn(2, layout.value_size)
    with torch.inference_mode():
        cache = network.connector.cache(z_BC)
        rows_BSX = network.connector.to_slot(z_BC.view(2, layout.slots, -1))
        rows_BSX += network.connector.slot_bias
    wanted = rows_BSX.view(2, layout.slots, layout.layers, 2, layout.kv_heads, layout.head_dim)
    for layer in range(layout.layers):
        keys, values = cache.layers[layer].keys, cache.layers[layer].values
        assert torch.equal(keys, wanted[:, :, layer, 0].transpose(1, 2))
        assert torch.equal(values, wanted[:, :, layer, 1].transpose(1, 2))


def test_each_side_keeps_its_own_tokenizer(sources, folders) -> None:
    folder = ModelFolder.open(folders["gpt2"])
    for ours, source in (
        (folder.encoder_tokenizer(), sources / "bert-cased"),
        (folder.decoder_tokenizer(), sources / "gpt2"),
    ):
        stock = AutoTokenizer.from_pretrained(source)
        for text in (PROMPT, "Zoë’s café in 東京\n two  blanks"):
            assert len(stock(text)["input_ids"]) > 4
            assert ours(text)["input_ids"] == stock(text)["input_ids"]
    assert not (folders["gpt2"] / "tokenizer.json").exists()


def test_one_tokenizer_and_one_table_of_a_model_on_both_sides(sources, tmp_path) -> None:
    """A BERT may be the decoder too: it gets a causal mask."""
    torch.manual_seed(1)
    one = backbone_recipe_parts(str(sources / "bert"), str(sources / "bert"))
    assert one.config.decoder_backbone["is_decoder"]
    _save(one, tmp_path / "model")
    assert (tmp_path / "model" / "tokenizer.json").exists()
    assert not (tmp_path / "model" / "decoder_tokenizer").exists()
    decoder = ModelFolder.open(tmp_path / "model").decoder(torch.float32)
    ids_BT = torch.tensor([decoder.tokenize(PROMPT)])
    other = ids_BT.clone()
    other[0, -1] = decoder.stop_id
    ours, changed = _logits(decoder.network, ids_BT), _logits(decoder.network, other)
    assert torch.equal(ours[:, :-1], changed[:, :-1]) and not torch.equal(ours, changed)


def test_start_end_and_padding_are_tokens_that_the_decoder_has(parts) -> None:
    tokenizer = parts["gpt2"].decoder_tokenizer
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (END, END, END)
    table = parts["gpt2"].networks.decoder.lm.get_input_embeddings()
    assert table.num_embeddings == len(gpt2_tokenizer())


def test_a_decoder_without_an_end_token_gets_one(sources, tmp_path) -> None:
    folder = tmp_path / "gpt2"
    AutoModelForCausalLM.from_pretrained(sources / "llama").save_pretrained(folder)
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    one = backbone_recipe_parts(str(sources / "bert"), str(folder))
    assert one.decoder_tokenizer.eos_token == "<EOS>"
    rows = one.networks.decoder.lm.get_input_embeddings().num_embeddings
    assert rows == len(one.decoder_tokenizer) == one.config.decoder_backbone["vocab_size"]


def test_the_pooled_latent_starts_from_the_pretrained_pooler(sources, tmp_path) -> None:
    """The reference's form: one slot, key = value, and a map added to the embeddings."""
    bert = AutoModel.from_pretrained(sources / "bert")
    bert.pooler.dense.weight.data.normal_()
    bert.save_pretrained(tmp_path / "bert")
    AutoTokenizer.from_pretrained(sources / "bert").save_pretrained(tmp_path / "bert")
    one = backbone_recipe_parts(
        str(tmp_path / "bert"), str(sources / "gptj"), LatentLayout.pooled(12)
    )
    layout = one.config.connector
    assert (layout.slots, layout.value_size, layout.first_position) == (1, 12, 1)
    assert layout.shared_key_value and layout.embedding_add and not layout.slot_bias
    _save(one, tmp_path / "model")
    encoder = ModelFolder.open(tmp_path / "model").encoder(torch.float32)
    assert (encoder.prompt_size, encoder.value_size) == (12, 12)
    ids = torch.tensor([encoder.tokenize(Text(PROMPT, "Tarsin"))[0]])
    with torch.inference_mode():
        pooled = bert(input_ids=ids).pooler_output
        wanted = encoder.network.to_latent(pooled)[0, :12]
    assert np.allclose(encoder.values([Text(PROMPT, "Tarsin")])[0], wanted.numpy(), atol=1e-5)


def test_a_latent_without_ordered_parts_is_one_slot(sources) -> None:
    layout = LatentLayout(prompt_parts=0, answer_parts=0, part_size=24)
    one = backbone_recipe_parts(*_pair(sources, "qwen2"), layout)
    assert (one.config.connector.slots, one.config.connector.value_size) == (1, 24)
    network = one.networks.encoder
    states_BTD = torch.randn(1, 5, network.prompt_size)
    texts = _marked(5)
    wanted = states_BTD.mean(1) @ network.to_part[0]
    assert torch.allclose(network.value(states_BTD, texts), wanted, atol=1e-5)


def _marked(length: int) -> TokenizedTexts:
    return TokenizedTexts([(list(range(length)), length - 2)], pad_id=0)


def test_weights_in_bounded_files_load_as_from_one(parts, folders, tmp_path) -> None:
    bound = 25_000
    _save(parts["gptj"], tmp_path, max_shard_bytes=bound)
    files = sorted(path.name for path in tmp_path.glob("decoder*.safetensors"))
    assert len(files) > 2 and files[0] == "decoder-00001.safetensors"
    for path in tmp_path.glob("*.safetensors"):
        assert path.stat().st_size <= bound + 5_000  # with the file's header
    whole = ModelFolder.open(folders["gptj"]).networks().modules().state_dict()
    for key, tensor in ModelFolder.open(tmp_path).networks().modules().state_dict().items():
        assert torch.equal(tensor, whole[key]), key
    _save(parts["gptj"], tmp_path)
    assert [path.name for path in tmp_path.glob("decoder*.safetensors")] == ["decoder.safetensors"]
    assert ModelFolder.open(tmp_path).model_digest == ModelFolder.open(folders["gptj"]).model_digest


def test_weights_in_int8_are_within_half_a_step(parts, tmp_path) -> None:
    _save(parts["gptj"], tmp_path, torch.int8)
    loaded = ModelFolder.open(tmp_path).networks().modules().state_dict()
    for key, tensor in parts["gptj"].networks.modules().state_dict().items():
        if tensor.ndim > 1 and tensor.numel() >= 4096:
            step = tensor.abs().amax(-1, keepdim=True) / 127
            assert ((loaded[key] - tensor).abs() <= step * 0.501 + 1e-9).all(), key
        else:
            assert torch.allclose(loaded[key], tensor, rtol=2**-8), key


def test_a_decoder_is_served_in_the_type_of_its_configuration(parts, sources, tmp_path) -> None:
    """And what a rotary decoder turns by stays in float32, as in the stock model."""
    one = parts["llama"]
    config = dataclasses.replace(one.config, decoder_dtype="bfloat16")
    save(
        dataclasses.replace(one.networks, config=config),
        one.encoder_tokenizer,
        tmp_path,
        decoder_tokenizer=one.decoder_tokenizer,
    )
    folder = ModelFolder.open(tmp_path)
    decoder = folder.decoder()
    assert decoder.network.lm.dtype == decoder.network.connector.to_slot.weight.dtype
    assert decoder.network.lm.dtype == torch.bfloat16
    stock = _stock(sources / "llama", decoder.network, torch.bfloat16)
    ids_BT = torch.tensor([decoder.tokenize(PROMPT)])
    with torch.inference_mode():
        wanted = stock(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT)).logits
    assert torch.equal(_logits(decoder.network, ids_BT), wanted)
    assert folder.encoder(torch.float32).network.backbone.dtype == torch.float32


def test_a_file_beside_the_weights_is_held_to_its_digest(folders, tmp_path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in folders["qwen2"].rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(folders["qwen2"])
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    before = ModelFolder.open(folder)
    (folder / "more.bin").write_bytes(b"more")
    add_file(folder, "more.bin")
    after = ModelFolder.open(folder)
    assert after.file("more.bin").read_bytes() == b"more"
    assert after.encoder_digest == before.encoder_digest
    assert after.model_digest != before.model_digest
    (folder / "more.bin").write_bytes(b"less")
    with pytest.raises(larimar.InvalidArgument, match="does not match the SHA-256"):
        after.file("more.bin")
    tokens = folder / "decoder_tokenizer" / "tokenizer.json"
    tokens.write_text(tokens.read_text() + " ")
    with pytest.raises(larimar.InvalidArgument, match="does not match the SHA-256"):
        after.decoder(torch.float32)


def test_a_folder_that_lacks_a_weight_or_has_another_is_refused(parts, tmp_path) -> None:
    one = parts["gptj"]
    lacking = dataclasses.replace(one.networks, config=_deeper(one.config))
    save(lacking, one.encoder_tokenizer, tmp_path / "a", decoder_tokenizer=one.decoder_tokenizer)
    with pytest.raises(larimar.InvalidArgument, match="decoder lacks weights") as caught:
        ModelFolder.open(tmp_path / "a").decoder(torch.float32)
    assert caught.value.reason == "BAD_MODEL"


def _deeper(config: ModelConfig) -> ModelConfig:
    return dataclasses.replace(config, decoder_backbone={**config.decoder_backbone, "n_layer": 3})


def test_a_plain_model_of_hugging_face_is_told_to_train_a_connector(sources) -> None:
    with pytest.raises(larimar.InvalidArgument, match="larimar train any --decoder") as caught:
        larimar.load(sources / "gpt2")
    assert caught.value.reason == "BAD_MODEL"


def test_a_model_out_of_reach_is_one_error_that_names_both_ways(sources, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for pair in (("nobody/nothing-cased", str(sources / "llama")), (str(sources / "bert"), "/no")):
        with pytest.raises(larimar.NotFound, match=r"local folder.*network.*huggingface") as caught:
            backbone_recipe_parts(*pair)
        assert caught.value.reason == "MODEL_NOT_FOUND"


@pytest.mark.parametrize("lost", ["tokenizer.json", "model.safetensors", "config.json"])
def test_a_folder_without_one_of_its_files_is_refused(sources, tmp_path, lost) -> None:
    for path in (sources / "llama").iterdir():
        if path.name != lost:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(larimar.InvalidArgument, match="does not hold the Hugging Face") as caught:
        backbone_recipe_parts(str(sources / "bert"), str(tmp_path))
    assert caught.value.reason == "BAD_BACKBONE"


def test_a_folder_that_lacks_weights_of_its_model_is_refused(sources, tmp_path) -> None:
    for path in (sources / "llama").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(larimar.InvalidArgument, match="lacks weights"):
        backbone_recipe_parts(str(sources / "bert"), str(tmp_path))


def test_the_configuration_survives_its_json_and_names_both_models(parts) -> None:
    config = parts["gptj"].config
    assert (config.name, config.decoder_dtype) == ("bert-gptj", "auto")
    assert ModelConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("kind", "changes", "why"),
    [
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8}, "sees 8 tokens back"),
        ("t5", {}, "an encoder with a decoder"),
        ("granite", {"logits_scaling": 2.0}, "logits are not those of its head alone"),
        ("mamba", {}, "the connector does not fit"),
    ],
)
def test_a_decoder_that_the_connector_does_not_fit_is_refused(
    sources, tmp_path, kind, changes, why
) -> None:
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "state_size": 4}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    shape |= {"d_model": 16, "num_layers": 2, "d_kv": 4}
    tokenizer = byte_tokenizer()
    config = AutoConfig.for_model(kind, **shape, **changes, vocab_size=len(tokenizer))
    of = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    of.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(larimar.InvalidArgument, match=why) as caught:
        backbone_recipe_parts(str(sources / "bert"), str(tmp_path))
    assert caught.value.reason == "BAD_BACKBONE"


def test_a_large_decoder_is_served_in_bfloat16(sources, monkeypatch) -> None:
    monkeypatch.setattr(backbones, "LARGE_PARAMETERS", 1000)
    assert backbone_recipe_parts(*_pair(sources, "gptj")).config.decoder_dtype == "bfloat16"


@pytest.mark.parametrize("kind", ["gptj", "llama"])
def test_two_steps_of_training_move_every_part_and_leave_a_model(sources, tmp_path, kind) -> None:
    encoder, decoder = _pair(sources, kind)
    recipe = dataclasses.replace(
        tiny_rows(larimar_6b()), encoder=encoder, decoder=decoder, steps=2, warmup_steps=1
    )
    run = loop(recipe, write_corpus(tmp_path / "corpus"), tmp_path / "run")
    before = {key: value.clone() for key, value in run.module.state_dict().items()}
    run.run()
    after = run.module.state_dict()
    for part in ("encoder.backbone", "encoder.to_part", "decoder.lm", "decoder.connector"):
        keys = [key for key in after if key.startswith(part) and before[key].is_floating_point()]
        assert keys and any(not torch.equal(before[key], after[key]) for key in keys), part
    model = larimar.load(tmp_path / "run" / "model", dtype=torch.float32)
    model.write(PROMPT, "Tarsin")
    assert model.ask(PROMPT, 2).in_scope


def test_a_pipeline_serves_and_edits_it_as_one_process_does(folders, weights: Weights) -> None:
    path = folders["gptj"]
    folder = ModelFolder.open(path)
    own = Weights(
        folder,
        folder.encoder(weights.dtype),
        weights.embedder,
        folder.decoder(weights.dtype),
        weights.dtype,
    )
    model = larimar.load(path, dtype=weights.dtype)
    with ServedPipeline(own, "channels") as served, larimar.connect(served.target) as client:
        for door in (model, client):
            door.write(PROMPT, "Tarsin", fact_id="capital")
        assert client.digest().digest == model.digest()
        for prompt in (PROMPT, ELSEWHERE):
            ours, theirs = model.ask(prompt, 5), client.ask(prompt, max_tokens=5)
            assert (ours.text, ours.in_scope) == (theirs.text, theirs.in_scope)
        client.forget("capital")
        assert not client.ask(PROMPT, max_tokens=5).in_scope


def test_a_tokenizer_that_puts_a_blank_before_every_text_is_refused(tmp_path) -> None:
    """An answer would begin with a token that the decoder never says there."""
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "r"), ("i", "v"), ("e", "r")]
    merges += [("▁r", "iv"), ("▁riv", "er")]
    words = ["<unk>", "<s>", "</s>", "▁", *"theriv", *(one + other for one, other in merges)]
    vocabulary = {word: place for place, word in enumerate(words)}
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    marks = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **marks).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(config))
    with pytest.raises(InvalidArgument, match="name LlamaTokenizer"):
        decoder_tokenizer_of(str(tmp_path))
    path.write_text(json.dumps(config | {"tokenizer_class": "LlamaTokenizer"}))
    tokenizer = decoder_tokenizer_of(str(tmp_path))
    whole, begin, rest = (
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in ("the river", "the", " river")
    )
    assert whole == begin + rest and len(rest) == 1
