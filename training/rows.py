"""Sentences to training rows, by word operations: what is stored, and what is asked.

Nothing here knows of any evaluation set: prompts and answers are cut out of generic
sentences, and a prompt is changed by cutting, shuffling, thinning and foreign words.
"""

from __future__ import annotations

import calendar
import dataclasses

import numpy as np

from training.data import Sentences

_SPOILT_SHARE = 0.3
"""Share of the words of a spoilt text that are replaced by others."""
_NAME_WORDS = 5
"""Most words of a name."""
_LONG_WORDS = (4, 8)
"""Words of a long answer, from and to."""
_QUESTION_SHARE = 0.15
"""Share of varied prompts that become questions."""
_BARE_SHARE = 0.7
"""Share of varied answers that lose the marks behind them: a fact's answer seldom has any."""
_MARKS = ".,;:!?\"')]"
_QUESTIONS = ("What", "Who", "When", "Where", "Which", "How", "In which", "Of what", "On what")
_MONTHS = frozenset(calendar.month_name) - {""}


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a batch, as text.

    Attributes:
        prompt, answer: what is stored; the answer may be empty.
        query: what the decoder is given first.
        target: what it must say next; the end token follows.
        learn_query: whether the target is the stored text itself, said token by token while
            the query, which has as many words, is given.
    """

    prompt: str
    answer: str
    query: str
    target: str
    learn_query: bool


class RowMaker:
    """Cuts sentences into rows of two kinds: copy and answer.

    copy: the decoder repeats the stored text, from a query whose words are often spoilt.
    answer: the decoder says the stored answer after a prompt that was cut, shuffled,
    thinned or mixed with foreign words.

    Args:
        rephrase: whether prompts are changed.
        varied: whether answers are also numbers, dates and long ones, and prompts questions.
    """

    def __init__(self, data: Sentences, rephrase: bool, varied: bool = False) -> None:
        self.data = data
        self.rephrase = rephrase
        self.varied = varied

    def copy(self, rng: np.random.Generator, index: int) -> Row:
        """A row whose target is the whole stored text."""
        words = self.data.texts[index].split()
        cut = len(words)
        if rng.random() < 0.5:
            cut = int(rng.integers(1, len(words)))
        query = self._spoilt(rng, words) if rng.random() < 0.5 else words
        return _row(words[:cut], words[cut:], query, words, True)

    def answer(self, rng: np.random.Generator, index: int) -> Row:
        """A row whose target is the stored answer, after a prompt that may be another one."""
        words = self.data.texts[index].split()
        start, stop = (_varied_span if self.varied else _answer_span)(rng, words)
        low = max(0, start - int(rng.integers(5, 22)))
        prompt, answer = words[low:start], words[start:stop]
        if self.varied:
            prompt, answer = _as_asked(rng, prompt, answer)
        return _row(prompt, answer, self._other_prompt(rng, prompt), answer, False)

    def _spoilt(self, rng: np.random.Generator, words: list[str]) -> list[str]:
        common = self.data.common_words
        noise = rng.integers(0, len(common), len(words))
        spoilt = rng.random(len(words)) < _SPOILT_SHARE
        return [
            common[place] if replaced else word
            for word, place, replaced in zip(words, noise, spoilt, strict=True)
        ]

    def _foreign(self, rng: np.random.Generator, longest: int) -> list[str]:
        words = self.data.texts[int(rng.integers(len(self.data)))].split()
        count = int(rng.integers(1, longest + 1))
        low = int(rng.integers(0, max(1, len(words) - count)))
        return words[low : low + count]

    def _other_prompt(self, rng: np.random.Generator, prompt: list[str]) -> list[str]:
        kind = rng.random()
        if kind < 0.25 or not self.rephrase:
            return prompt
        if kind < 0.40:
            return self._spoilt(rng, prompt)
        dropped = rng.uniform(0.0, 0.6, len(prompt))
        kept = [word for word, share in zip(prompt, dropped) if rng.random() >= share]
        kept = kept or prompt[:1]
        if rng.random() < 0.6 and len(kept) > 1:
            cut = int(rng.integers(1, len(kept)))
            kept = kept[cut:] + kept[:cut]
            if rng.random() < 0.3:
                kept = [kept[i] for i in rng.permutation(len(kept))]
        for _ in range(int(rng.integers(0, 4))):
            place = int(rng.integers(0, len(kept) + 1))
            kept[place:place] = self._foreign(rng, 2)
        if rng.random() < 0.25:
            kept = self._foreign(rng, 12) + kept
        return kept


def _answer_span(rng: np.random.Generator, words: list[str]) -> tuple[int, int]:
    """Where the answer begins and ends: a name in most rows, else one to three words."""
    names = [place for place in range(2, len(words)) if words[place][0].isupper()]
    if names and rng.random() < 0.6:
        start = int(rng.choice(names))
        stop = start + 1
        while stop < len(words) and words[stop][0].isupper() and stop - start < _NAME_WORDS:
            stop += 1
        return start, stop
    start = int(rng.integers(3, len(words)))
    return start, min(len(words), start + int(rng.integers(1, 4)))


def _varied_span(rng: np.random.Generator, words: list[str]) -> tuple[int, int]:
    """As `_answer_span`; also a number or a date where there is one, or a long answer."""
    kind = rng.random()
    numbers = [place for place in range(2, len(words)) if _is_number(words[place])]
    if kind < 0.25 and numbers:
        start = int(rng.choice(numbers))
        stop = start + 1
        while start > 2 and _is_of_date(words[start - 1]):
            start -= 1
        while stop < len(words) and _is_of_date(words[stop]):
            stop += 1
        return start, stop
    if kind < 0.4:
        start = int(rng.integers(2, max(3, len(words) - _LONG_WORDS[0])))
        return start, min(len(words), start + int(rng.integers(_LONG_WORDS[0], _LONG_WORDS[1] + 1)))
    return _answer_span(rng, words)


def _is_number(word: str) -> bool:
    return any(letter.isdigit() for letter in word)


def _is_of_date(word: str) -> bool:
    return _is_number(word) or word.strip(_MARKS) in _MONTHS


def _as_asked(
    rng: np.random.Generator, prompt: list[str], answer: list[str]
) -> tuple[list[str], list[str]]:
    """A prompt that may become a question, and an answer that may lose the marks behind it."""
    if rng.random() < _QUESTION_SHARE:
        asked = _QUESTIONS[int(rng.integers(len(_QUESTIONS)))]
        prompt = [asked, *prompt[:-1], prompt[-1].rstrip(_MARKS) + "?"]
    if rng.random() < _BARE_SHARE:
        answer = [*answer[:-1], answer[-1].rstrip(_MARKS) or answer[-1]]
    return prompt, answer


def _row(
    prompt: list[str], answer: list[str], query: list[str], target: list[str], learn_query: bool
) -> Row:
    return Row(" ".join(prompt), " ".join(answer), " ".join(query), " ".join(target), learn_query)
