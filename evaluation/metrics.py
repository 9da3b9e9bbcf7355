"""Scores of edits: from log probabilities and generated texts to figures with intervals.

All functions are pure. A target o of tokens t_1 .. t_n after a prompt has
P(o) = exp(1/n * sum_i log p(t_i | prompt, t_1 .. t_{i-1})), the exponential of its
negative mean NLL. Scores are fractions of a probe (one prompt), averaged over the
probes of a record, then over records; `summarise` states them in percent.

Source: S and M, for edits, paraphrases and (reversed) neighbourhoods, are those of
Meng et al. 2022, "Locating and Editing Factual Associations in GPT", arXiv 2202.05262,
section 3.4; so is the harmonic mean. Token F1 is that of SQuAD (arXiv 1606.05250).
"""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from larimar.errors import InvalidArgument

PERCENT = 100.0
RESAMPLES = 1000
SCORING = 3
"""Of the rules by which answers are written and compared: what was measured by older ones is of
another run."""
# Resamples drawn at a time, so that 10,000 records take megabytes.
_CHUNK = 100
END_OF_TEXT = ("<|endoftext|>", "</s>", "[SEP]")
_HARD_END = re.compile("|".join([r"[\r\n]", *map(re.escape, END_OF_TEXT)]))
# A mark ends a sentence before a space, a closing quote or bracket, or the end: not in "3.5".
_SENTENCE_END = re.compile(r"[.!?]+(?=[\s\"'”’)\]]|$)")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def mean_logprob(token_logprobs: Sequence[float]) -> float:
    """log P of a target: the negative of the mean NLL over its tokens.

    Raises:
        InvalidArgument: there is no token, or a log probability is not a number.
    """
    if not token_logprobs:
        raise InvalidArgument("a candidate without tokens has no probability; give it some text")
    value = math.fsum(token_logprobs) / len(token_logprobs)
    if math.isnan(value):
        raise InvalidArgument("a token's log probability is not a number; look at the decoder")
    return value


def probability(token_logprobs: Sequence[float]) -> float:
    """P = exp(-mean NLL over the target's tokens), from 0 to 1."""
    return math.exp(mean_logprob(token_logprobs))


def success(new_logprobs: Sequence[float], true_logprobs: Sequence[float]) -> float:
    """S of an edit or a paraphrase: 1 where P(new) > P(true), else 0; a tie is no success.

    Compared as logarithms, which also tells apart what both round to P = 0.
    """
    return float(mean_logprob(new_logprobs) > mean_logprob(true_logprobs))


def magnitude(new_logprobs: Sequence[float], true_logprobs: Sequence[float]) -> float:
    """M of an edit or a paraphrase: P(new) - P(true), from -1 to 1 (100 * its mean is reported)."""
    return probability(new_logprobs) - probability(true_logprobs)


def neighborhood_success(new_logprobs: Sequence[float], true_logprobs: Sequence[float]) -> float:
    """S of a neighbourhood prompt, reversed: 1 where P(true) > P(new), else 0."""
    return success(true_logprobs, new_logprobs)


def neighborhood_magnitude(new_logprobs: Sequence[float], true_logprobs: Sequence[float]) -> float:
    """M of a neighbourhood prompt, reversed: P(true) - P(new)."""
    return magnitude(true_logprobs, new_logprobs)


def argmax_match(token_is_argmax: Sequence[bool]) -> float:
    """1 where, teacher-forced, every token of the target was the most probable one, else 0."""
    if not token_is_argmax:
        raise InvalidArgument("a candidate without tokens cannot match; give it some text")
    return float(all(token_is_argmax))


def folded(text: str) -> str:
    """A text without case and accents: decomposed (NFKD), marks dropped, casefold.

    Tokenizers that lower-case drop accents too: their decoder can never say one.
    """
    parts = unicodedata.normalize("NFKD", text)
    return "".join(char for char in parts if unicodedata.category(char) != "Mn").casefold()


def normalise(text: str) -> str:
    """A text without case, accents, outer space and repeated space."""
    return " ".join(folded(text).split())


def generated_answer(text: str, inner_marks: int = 0) -> str:
    """The answer at the beginning of a generated text, normalised.

    The text is cut at the first end-of-text mark or line break, and then at its first
    sentence end: a run of ``. ! ?`` before a space, a closing quote or bracket, or the
    end. The first `inner_marks` sentence ends are passed over. What is not cut off
    counts: "Paris, France" is not the answer "Paris".
    """
    text = _HARD_END.split(text, maxsplit=1)[0]
    for index, mark in enumerate(_SENTENCE_END.finditer(text)):
        if index == inner_marks:
            text = text[: mark.start()]
            break
    return normalise(text)


