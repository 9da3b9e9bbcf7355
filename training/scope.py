"""``python -m training.scope --corpus FOLDER --model FOLDER``: trains isd, the scope classifier.

Made-up facts (training/scope_pairs.py) are all "written"; each of their rephrasings is paired
with its own fact, and with the facts nearest to it among the others, which is what a bank shows
a detector. A logistic regression learns to tell the two kinds of pairs apart. No evaluation set
is read.

P pairs, F features.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from larimar import isd
from larimar.checkpoint import ModelFolder, add_file, serving_dtype
from larimar.errors import LarimarError
from larimar.scope import SentenceEmbedder
from training.scope_pairs import FactMaker, MadeFact, corpus_sentences

FACTS = 1500
"""Made facts: 6,000 texts, a minute on one core."""
HELD_OUT = 0.2
"""Share of the facts whose pairs only measure."""
RANDOM_NEAR = 20
"""A second negative is drawn from as many nearest other facts."""
L2 = 1e-4
"""Weight decay of the regression, on the mean loss."""
ITERATIONS = 500
"""Most steps of the solver, which stops by itself after about 50."""
EMBEDDED_AT_ONCE = 512
"""Texts between two reports of progress."""


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs as features.

    Attributes:
        x_PF: features.
        label_P: whether query and prompt belong to one fact.
        fact_P: index of the fact whose rephrasing the query is.
    """

    x_PF: np.ndarray
    label_P: np.ndarray
    fact_P: np.ndarray

    def of(self, chosen_P: np.ndarray) -> Pairs:
        """Some of them."""
        return Pairs(self.x_PF[chosen_P], self.label_P[chosen_P], self.fact_P[chosen_P])


def document_frequencies(tokenizer: Any, texts: Sequence[str]) -> np.ndarray:
    """Inverse document frequency of each token in nats, float64 (V,): log((n + 1) / (df + 1))."""
    counts_V = np.zeros(len(tokenizer))
    for low in range(0, len(texts), 1000):
        for ids in tokenizer(list(texts[low : low + 1000]), add_special_tokens=False)["input_ids"]:
            counts_V[list(set(ids))] += 1
    idf_V = np.log((len(texts) + 1) / (counts_V + 1))
    return idf_V.astype(np.float16).astype(np.float64)


def make_pairs(
    facts: Sequence[MadeFact],
    embed: Callable[[Sequence[str]], np.ndarray],
    reader: isd.WordReader,
    seed: int,
) -> Pairs:
    """For each rephrasing its own fact, the nearest other fact, and half the time a near one.

    Args:
        embed: unit embeddings (N, S) of texts.
    """
    rng = np.random.default_rng(seed)
    queries = [(text, number) for number, fact in enumerate(facts) for text in fact.others]
    vectors = embed([*(fact.prompt for fact in facts), *(text for text, _ in queries)])
    prompts_FS, queries_QS = vectors[: len(facts)], vectors[len(facts) :]
    prompt_words = [reader.read(fact.prompt) for fact in facts]
    rows, labels, owners = [], [], []
    for (text, own), vector_S in zip(queries, queries_QS, strict=True):
        cosines_F = prompts_FS @ vector_S
        words = reader.read(text)
        for number in (own, *_others(cosines_F, own, rng)):
            rows.append(isd.features(float(cosines_F[number]), words, prompt_words[number]))
            labels.append(number == own)
            owners.append(own)
    return Pairs(np.stack(rows), np.array(labels), np.array(owners))


def _others(cosines_F: np.ndarray, own: int, rng: np.random.Generator) -> Iterator[int]:
    near = [n for n in np.argsort(-cosines_F)[: RANDOM_NEAR + 1].tolist() if n != own]
    yield near[0]
    if len(near) > 1 and rng.random() < 0.5:
        yield int(rng.choice(near[1:]))


