"""Small random models of real architectures, saved as Hugging Face folders, with tokenizers."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    GPT2Config,
    GPT2Tokenizer,
    GPTJConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.utils import logging

from tests.golden import ROOT

END = "<|endoftext|>"
_WIDTHS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
_GROUPED = {**_WIDTHS, "num_key_value_heads": 2, "intermediate_size": 24}
_GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 256}
DECODERS = {
    "gpt2": GPT2Config(**_GPT),
    "gptj": GPTJConfig(**_GPT, rotary_dim=4),
    "llama": LlamaConfig(**_GROUPED, max_position_embeddings=256),
    "qwen2": Qwen2Config(**_GROUPED, max_position_embeddings=256, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**_GROUPED, max_position_embeddings=256, head_dim=8),
}
"""By name, the shapes of the decoders that tests build; llama and qwen have two key/value heads."""
_TEXTS = ["The capital of Velmora is Tarsin.", "Who wrote this? me or you", "a river and a road"]


def _vocabulary(name: str) -> str | None:
    folder = Path(os.environ.get("LARIMAR_DATA") or ROOT.parent / "shared" / "data")
    path = folder / "vocab" / name
    return str(path) if path.is_file() else None


def gpt2_tokenizer() -> PreTrainedTokenizerFast:
    """GPT-2's own tokenizer, or where its files are absent, one of bytes."""
    vocabulary, merges = _vocabulary("gpt2_encoder.json"), _vocabulary("gpt2_vocab.bpe")
    if vocabulary and merges:
        return GPT2Tokenizer(vocab=vocabulary, merges=merges)
    return byte_tokenizer()


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of a few hundred tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=[END], initial_alphabet=alphabet)
    backend.train_from_iterator(_TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=END, eos_token=END)


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """BERT's own cased tokenizer, or where its file is absent, one of letters."""
    path = _vocabulary("bert_cased_vocab.txt")
    return BertTokenizer(vocab=path, do_lower_case=False) if path else letter_tokenizer()


def letter_tokenizer() -> PreTrainedTokenizerFast:
    """A word-piece tokenizer of letters."""
    letters = sorted(set("".join(_TEXTS)) - {" "})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    tokens += [f"##{letter}" for letter in letters]
    return BertTokenizer(vocab={token: at for at, token in enumerate(tokens)}, do_lower_case=False)


def save_decoder(kind: str, folder: Path, tokenizer, max_shard_size: str = "5GB") -> Path:
    """A random decoder of this kind."""
    config = DECODERS[kind]
    config.vocab_size = len(tokenizer)
    config.bos_token_id = config.eos_token_id = tokenizer.eos_token_id
    return _save(AutoModelForCausalLM.from_config(config), tokenizer, folder, max_shard_size)


def save_encoder(folder: Path, tokenizer) -> Path:
    """A random BERT."""
    config = BertConfig(
        **_WIDTHS, vocab_size=len(tokenizer), intermediate_size=24, max_position_embeddings=256
    )
    return _save(BertForMaskedLM(config), tokenizer, folder)


def _save(model, tokenizer, folder: Path, max_shard_size: str = "5GB") -> Path:
    logging.disable_progress_bar()
    with torch.no_grad():
        for weights in model.parameters():  # large enough that attention says something
            weights.mul_(4) if weights.ndim > 1 else weights
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    tokenizer.save_pretrained(folder)
    return folder
