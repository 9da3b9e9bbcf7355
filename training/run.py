"""A run from its pieces: text, networks, stage and loop."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from larimar.checkpoint import ModelFolder, serving_dtype
from larimar.errors import InvalidArgument
from training.bpe import open_tokenizer, train_bpe
from training.data import Sentences, training_shards, validation_file
from training.episodic import EpisodicStage
from training.loop import PRECISIONS, STATE, Look, Loop, Options
from training.parts import Parts, build_parts
from training.pretraining import PretrainingStage
from training.recipes import Episodic, Pretraining, Recipe, Start
from training.tokens import (
    MANIFEST,
    TOKENIZER,
    TokenBlocks,
    open_tokens,
    prepare_tokens,
    read_manifest,
    sources_sha256,
)
from training.workers import Workers

_HELD_SENTENCES = 4000
_TEXT = "text"
_TOLD_TOKENS = 10_000_000


@dataclasses.dataclass(frozen=True)
class Sources:
    """Where a run's text and first weights are."""

    corpus: Path
    prepared: Path | None = None
    """Folder of `larimar prepare`; without it the run prepares its text itself."""
    start: Path | None = None
    """Model folder of an earlier stage."""
    expected: Start | None = None
    """What the run started from whose recipe this is."""


def build_loop(
    recipe: Recipe,
    sources: Sources,
    options: Options,
    say: Callable[[str], None],
    looks: tuple[Look, ...] = (),
    shard: bool = False,
) -> Loop:
    """The loop of a recipe, ready to run; at the step where its folder stopped.

    Raises:
        NotFound: the corpus, a prepared folder, or the first weights are missing.
        InvalidArgument: they do not fit the recipe, or the folder is of another run or corpus.
    """
    workers = Workers.join(options.device, shard)
    tell = say if workers.first else _nothing
    tell(f"products in {options.precision}")
    if recipe.optimizer == "muon" and serving_dtype(options.device.type) == torch.float32:
        tell("Muon works in bfloat16, which is emulated here: --optimizer adamw is faster")
    start = _start(sources, tell)
    if sources.prepared is None and workers.first:
        _drop_other_text(recipe, sources, options, tell)
    own = _own_tokenizer(recipe, sources, options, workers, tell)
    parts = build_parts(recipe, sources.start, options.device, own)
    text = _text(recipe, sources, options, parts, workers, tell)
    stage = _stage(recipe, sources, options, parts, text, tell)
    digest = _text_digest(recipe, sources, sources.prepared or options.out / _TEXT)
    loop = Loop(stage, options, workers, tell, looks, start, digest)
    if loop.resume():
        tell(f"resumed at step {loop.step}")
    return loop


def _start(sources: Sources, say: Callable[[str], None]) -> Start | None:
    """The model that the run starts from; says where the recipe was run from another one."""
    expected = sources.expected
    if sources.start is None:
        if expected is None:
            return None
        raise InvalidArgument(
            f"the run of this recipe started from {_told(expected)}: give a model by --start, "
            "that one to repeat the run"
        )
    digest = ModelFolder.open(sources.start).model_digest
    start = Start(sources.start.resolve().name, digest)
    if expected is not None and digest != expected.model_digest:
        say(f"not a repetition: --start is {_told(start)}, the recipe's run had {_told(expected)}")
    return start


def _told(start: Start) -> str:
    return f"the model {start.folder} of digest {start.model_digest[:12]}"


def _own_tokenizer(
    recipe: Recipe,
    sources: Sources,
    options: Options,
    workers: Workers,
    say: Callable[[str], None],
) -> Any:
    """The tokenizer of a decoder from nothing: the prepared folder's, else a new one."""
    if not recipe.fresh_decoder or recipe.model is None:
        return None
    folder = (sources.prepared or options.out / _TEXT) / TOKENIZER
    if sources.prepared is None and workers.first and not folder.is_dir():
        say(f"training a tokenizer in {folder}")
        size = recipe.model.decoder_backbone["vocab_size"]
        train_bpe(training_shards(sources.corpus), size).save_pretrained(folder)
    workers.wait()
    return open_tokenizer(folder)


