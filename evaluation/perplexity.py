"""Word-level perplexity of a decoder without a latent, on WikiText-103.

exp(total NLL of all tokens / number of words). The text is brought back to plain English first
(`plain_text`), and the decoder's own tokenizer splits it, lower-casing where it does. The words
are those of the file as it is, split at blanks, with one end-of-line word a line: the convention
of published figures, which a tokenizer that drops line ends profits from; the figure over words
alone stands beside it.

Tokens are scored in windows: each begins with the decoder's start token, and all but the first
overlap the one before, so that a token is scored once, with at least `window - stride - 1`
tokens before it. The decoder has no latent: it is the plain decoder of a model folder.

Shapes: B windows, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from evaluation import data_files
from evaluation.frame import Frame, experiment
from evaluation.metrics import exactly
from evaluation.plans import Plan
from evaluation.report import Report, metric_table
from larimar.errors import InvalidArgument

NAME = "perplexity"
METRICS = ("perplexity", "perplexity_words_only", "token_perplexity")
PLAN = Plan({"data": "wiki.test.tokens"}, quick={"limit": 60})
WINDOWS_TOGETHER = 8
"""Windows of one forward pass."""
WINDOW, STRIDE = 256, 128

Before = Annotated[
    Path | None, typer.Option(help="Another model folder, to compare with.", file_okay=False)
]
Window = Annotated[int, typer.Option(help="Tokens of a window, start token included.", min=2)]
Stride = Annotated[int, typer.Option(help="New tokens of a window.", min=1)]

_QUOTE = re.compile(r'" ([^"\n]*?) "')
_MARKS = (
    (" @-@ ", "-"),
    (" @,@ ", ","),
    (" @.@ ", "."),
    (" 's", "'s"),
    (" n't", "n't"),
    (" ' ", "' "),
    ("( ", "("),
    (" )", ")"),
    ("[ ", "["),
    (" ]", "]"),
    (" :", ":"),
    (" ;", ";"),
    (" .", "."),
    (" ,", ","),
    (" !", "!"),
    (" ?", "?"),
)


@dataclass(frozen=True)
class Text:
    """A corpus file: what is tokenized, and its words as the file counts them."""

    file: str
    """Its name."""
    text: str
    words: int
    """Between blanks."""
    lines: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """What a report says of its data."""
        return {"file": self.file, "form": "text", "sha256": self.sha256, "skipped": 0}


@dataclass(frozen=True)
class Scored:
    """What a decoder makes of a text."""

    nll: float
    """Of all tokens, in nats."""
    tokens: int
    perplexity: float
    """A word, line ends counted as words."""


@experiment(NAME, without=("target", "detector", "max_tokens"))
def run(
    frame: Frame,
    before: Before = None,
    window: Window = WINDOW,
    stride: Stride = STRIDE,
) -> Report:
    """WikiText-103 perplexity of the decoder by itself; with --before, of two models.

    Example: larimar eval perplexity --data FILE --before FOLDER
    """
    if stride >= window:
        raise InvalidArgument(f"stride is {stride}: it must be below the window, {window}")
    text = read_text(frame.data, frame.limit)
    folders = {"model": Path(frame.model)} | ({"before": before} if before else {})
    decoders = {role: _decoder(folder) for role, folder in folders.items()}
    digests = {role: digest for role, (_, digest) in decoders.items()}
    settings = {
        "before_digest": digests.get("before"),
        "words": text.words,
        "window": window,
        "stride": stride,
    }
    run = frame.started(text, digests["model"], settings, lines=text.lines)
    results = {}
    for role, (decoder, _) in decoders.items():
        ids = _tokens(decoder, text.text)
        pieces = list(windows(len(ids), window, stride))
        todo = [piece for piece in pieces if f"{role}-{piece[0]}" not in run.kept]

        def keep(place: int, nll: float, role: str = role) -> None:
            run.kept.add(f"{role}-{place}", nll)

        with frame.bar(role, len(pieces), len(pieces) - len(todo)) as advance:
            _score(decoder, ids, todo, window, keep, advance)
        nll = math.fsum(run.kept[f"{role}-{piece[0]}"] for piece in pieces)
        results[role] = Scored(nll, len(ids), math.exp(nll / (text.words + text.lines)))
    rows = [row(role, one, text) for role, one in results.items()]
    ratio = results["model"].perplexity / results["before"].perplexity if before else None
    return run.report(
        "Word-level perplexity of the decoder without a latent",
        rows,
        [metric_table(rows, METRICS)],
        _notes(text, window, stride, ratio),
        n=text.lines,
        **({} if ratio is None else {"ratio": ratio}),
    )


def read_text(path: Path, limit: int | None = None) -> Text:
    """The first `limit` lines of a file in WikiText's form (all, by default).

    Raises:
        InvalidArgument: it is not UTF-8 (with the line), or holds no words.
    """
    content, sha256 = data_files.read_text(path, limit)
    lines = content.split("\n")
    if lines[-1] == "":
        lines.pop()
    lines = lines[:limit]
    words = sum(len(line.split()) for line in lines)
    if not words:
        raise InvalidArgument(f"{path}:1: no words")
    text = plain_text("\n".join(lines))
    return Text(path.name, text, words, len(lines), sha256)


def plain_text(tokens: str) -> str:
    """WikiText's tokens as plain English: joined marks, no blanks before punctuation.

    Headings lose their equals signs; ``<unk>`` stays as it stands.
    """
    text = re.sub(r"^ ?(?:= )+(.*?)(?: =)+ ?$", r"\1", tokens, flags=re.MULTILINE)
    for mark, plain in _MARKS:
        text = text.replace(mark, plain)
    text = _QUOTE.sub(r'"\1"', text)
    return "\n".join(line.strip() for line in text.split("\n"))


def windows(tokens: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Windows over tokens 0 .. tokens - 1: (first scored, first seen, end), each scored once.

    The first window scores `window` - 1 tokens, each later one `stride`.
    """
    scored = 0
    while scored < tokens:
        end = min(tokens, scored + (window - 1 if scored == 0 else stride))
        yield scored, max(0, end - (window - 1)), end
        scored = end


