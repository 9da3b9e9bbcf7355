"""Running text for language modelling: documents of compressed shards as one file of token ids.

A file of tokens is a flat array of unsigned integers on disk, mapped and never loaded:
documents one after the other, each begun by the start token and ended by the stop token.
A prepared folder holds train.tokens, val.tokens, the tokenizer, and a manifest that says what
made them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from larimar.errors import InvalidArgument, NotFound
from training.batches import Markers
from training.data import read_lines, training_shards, validation_file

TRAIN, VALIDATION, MANIFEST = "train.tokens", "val.tokens", "manifest.json"
TOKENIZER = "tokenizer"
_FORMAT = "larimar-tokens/1"
_DOCUMENTS_AT_ONCE = 64
Report = Callable[[int], None]


def documents(paths: Sequence[Path]) -> Iterator[str]:
    """Documents of shards: lines up to an empty one, the first of them the title."""
    lines: list[str] = []
    for line in read_lines(paths):
        line = line.strip()
        if line:
            lines.append(line)
        elif lines:
            yield "\n".join(lines)
            lines = []
    if lines:
        yield "\n".join(lines)


def token_dtype(tokenizer: Any) -> np.dtype:
    """The smallest type that holds every id of a tokenizer."""
    return np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)


def write_tokens(
    paths: Sequence[Path],
    tokenizer: Any,
    out: Path,
    limit: int = 0,
    report: Report = lambda tokens: None,
) -> int:
    """Tokenizes documents into `out`, streaming; returns the number of tokens.

    Args:
        limit: tokens after which reading stops; 0 reads everything.
        report: called with the tokens written so far.
    """
    markers, dtype = Markers.of(tokenizer), token_dtype(tokenizer)
    total = 0
    temporary = out.with_name(out.name + ".tmp")
    with temporary.open("wb") as file:
        for batch in _batches(documents(paths)):
            rows = tokenizer(batch, add_special_tokens=False)["input_ids"]
            ids = [token for row in rows for token in [*markers.begun(row), markers.stop_id]]
            file.write(np.array(ids, dtype).tobytes())
            total += len(ids)
            report(total)
            if limit and total >= limit:
                break
    temporary.replace(out)
    return total


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == _DOCUMENTS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def prepare_tokens(
    corpus: Path, tokenizer: Any, out: Path, limit: int, report: Report = lambda tokens: None
) -> dict[str, Any]:
    """Writes a prepared folder from a corpus folder; returns its manifest.

    The manifest is written last: a folder without it was not finished.

    Raises:
        NotFound: the corpus folder lacks its files.
    """
    shards, held = training_shards(corpus), validation_file(corpus)
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)
    tokenizer.save_pretrained(out / TOKENIZER)
    manifest = {
        "format": _FORMAT,
        "limit": limit,
        "dtype": token_dtype(tokenizer).name,
        "vocabulary": len(tokenizer),
        "vocabulary_sha256": vocabulary_digest(tokenizer),
        "train_tokens": write_tokens(shards, tokenizer, out / TRAIN, limit, report),
        "validation_tokens": write_tokens([held], tokenizer, out / VALIDATION),
        "sources_sha256": sources_sha256(corpus),
    }
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def sources_sha256(corpus: Path) -> dict[str, str]:
    """The digest of each file of a corpus folder, by name.

    Raises:
        NotFound: the folder lacks its files.
    """
    paths = [*training_shards(corpus), validation_file(corpus)]
    return {path.name: _sha256(path) for path in paths}


def open_tokens(folder: Path, tokenizer: Any) -> tuple[TokenBlocks, TokenBlocks]:
    """Training and validation text of a prepared folder.

    Raises:
        NotFound: the folder was not prepared, or not finished.
        InvalidArgument: it was prepared with another vocabulary.
    """
    manifest = read_manifest(folder)
    if manifest["vocabulary_sha256"] != vocabulary_digest(tokenizer):
        raise InvalidArgument(
            f"{folder} was prepared with another vocabulary than the decoder's: prepare it again"
        )
    start, dtype = Markers.of(tokenizer).start_id, np.dtype(manifest["dtype"])
    return (
        TokenBlocks(folder / TRAIN, start, dtype),
        TokenBlocks(folder / VALIDATION, start, dtype),
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared folder.

    Raises:
        NotFound: the folder was not prepared, or not finished.
        InvalidArgument: its manifest is of another version.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError as error:
        raise NotFound(
            f"no {MANIFEST} in {folder}: make it with "
            "`larimar prepare --corpus FOLDER --out FOLDER`"
        ) from error
    if manifest.get("format") != _FORMAT:
        raise InvalidArgument(f"{folder}/{MANIFEST} is not of {_FORMAT}: prepare it again")
    return manifest


def vocabulary_digest(tokenizer: Any) -> str:
    """Hex SHA-256 of a tokenizer's vocabulary."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(vocabulary.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class TokenBlocks:
    """Blocks of running text, drawn at random or in order.

    A block is `length` tokens and the one that follows each: ids (rows, length + 1). Its first
    token is the start token, whatever stood there, so that a text always begins in one way.
    """

    def __init__(self, path: Path, start_id: int | None, dtype: np.dtype) -> None:
        self.ids = np.memmap(path, dtype, "r")
        self.start_id = start_id

    def __len__(self) -> int:
        return len(self.ids)

    def draw(self, rng: np.random.Generator, rows: int, length: int) -> np.ndarray:
        """Random blocks, int64 (rows, length + 1).

        Raises:
            InvalidArgument: the text is shorter than a block.
        """
        self._check(length)
        return self._at(rng.integers(0, len(self.ids) - length - 1, rows), length)

    def first(self, rows: int, length: int) -> np.ndarray:
        """The first blocks in order, at most `rows`, int64 (rows, length + 1).

        Raises:
            InvalidArgument: the text is shorter than a block.
        """
        self._check(length)
        return self._at(np.arange(min(rows, (len(self.ids) - 1) // length)) * length, length)

    def _check(self, length: int) -> None:
        if len(self.ids) < length + 2:
            raise InvalidArgument(
                f"{len(self.ids)} tokens of text are too few for blocks of {length}: give more text"
            )

    def _at(self, lows: np.ndarray, length: int) -> np.ndarray:
        out = np.empty((len(lows), length + 1), np.int64)
        for row, low in enumerate(lows):
            out[row] = self.ids[low : low + length + 1]
        if self.start_id is not None:
            out[:, 0] = self.start_id
        return out