def _drop_other_text(
    recipe: Recipe, sources: Sources, options: Options, say: Callable[[str], None]
) -> None:
    """Removes text that an earlier run left here, of another corpus or not finished.

    Raises:
        InvalidArgument: that run has saved steps on it.
    """
    folder = options.out / _TEXT
    if not folder.is_dir():
        return
    finished = (folder / MANIFEST).exists()
    found = read_manifest(folder) if finished else {}
    wanted = {"sources_sha256": sources_sha256(sources.corpus), "limit": recipe.corpus_tokens}
    if all(found.get(name) == value for name, value in wanted.items()):
        return
    if (options.out / STATE).exists():
        raise InvalidArgument(
            f"the run in {options.out} was begun on another corpus, or with other --corpus-tokens: "
            "go on with those, or give another --out"
        )
    say(f"{folder} is {'of another corpus' if finished else 'not finished'}: it is made anew")
    shutil.rmtree(folder)


def _text(
    recipe: Recipe,
    sources: Sources,
    options: Options,
    parts: Parts,
    workers: Workers,
    say: Callable[[str], None],
) -> tuple[TokenBlocks, TokenBlocks]:
    """Tokens of running text; the first worker prepares them where nobody has."""
    folder = sources.prepared or options.out / _TEXT
    if sources.prepared is None and workers.first and not (folder / MANIFEST).exists():
        say(f"preparing text in {folder}")
        manifest = prepare_tokens(
            sources.corpus, parts.decoder_tokenizer, folder, recipe.corpus_tokens, _every(say)
        )
        say(f"{manifest['train_tokens']} tokens of running text")
    workers.wait()
    limit = read_manifest(folder)["limit"]
    if limit != recipe.corpus_tokens:
        say(
            f"{folder} was prepared with a limit of {limit} tokens (0: none), the recipe's is "
            f"{recipe.corpus_tokens}: to repeat this run give --prepared {folder} again"
        )
    return open_tokens(folder, parts.decoder_tokenizer)


def _text_digest(recipe: Recipe, sources: Sources, folder: Path) -> str:
    """Of what a run reads: the prepared text, and the sentences' shards by name and size."""
    manifest = read_manifest(folder)
    read: dict[str, Any] = {
        name: manifest[name] for name in ("sources_sha256", "limit", "vocabulary_sha256")
    }
    if isinstance(recipe, Episodic):
        shards = [*training_shards(sources.corpus), validation_file(sources.corpus)]
        read["sentences"] = {path.name: path.stat().st_size for path in shards}
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()


def _stage(
    recipe: Recipe,
    sources: Sources,
    options: Options,
    parts: Parts,
    text: tuple[TokenBlocks, TokenBlocks],
    say: Callable[[str], None],
) -> Any:
    dtype: torch.dtype = PRECISIONS[options.precision]
    if isinstance(recipe, Pretraining):
        return PretrainingStage(recipe, parts, *text, options.device, dtype)
    assert isinstance(recipe, Episodic)
    data = Sentences.read(training_shards(sources.corpus), recipe.sentences)
    held = Sentences.read([validation_file(sources.corpus)], _HELD_SENTENCES)
    say(f"{len(data)} sentences")
    return EpisodicStage(recipe, parts, (data, text[0]), (held, text[1]), options.device, dtype)


def _every(say: Callable[[str], None]) -> Callable[[int], None]:
    """Says how many tokens are written, once for every _TOLD_TOKENS."""
    told = 0

    def report(tokens: int) -> None:
        nonlocal told
        if tokens // _TOLD_TOKENS > told:
            told = tokens // _TOLD_TOKENS
            say(f"{tokens / 1e6:.0f} M tokens")

    return report


def _nothing(line: str) -> None:
    pass