def _decoder(folder: Path) -> tuple[Any, str]:
    """A model folder's decoder in float32, and the folder's digest."""
    import torch

    from larimar.checkpoint import ModelFolder

    opened = ModelFolder.open(folder)
    return opened.decoder(torch.float32), opened.model_digest


def _tokens(decoder: Any, text: str) -> list[int]:
    """Ids of all lines, line by line: a tokenizer that keeps line ends is given them."""
    ids: list[int] = []
    for line in text.split("\n"):
        ids += decoder.tokenizer(line + "\n", add_special_tokens=False)["input_ids"]
    return ids


def _score(
    decoder: Any,
    ids: Sequence[int],
    pieces: Sequence[tuple[int, int, int]],
    window: int,
    keep: Callable[[int, float], None],
    advance: Callable[[int], None],
) -> None:
    """Keeps the NLL of each window's new tokens."""
    import torch

    start = decoder.start_id if decoder.start_id is not None else decoder.stop_id
    for low in range(0, len(pieces), WINDOWS_TOGETHER):
        batch = pieces[low : low + WINDOWS_TOGETHER]
        ids_BT = torch.full((len(batch), window), decoder.pad_id)
        mask_BT = torch.zeros((len(batch), window), dtype=torch.bool)
        for row, (_, first, end) in enumerate(batch):
            ids_BT[row, : end - first + 1] = torch.tensor([start, *ids[first:end]])
            mask_BT[row, : end - first + 1] = True
        with torch.inference_mode():
            network, device = decoder.network, decoder.device
            hidden_BTE = network.hidden(ids_BT.to(device), mask_BT.to(device))
            for row, (scored, first, end) in enumerate(batch):
                places = slice(scored - first, end - first)
                logits_TV = network.logits(hidden_BTE[row : row + 1, places])[0].float().cpu()
                targets_T = torch.tensor(ids[scored:end])
                nll = torch.nn.functional.cross_entropy(logits_TV, targets_T, reduction="sum")
                keep(scored, float(nll))
        advance(len(batch))


def row(role: str, found: Scored, text: Text) -> dict[str, Any]:
    """A report's row. The system is `base`: the decoder without a latent."""
    values = (
        found.perplexity,
        math.exp(found.nll / text.words),
        math.exp(found.nll / found.tokens),
    )
    metrics = {
        name: exactly(value, found.tokens).to_json()
        for name, value in zip(METRICS, values, strict=True)
    }
    return {
        "system": "base" if role == "model" else f"base ({role})",
        "metrics": metrics,
        "nll": found.nll,
        "tokens": found.tokens,
    }


def _notes(text: Text, window: int, stride: int, ratio: float | None) -> list[str]:
    notes = [
        f"{text.words + text.lines} words with line ends, {text.words} without; windows of "
        f"{window} tokens, {stride} of them new; float32."
    ]
    if ratio is not None:
        notes.append(
            f"The model's perplexity is {ratio:.4f} times that of the one before "
            f"({100 * (ratio - 1):+.1f} %)."
        )
    return notes
