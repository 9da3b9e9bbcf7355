"""`larimar prepare --corpus FOLDER --out FOLDER`: a corpus as token ids, once for many runs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from larimar.errors import LarimarError
from training.bpe import open_tokenizer, train_bpe
from training.data import training_shards
from training.recipes import SCRATCH_VOCABULARY, small_base
from training.tokens import prepare_tokens
from training.warm import warm_tokenizer

BPE = "bpe"


def main() -> int:
    """Prepares a folder; prints its manifest."""
    arguments = _parser().parse_args()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("tokenizer")

        def report(tokens: int) -> None:
            progress.update(task, description=f"{tokens / 1e6:.1f} M tokens")

        try:
            tokenizer = _tokenizer(arguments.tokenizer, arguments.corpus, arguments.vocabulary)
            manifest = prepare_tokens(
                arguments.corpus, tokenizer, arguments.out, arguments.limit, report
            )
        except LarimarError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print(json.dumps(manifest, indent=1))
    return 0


def _tokenizer(given: str | None, corpus: Path, vocabulary: int) -> Any:
    if given is None:
        return warm_tokenizer(small_base().warm_start)
    if given == BPE:
        return train_bpe(training_shards(corpus), vocabulary)
    return open_tokenizer(Path(given))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="larimar prepare", description=__doc__)
    add = parser.add_argument
    add("--corpus", type=Path, required=True, help="folder of train_*.txt.xz, val.txt")
    add(
        "--out",
        type=Path,
        required=True,
        help="folder to write; `larimar train --prepared` reads it",
    )
    add("--tokenizer", help=f"folder of a tokenizer, or {BPE} to train one; MiniLM's if not given")
    add("--vocabulary", type=int, default=SCRATCH_VOCABULARY, help=f"tokens of a new {BPE}")
    add("--limit", type=int, default=0, help="tokens after which reading stops; 0 reads all")
    return parser


if __name__ == "__main__":
    sys.exit(main())