def fit(pairs: Pairs) -> tuple[np.ndarray, float]:
    """Weights (F,) and bias of the logistic regression; exact up to the solver's tolerance."""
    x_PF = torch.from_numpy(pairs.x_PF)
    mean_F, spread_F = x_PF.mean(0), x_PF.std(0).clamp(min=1e-6)
    x_PF, label_P = (x_PF - mean_F) / spread_F, torch.from_numpy(pairs.label_P).double()
    theta = torch.zeros(x_PF.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [theta], max_iter=ITERATIONS, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        solver.zero_grad()
        logits_P = x_PF @ theta[1:] + theta[0]
        error = torch.nn.functional.binary_cross_entropy_with_logits(logits_P, label_P)
        total = error + L2 * theta[1:].square().sum()
        total.backward()
        return total

    solver.step(loss)
    weight_F = theta.detach()[1:] / spread_F
    return weight_F.numpy(), float(theta.detach()[0] - (weight_F * mean_F).sum())


def train(
    corpus: Path,
    embedder: SentenceEmbedder,
    facts: int = FACTS,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> isd.Isd:
    """A trained isd; the same one for a corpus, an embedder and a seed.

    Raises:
        NotFound: the corpus folder has no shards, or its text no names.
    """
    texts = corpus_sentences(corpus)
    reader = isd.WordReader(embedder.tokenizer, document_frequencies(embedder.tokenizer, texts))
    made = FactMaker(texts, seed).facts(facts)
    say(f"{len(texts)} sentences, {len(made)} made facts")

    def embed(asked: Sequence[str]) -> np.ndarray:
        parts = []
        for low in range(0, len(asked), EMBEDDED_AT_ONCE):
            parts.append(embedder.embed(asked[low : low + EMBEDDED_AT_ONCE]))
            say(f"embedded {min(low + EMBEDDED_AT_ONCE, len(asked))} of {len(asked)} texts")
        return np.concatenate(parts)

    pairs = make_pairs(made, embed, reader, seed)
    held_P = pairs.fact_P % round(1 / HELD_OUT) == 0
    weight_F, bias = fit(pairs.of(~held_P))
    held = pairs.of(held_P)
    right = ((held.x_PF @ weight_F + bias > 0) == held.label_P).mean()
    say(
        f"{int((~held_P).sum())} pairs learned; of {len(held.label_P)} others {right:.1%} are right"
    )
    for name, weight in zip(isd.FEATURES, weight_F, strict=True):
        say(f"  {name:22} {weight:8.3f}")
    return isd.Isd(reader, weight_F, bias, embedder.digest)


def use_isd(folder: Path, threshold: float) -> None:
    """Makes isd the detector of a model folder, from this probability on."""
    path = folder / "config.json"
    document = json.loads(path.read_text())
    document["model"]["scope"] |= {"detector": "isd", "isd_threshold": threshold}
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    ModelFolder.open(folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Trains isd and puts it into the model folder, or into a file of its own."""
    parser = argparse.ArgumentParser(prog="python -m training.scope", description=main.__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with train_*.txt(.xz)")
    parser.add_argument("--model", type=Path, required=True, help="model folder it is for")
    parser.add_argument("--out", type=Path, help="file in place of the model folder's own")
    parser.add_argument("--facts", type=int, default=FACTS, help="made facts to learn from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--use-from",
        type=float,
        metavar="P",
        help="also make isd the model's detector, from probability P on",
    )
    options = parser.parse_args(argv)
    try:
        _run(options)
    except LarimarError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    started = time.monotonic()
    folder = ModelFolder.open(options.model)
    embedder = SentenceEmbedder(folder.config.scope.package, serving_dtype())
    trained = train(options.corpus, embedder, options.facts, options.seed, say=print)
    out = options.out or options.model / isd.FILE
    out.write_bytes(trained.to_bytes())
    if options.out is None:
        add_file(options.model, isd.FILE)
        if options.use_from is not None:
            use_isd(options.model, options.use_from)
    print(f"wrote {out}, {out.stat().st_size} bytes, after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    raise SystemExit(main())
