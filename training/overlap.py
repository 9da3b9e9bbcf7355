"""`python -m training.overlap --corpus FOLDER --data FILE ...`: is any evaluation text in a corpus?

Two questions are put to every line. Does a statement of the evaluation stand in it: an edit's
prompt with its new answer, or a ZsRE question? And which runs of NGRAM words does it share with
any prompt of the evaluation? Words are compared in lower case, without punctuation.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from larimar.errors import InvalidArgument, LarimarError
from training.data import json_records, read_lines, training_shards, validation_file

NGRAM = 8
"""Words of a shared run that is counted."""
_KEY = 3
"""Words by which a statement is looked up; shorter statements are not looked for."""
_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return _WORD.findall(text.lower())


@dataclasses.dataclass
class Overlap:
    """What was found.

    Attributes:
        lines: lines that were read.
        statements: statements that were looked for.
        verbatim: those that occur, each with the first line it occurs in.
        ngrams: distinct runs of NGRAM words of the evaluation.
        shared: those that occur.
    """

    statements: int
    ngrams: int
    lines: int = 0
    verbatim: dict[str, str] = dataclasses.field(default_factory=dict)
    shared: set[str] = dataclasses.field(default_factory=set)

    def to_json(self) -> str:
        """A report."""
        found = dataclasses.asdict(self) | {
            "ngram_words": NGRAM,
            "shared": len(self.shared),
            "examples": sorted(self.shared)[:20],
        }
        return json.dumps(found, indent=1, ensure_ascii=False)


class EvaluationText:
    """Statements and prompts of evaluation files, to be looked for in lines.

    Cost: two look-ups a word of a line.
    """

    def __init__(self, statements: Iterable[str], prompts: Iterable[str]) -> None:
        self.by_key: dict[str, set[str]] = {}
        self.count = 0
        self.ngrams: set[str] = set()
        for statement in set(statements):
            words = words_of(statement)
            if len(words) >= _KEY:
                self.by_key.setdefault(" ".join(words[:_KEY]), set()).add(" ".join(words))
                self.count += 1
            self.ngrams.update(_runs(words, NGRAM))
        for prompt in set(prompts):
            self.ngrams.update(_runs(words_of(prompt), NGRAM))

    def search(self, lines: Iterable[str]) -> Overlap:
        """Looks for all of it in lines of text."""
        found = Overlap(self.count, len(self.ngrams))
        for line in lines:
            found.lines += 1
            words = words_of(line)
            for place, key in enumerate(_runs(words, _KEY)):
                for statement in self.by_key.get(key, ()):
                    length = statement.count(" ") + 1
                    if " ".join(words[place : place + length]) == statement:
                        found.verbatim.setdefault(statement, line.strip())
            found.shared.update(run for run in _runs(words, NGRAM) if run in self.ngrams)
        return found


def read_evaluation(paths: Sequence[Path]) -> EvaluationText:
    """The text of evaluation files: CounterFact in its three forms, ZsRE in its two.

    Raises:
        InvalidArgument: a file holds other records.
    """
    statements: list[str] = []
    prompts: list[str] = []
    for path in paths:
        for number, record in enumerate(json_records(path), start=1):
            try:
                stated, asked = _texts(record)
            except (KeyError, TypeError) as error:
                raise InvalidArgument(
                    f"{path}, record {number}, is of no known evaluation: {error!r}"
                ) from error
            statements += stated
            prompts += asked
    return EvaluationText(statements, prompts)


def _texts(record: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Statements and prompts of one record."""
    if "requested_rewrite" in record:
        rewrite = record["requested_rewrite"]
        prompt = rewrite["prompt"].format(rewrite["subject"])
        others = [
            *record.get("paraphrase_prompts_clean", ()),
            *record["neighborhood_prompts"],
            *record.get("generation_prompts", ()),
        ]
        return [f"{prompt} {rewrite['target_new']['str']}"], [prompt, *others]
    if "target_new" in record:
        others = [*record.get("rephrases", ()), record.get("rephrase_prompt", "")]
        statement = f"{record['prompt']} {record['target_new']}"
        return [statement], [record["prompt"], record.get("locality_prompt", ""), *others]
    question = record["src"] if "src" in record else record["question"]
    others = [record.get("rephrase", ""), *record.get("rephrases", ()), record.get("loc", "")]
    return [question], others


def _runs(words: list[str], length: int) -> Iterator[str]:
    shifted = (itertools.islice(words, place, None) for place in range(length))
    return map(" ".join, zip(*shifted, strict=False))


def main() -> int:
    """Reads a corpus; exit status 1 where a statement of the evaluation stands in it."""
    parser = argparse.ArgumentParser(prog="python -m training.overlap", description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, nargs="+", help="evaluation files")
    parser.add_argument("--lines", type=int, help="lines to read, when not all")
    arguments = parser.parse_args()
    try:
        evaluation = read_evaluation(arguments.data)
        corpus = [*training_shards(arguments.corpus), validation_file(arguments.corpus)]
        found = evaluation.search(itertools.islice(read_lines(corpus), arguments.lines))
    except LarimarError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(found.to_json())
    return 1 if found.verbatim else 0


if __name__ == "__main__":
    sys.exit(main())
