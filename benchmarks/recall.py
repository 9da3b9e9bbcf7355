"""Long-context recall: passages found, and continued, by recursive reading.

The document is a list of dated world events, one a passage; the questions are their beginnings.
Recursive reading is compared with one flat read over all passages, and what the decoder
makes of the read-out with what it makes without.

n passages, C value size, D prompt-latent size.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.curves import CurveReport, curve, panels, style
from benchmarks.measure import prepare_process
from larimar.checkpoint import ModelFolder, serving_dtype
from larimar.cli.processes import checkout_root
from larimar.decoder import Decoder
from larimar.defaults import ALPHA
from larimar.encoder import Text
from larimar.errors import NotFound
from larimar.passages import PASSAGE_WORDS, stated
from larimar.recall import EPISODE_SIZE, read_recursively

EVENTS = Path("recall") / "year_reviews_2016_2025.txt"
"""Within the folder of the evaluation data: one event a line."""
COUNTS, QUICK_COUNTS = (16, 32, 64, 128, 256, 512, 800), (16, 32)
SHARES = (0.3, 0.5, 0.8)
"""How much of a passage its question gives, in words."""
LEAST_WORDS = 12
"""Lines with fewer are headings."""
QUESTIONS = 128
"""Passages asked for at each size, spread evenly."""
CONTINUED, QUICK_CONTINUED = 48, 4
"""Passages whose continuation is scored, at the largest size."""
NEXT_WORDS = 6
"""Words of the continuation that is scored."""


def run(quick: bool, use_ray: bool, told: Callable[[str], None]) -> CurveReport:
    """The share of passages found by size and length of the question, and how well they go on.

    Raises:
        NotFound: there is no evaluation data.
    """
    prepare_process()
    counts = QUICK_COUNTS if quick else COUNTS
    passages = events(counts[-1])
    folder = ModelFolder.open(checkout_root() / "models" / "larimar-small")
    encoder = folder.encoder(serving_dtype())
    told(f"encoding {len(passages)} passages")
    addresses_nD = encoder.prompt_latents(passages)
    values_nC = encoder.values([Text(*stated(one)) for one in passages])
    tokens = [
        len(encoder.tokenizer(one, add_special_tokens=False)["input_ids"]) for one in passages
    ]
    report = CurveReport(
        {"episode_size": EPISODE_SIZE, "alpha": ALPHA, "questions": QUESTIONS}
        | {"tokens_of_largest": sum(tokens)}
    )
    for share in SHARES:
        told(f"asking with {share:.0%} of a passage")
        questions_nD = encoder.prompt_latents([beginning(one, share) for one in passages])
        for count in counts:
            report.points.append(
                {"share": share, "passages": count, "tokens": sum(tokens[:count])}
                | found(addresses_nD[:count], values_nC[:count], questions_nD[:count])
            )
    for point in report.points:
        if point["passages"] == counts[-1]:
            what = f"{counts[-1]} passages, {point['share']:.0%} given"
            report.compare(f"{what}: found, recursive", point["recursive"])
            report.compare(f"{what}: found, flat", point["flat"])
    told("continuing passages")
    questions_nD = encoder.prompt_latents([beginning(one, 0.5) for one in passages])
    asked = spread_places(counts[-1], QUICK_CONTINUED if quick else CONTINUED)
    read = {
        n: read_recursively(addresses_nD, values_nC, questions_nD[n], EPISODE_SIZE, ALPHA).value
        for n in asked
    }
    with_memory, without = continued(folder.decoder(serving_dtype()), passages, read)
    report.measure("log probability a token, with the read-out", "nat", with_memory)
    report.measure("log probability a token, plain decoder", "nat", without)
    better = [one > other for one, other in zip(with_memory, without, strict=True)]
    report.compare("continuations that the read-out makes likelier", sum(better) / len(better))
    return report


def events(count: int) -> list[str]:
    """Events in an order of their own, each cut at the default words of a passage.

    Raises:
        NotFound: there is no such file.
    """
    path = Path(os.environ.get("LARIMAR_DATA") or "") / EVENTS
    if not path.is_file():
        raise NotFound(
            f"no {EVENTS}: set LARIMAR_DATA to the folder of the evaluation data", "NO_DATA"
        )
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    long = [" ".join(words[:PASSAGE_WORDS]) for words in lines if len(words) >= LEAST_WORDS]
    random.Random(0).shuffle(long)
    return long[:count]


def beginning(passage: str, share: float) -> str:
    """The first words of a passage, three at least."""
    words = passage.split()
    return " ".join(words[: max(3, round(share * len(words)))])


def spread_places(count: int, most: int) -> list[int]:
    """All places, or `most` of them spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist()


def found(
    addresses_nD: np.ndarray, values_nC: np.ndarray, questions_nD: np.ndarray
) -> dict[str, float]:
    """The share of questions whose own passage has the largest weight, recursive and flat."""
    asked = spread_places(len(addresses_nD), QUESTIONS)
    right = {"recursive": 0, "flat": 0}
    for n in asked:
        for how, size in (("recursive", EPISODE_SIZE), ("flat", len(addresses_nD))):
            read = read_recursively(addresses_nD, values_nC, questions_nD[n], size, ALPHA)
            right[how] += int(read.weights_n.argmax() == n)
    return {how: hits / len(asked) for how, hits in right.items()}


def continued(
    decoder: Decoder, passages: Sequence[str], read: dict[int, np.ndarray]
) -> tuple[list[float], list[float]]:
    """Mean log probability a token of what follows half a passage, with and without z."""
    scores: tuple[list[float], list[float]] = ([], [])
    for n, value in read.items():
        prompt = beginning(passages[n], 0.5)
        words = passages[n][len(prompt) :].split()[:NEXT_WORDS]
        z_C = torch.from_numpy(value.astype(np.float32))
        for kept, z in zip(scores, (z_C, None), strict=True):
            (score,) = decoder.score(prompt, [" " + " ".join(words)], z)
            kept.append(sum(score.token_logprobs) / len(score.token_logprobs))
    return scores


def plot(document: dict[str, Any], path: Path) -> None:
    """Passages found against their number, for each length of the question."""
    points = document["results"]["points"]
    with panels(1, path) as (axis,):
        for number, share in enumerate(SHARES):
            for how, line in (("recursive", "-"), ("flat", ":")):
                x, y = curve(points, "passages", how, share=share)
                look = style(number) | {"linestyle": line}
                axis.plot(x, y, label=f"{share:.0%} of the passage, {how}", **look)
        axis.set_xscale("log", base=2)
        axis.set_ylim(0, 1.03)
        axis.set_xlabel("passages in memory, n")
        axis.set_ylabel("the right passage found (share of questions)")
        axis.set_title(f"Long-context recall, episodes of {EPISODE_SIZE}")
        axis.legend(fontsize=7, loc="lower left")
