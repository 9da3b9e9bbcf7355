"""A byte-level BPE vocabulary of a corpus: what a decoder from nothing reads and writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import ByteLevelBPETokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from larimar.errors import InvalidArgument, NotFound
from training.tokens import documents

END = "<|endoftext|>"
"""The one special token: it begins, ends and fills."""
MIN_VOCABULARY = 300
"""256 bytes, the special token, and some room for merges."""
BPE_CHARACTERS = 100_000_000
"""Text that merges are counted over: more changes little, and takes memory."""


def train_bpe(paths: Sequence[Path], vocabulary: int) -> PreTrainedTokenizerFast:
    """Trains a tokenizer of at most `vocabulary` tokens on the first text of shards.

    Raises:
        InvalidArgument: the vocabulary is too small.
    """
    if vocabulary < MIN_VOCABULARY:
        raise InvalidArgument(f"a vocabulary of {vocabulary} is below {MIN_VOCABULARY}: give more")
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        _limited(documents(paths)), vocabulary, special_tokens=[END], show_progress=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, bos_token=END, eos_token=END, pad_token=END
    )


def open_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder.

    Raises:
        NotFound: there is none.
    """
    if not (folder / "tokenizer.json").is_file():
        raise NotFound(
            f"no tokenizer in {folder}: make one with "
            "`larimar prepare --corpus FOLDER --out FOLDER --tokenizer bpe`"
        )
    return AutoTokenizer.from_pretrained(folder)


def _limited(texts: Iterator[str]) -> Iterator[str]:
    total = 0
    for text in texts:
        yield text
        total += len(text)
        if total >= BPE_CHARACTERS:
            return
