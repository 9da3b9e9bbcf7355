"""Facts and other ways to ask for them, made without any evaluation set.

Two sources: templates of our own around names that the corpus mentions (whole, or put
together anew), and beginnings of corpus sentences whose words are dropped, moved or
mixed with foreign ones. A made fact is known by (subject, relation): two texts of one
fact belong together, and texts of any other do not, however alike they are.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from larimar.errors import NotFound
from training.data import read_lines, sentences, training_shards
from training.scope_templates import RELATIONS

CORPUS_SENTENCES = 60_000
"""Sentences that names and beginnings are taken from: 20 MB of text, read in seconds."""
TEMPLATE_SHARE = 0.75
"""Share of made facts that come from templates; the others are beginnings of sentences."""
RELATIONS_A_NAME = 2
"""Most relations that one name is given: the same subject with another question."""
_NAME = re.compile(
    r"(?<=[a-z,] )[A-Z][a-zÀ-ÿ]+(?:(?: of| de| von| the)? [A-Z][a-zÀ-ÿ]+){0,3}(?=[ ,.'])"
)


@dataclasses.dataclass(frozen=True)
class MadeFact:
    """A fact that does not exist: its prompt, and other prompts for the same thing."""

    subject: str
    relation: int
    """Index into RELATIONS; -1 for a beginning of a sentence."""
    prompt: str
    others: tuple[str, ...]


def corpus_sentences(corpus: Path, limit: int = CORPUS_SENTENCES) -> list[str]:
    """The first sentences of a corpus folder's training shards. Raises: NotFound, without any."""
    return list(islice(sentences(read_lines(training_shards(corpus))), limit))


def names_in(texts: Sequence[str]) -> list[str]:
    """Names that the texts mention inside a sentence, each once, in order of first mention."""
    return list(dict.fromkeys(name for text in texts for name in _NAME.findall(text)))


class FactMaker:
    """Makes facts and their rephrasings from a corpus' sentences, the same ones for a seed.

    Raises:
        NotFound: the sentences mention no names.
    """

    def __init__(self, texts: Sequence[str], seed: int) -> None:
        self.texts = texts
        self.names = names_in(texts)
        if not self.names:
            raise NotFound("the corpus mentions no names: give --corpus more text")
        self.rng = np.random.default_rng(seed)

    def facts(self, count: int, others: int = 3) -> list[MadeFact]:
        """Made facts with `others` rephrasings each; no two have subject and relation in common."""
        made: list[MadeFact] = []
        by_template = int(count * TEMPLATE_SHARE)
        for subject, relation in islice(self._subjects(), by_template):
            forms = self.rng.permutation(RELATIONS[relation])
            rest = [str(forms[1 + n % (len(forms) - 1)]) for n in range(others)]
            asked = tuple(self._asked(form, subject) for form in rest)
            made.append(MadeFact(subject, relation, str(forms[0]).format(subject), asked))
        while len(made) < count:
            prompt = self._beginning()
            made.append(
                MadeFact(prompt, -1, prompt, tuple(self._changed(prompt) for _ in range(others)))
            )
        return made

    def _subjects(self) -> Iterator[tuple[str, int]]:
        """Subjects, some of them with parts in common, each with its relations."""
        seen: set[str] = set()
        while True:
            subject = self._name()
            if self.rng.random() < 0.4:
                subject = f"{subject.split()[0]} {self._name().split()[-1]}"
            if subject in seen:
                continue
            seen.add(subject)
            most = int(self.rng.integers(1, RELATIONS_A_NAME + 1))
            for relation in self.rng.choice(len(RELATIONS), most, replace=False):
                yield subject, int(relation)

    def _name(self) -> str:
        return self.names[int(self.rng.integers(len(self.names)))]

    def _asked(self, form: str, subject: str) -> str:
        """A prompt as somebody might type it."""
        words = subject.split()
        if len(words) > 1 and self.rng.random() < 0.06:
            subject = words[-1]
        text = form.format(subject)
        if self.rng.random() < 0.12:
            text = f"{' '.join(self._foreign(10))} {text}"
        return text.lower() if self.rng.random() < 0.12 else text

    def _beginning(self) -> str:
        """The first words of a sentence."""
        words = self._sentence().split()
        return " ".join(words[: int(self.rng.integers(4, max(5, min(len(words), 14))))])

    def _changed(self, prompt: str) -> str:
        """The prompt with common words dropped, its halves swapped, or foreign words around it."""
        words = prompt.split()
        keep = self.rng.random(len(words)) >= self.rng.uniform(0.0, 0.4)
        kept = [w for w, stays in zip(words, keep, strict=True) if stays or w[:1].isupper()]
        kept = kept or words[-1:]
        if len(kept) > 2 and self.rng.random() < 0.5:
            cut = int(self.rng.integers(1, len(kept)))
            kept = kept[cut:] + kept[:cut]
        if self.rng.random() < 0.4:
            place = int(self.rng.integers(0, len(kept) + 1))
            kept[place:place] = self._foreign(3)
        text = " ".join(kept)
        return text.lower() if self.rng.random() < 0.12 else text

    def _foreign(self, most: int) -> list[str]:
        words = self._sentence().split()
        start = int(self.rng.integers(0, len(words)))
        return words[start : start + int(self.rng.integers(1, most + 1))]

    def _sentence(self) -> str:
        return self.texts[int(self.rng.integers(len(self.texts)))]
