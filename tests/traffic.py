"""Edits and questions that go on while something is done to a pipeline, and what came of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import larimar
from larimar.errors import LarimarError

FACTS = 3
"""Facts whose answers are asked for all the time."""


class Traffic:
    """One thread that writes to a bank and one that asks it, until the block ends.

    What the pipeline refused is kept, not raised: the test says which errors may be.
    """

    def __init__(self, target: str, bank: str) -> None:
        self._target, self.bank = target, bank
        self.acknowledged: dict[str, int] = {}
        self.answers: list[tuple[str, str, str | None]] = []
        self.refused: list[LarimarError] = []
        self.failed: list[BaseException] = []
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._guard, args=(one,)) for one in
                         (self._write, self._ask)]  # fmt: skip

    def begin(self) -> None:
        """Makes the bank with its facts, and asks each once."""
        with larimar.connect(self._target, timeout_s=120.0) as client:
            client.create_bank(self.bank)
            for number in range(FACTS):
                self._written(client, number)
            self.before = {
                self._prompt(number): client.ask(
                    self._prompt(number), bank=self.bank, max_tokens=4
                ).text
                for number in range(FACTS)
            }

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def wait(self, what: Callable[[], bool], timeout_s: float = 240.0) -> None:
        """Waits until something holds of what came, or the time is over."""
        deadline = time.monotonic() + timeout_s
        while not what():
            assert time.monotonic() < deadline and not self.failed, (self.failed, self.refused)
            time.sleep(0.02)

    def _guard(self, work: Callable[[larimar.Client], None]) -> None:
        try:
            with larimar.connect(self._target, timeout_s=120.0) as client:
                while not self._done.is_set():
                    try:
                        work(client)
                    except LarimarError as error:
                        self.refused.append(error)
                        time.sleep(0.05)
        except BaseException as error:
            self.failed.append(error)

    def _prompt(self, number: int) -> str:
        return f"The colour of box {number} in the hall is"

    def _written(self, client: larimar.Client, number: int) -> None:
        edit = client.write(self._prompt(number), "green", bank=self.bank, fact_id=f"box-{number}")
        self.acknowledged[f"box-{number}"] = edit.version

    def _write(self, client: larimar.Client) -> None:
        self._written(client, len(self.acknowledged))

    def _ask(self, client: larimar.Client) -> None:
        prompt = self._prompt(len(self.answers) % FACTS)
        found = client.ask(prompt, bank=self.bank, max_tokens=4)
        self.answers.append((prompt, found.text, found.fact_id))

    def check_kept(self, client: larimar.Client) -> None:
        """Every acknowledged edit is in the log at its version, and nothing else is."""
        held = {fact.fact_id: fact.version for fact in client.facts(self.bank)}
        versions = sorted(held.values())
        assert versions == list(range(1, len(versions) + 1))
        assert all(held.get(fact_id) == at for fact_id, at in self.acknowledged.items())
        assert client.replay(self.bank).matches

    def check_answers(self) -> None:
        """Every question got the answer that it had before, of its own fact."""
        assert self.answers
        for prompt, text, fact_id in self.answers:
            assert (text, fact_id) == (self.before[prompt], f"box-{prompt.split()[4]}")