def generated_match(text: str, target: str) -> float:
    """1 where the generated answer equals the target after normalisation, else 0.

    Equality holds up to the whole cut (see `generated_answer`), so the generation must
    end the answer where the target ends. A target's own sentence marks do not cut
    ("St. Louis"), and one that closes the target may close the sentence too ("Dr.").

    Raises:
        InvalidArgument: the target is empty.
    """
    goal = _goal(target)
    if not goal:
        raise InvalidArgument("the target is empty: nothing can match it")
    return float(generated_answer(text, _inner_marks(target)) == normalise(goal))


def generated_f1(text: str, target: str) -> float:
    """Token F1 of the generated answer, cut where `generated_match` cuts it."""
    return token_f1(generated_answer(text, _inner_marks(target)), target)


def token_f1(prediction: str, target: str) -> float:
    """F1 = 2 P R / (P + R) over the words that prediction and target share, counted.

    As SQuAD has it: words without case, punctuation and the articles a, an, the; and
    without accents (`folded`). Two empty texts agree (1); one empty text shares nothing (0).
    """
    predicted, expected = _words(prediction), _words(target)
    if not predicted or not expected:
        return float(predicted == expected)
    shared = sum((Counter(predicted) & Counter(expected)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(expected)
    return 2 * precision * recall / (precision + recall)


def record_mean(values: Sequence[float]) -> float | None:
    """The mean over one record's probes; None for a record that has none."""
    return math.fsum(values) / len(values) if values else None


def bootstrap_interval(
    values: Sequence[float], seed: int, confidence: float = 0.95, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of `values`, resampling records.

    The (1 - confidence) / 2 and (1 + confidence) / 2 quantiles of the means of
    `resamples` draws with replacement. The same values and seed give the same interval.

    Source: Efron 1979, "Bootstrap methods: another look at the jackknife".
    """
    if not values or not 0 < confidence < 1 or resamples < 1:
        raise InvalidArgument(
            "an interval needs values, a confidence between 0 and 1 and at least one resample"
        )
    data_N = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = [
        data_N[
            rng.integers(0, len(data_N), size=(min(_CHUNK, resamples - done), len(data_N)))
        ].mean(axis=1)
        for done in range(0, resamples, _CHUNK)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def harmonic_score(*parts: float) -> float:
    """The harmonic mean n / sum(1 / x_i) of scores; 0 as soon as one of them is 0.

    Raises:
        InvalidArgument: there is no part, or one is negative.
    """
    if not parts or min(parts) < 0:
        raise InvalidArgument("a harmonic mean needs at least one part, and none negative")
    if min(parts) == 0:
        return 0.0
    return len(parts) / math.fsum(1 / part for part in parts)


@dataclass(frozen=True, slots=True)
class Summary:
    """One figure of a table, in percent, with its 95 % interval over records."""

    value: float | None
    """None where no record has such a probe; so are the bounds."""
    low: float | None
    high: float | None
    n: int
    """Records that count."""

    def to_json(self) -> dict[str, float | int | None]:
        """The four fields, for a report."""
        return asdict(self)


def summarise(values: Iterable[float | None], seed: int) -> Summary:
    """The mean over records in percent, with its interval; records without a value drop out."""
    present = [value for value in values if value is not None]
    if not present:
        return Summary(None, None, None, 0)
    low, high = bootstrap_interval(present, seed)
    mean = math.fsum(present) / len(present)
    return Summary(PERCENT * mean, PERCENT * low, PERCENT * high, len(present))


def between(value: float, resampled: Sequence[float], n: int, confidence: float = 0.95) -> Summary:
    """A figure in its own unit, with the interval of what resamples of its `n` records give."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Summary(value, float(low), float(high), n)


def mean(values: Sequence[float], seed: int) -> Summary:
    """The mean in the values' own unit, with its interval."""
    low, high = bootstrap_interval(values, seed)
    return Summary(math.fsum(values) / len(values), low, high, len(values))


def exactly(value: float | None, n: int) -> Summary:
    """A figure that is no mean over records, in its own unit: it has no interval."""
    return Summary(value, None, None, n)


def _goal(target: str) -> str:
    """A target without the marks that close it."""
    return target.strip().rstrip(".!?")


def _inner_marks(target: str) -> int:
    """Sentence ends inside a target, which end no answer."""
    return len(_SENTENCE_END.findall(_goal(target)))


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", folded(text).translate(_NO_PUNCTUATION)).split()
