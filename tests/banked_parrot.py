"""The parrot of the tables of edits, over banks: what experiments on many edits are tested with."""

from __future__ import annotations

import json
from contextlib import contextmanager

from typer.testing import CliRunner

from evaluation.__main__ import app
from evaluation.data import EditRecord
from evaluation.systems import LARIMAR, Seen
from tests.test_evaluation_edits import Parrot


class BankedParrot(Parrot):
    """A parrot whose bank finds a fact by the subject, and not past its capacity.

    Args:
        capacity: facts of a pinv or gaussian bank; those written later are not found.
    """

    def __init__(self, capacity: int = 10**9):
        super().__init__()
        self.capacity, self.banks, self.remembered = capacity, [], 0
        self.wrote = []

    def write(self, facts):
        """A subject is the word with a number: it may stand anywhere."""
        self.wrote.append([*facts])
        for fact in facts:
            [subject] = [word for word in fact.prompt.split() if word[0] == "N"]
            self.facts[fact.fact_id] = (subject, fact.answer)

    @contextmanager
    def new_bank(self, addressing="slots", slots=0):
        bank = type(self)(slots or 10**9)
        self.banks.append((addressing, slots))
        bank.banks, bank.asked, bank.wrote = self.banks, self.asked, self.wrote
        yield bank

    def bank_digest(self):
        return repr(sorted(self.facts.items()))

    def decode(self, held, remember=False):
        self.remembered += remember
        return super().decode(held)

    def found(self, prompt, view):
        if view.noise > 1:
            return None
        held = dict(list(self.facts.items())[: self.capacity])
        whole, self.facts = self.facts, held
        try:
            return super().found(prompt, view)
        finally:
            self.facts = whole

    def seen(self, query, view):
        if query.candidates:
            return super().seen(query, view)
        self.asked.append(query.prompt)
        return Seen((), "said", self.found(query.prompt, view) is not None)


class Amnesiac:
    """A baseline that knows the newest fact only."""

    def __init__(self):
        self.bank = BankedParrot()

    def write(self, facts):
        self.bank.facts.clear()
        self.bank.write(facts[-1:])

    def forget(self, fact_ids):
        self.bank.facts.clear()

    def read(self, queries):
        return self.bank.read(queries, LARIMAR)

    def decode(self, held):
        return list(held)


def opened_parrot(system):
    """What stands in for `opened`."""

    @contextmanager
    def opened(target, model, detector="", addressing="slots", slots=0, dtype=None):
        yield system

    return opened


def records_of(count, paraphrases=3):
    """Facts about subjects N0, N1 ... with as many paraphrases each and a neighbour."""
    return [
        EditRecord(
            str(n),
            f"N{n}",
            f"N{n} speaks",
            f"tongue{n}",
            "true",
            paraphrases=tuple(f"wording {w} of N{n} is" for w in range(paraphrases)),
            neighbors=(f"Zoe{n} speaks",),
            neighbor_answers=("true",),
        )
        for n in range(count)
    ]


def data_file(path, count, paraphrases=3):
    """The facts of `records_of` as a file of ZsRE with many rephrasings."""
    rows = [
        {
            "id": record.case_id,
            "subject": record.subject,
            "question": record.prompt,
            "answer": record.target_true,
            "alt": record.target_new,
            "rephrases": list(record.paraphrases),
            "loc": record.neighbors[0],
            "loc_ans": record.neighbor_answers[0],
        }
        for record in records_of(count, paraphrases)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def text_file(path, lines=5):
    """Held-out text: a line too short, then lines of 60 words."""
    long = [" ".join(f"word{n}x{k}" for k in range(60)) for n in range(lines)]
    path.write_text("short\n" + "\n".join(long), encoding="utf-8")
    return path


def invoked(*arguments):
    """The report of a command of evaluation."""
    result = CliRunner().invoke(app, [str(one) for one in (*arguments, "--json")])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*arguments):
    """The message of a command's error."""
    result = CliRunner().invoke(app, [str(one) for one in (*arguments, "--json")])
    assert result.exit_code == 1, result.output
    return json.loads(result.stderr)["error"]["message"]
