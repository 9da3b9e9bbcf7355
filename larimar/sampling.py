"""How tokens are chosen, and the text that they come to."""

from __future__ import annotations

import dataclasses

import torch

from larimar.config import LEAST_TOP_P, MAX_TEMPERATURE, MOST_STOP_STRINGS
from larimar.errors import InvalidArgument
from larimar.spacing import Spacing

ANCHOR_TOKENS = 2
"""Of a prompt, decoded before the text that follows it: they decide how that begins."""
LEAST_TEMPERATURE = 1e-5
"""Below it tokens are chosen greedily: two logits that differ by a thousandth are e**100 apart
already, and a quotient by a much smaller number is infinite, of which there is no softmax."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are chosen: greedy unless a temperature of LEAST_TEMPERATURE or more is set."""

    max_tokens: int = 32
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def check(self, most_tokens: int) -> None:
        """Raises: InvalidArgument, naming the setting that is out of range."""
        if not 1 <= self.max_tokens <= most_tokens:
            raise InvalidArgument(
                f"max_tokens is {self.max_tokens}, it must be 1 to {most_tokens}", "BAD_SAMPLING"
            )
        if not 0.0 <= self.temperature <= MAX_TEMPERATURE:
            raise InvalidArgument(f"temperature must be 0 to {MAX_TEMPERATURE:g}", "BAD_SAMPLING")
        if not 0.0 < self.top_p <= 1.0:
            raise InvalidArgument("top_p must be above 0 and at most 1", "BAD_SAMPLING")
        if len(self.stop) > MOST_STOP_STRINGS or any(not stop for stop in self.stop):
            raise InvalidArgument(
                f"stop takes at most {MOST_STOP_STRINGS} strings, none empty", "BAD_SAMPLING"
            )


@dataclasses.dataclass(frozen=True)
class Piece:
    """What one row's text gained since the last piece was taken."""

    text: str
    finish_reason: str = ""
    tokens: int = 0


class Chooser:
    """Chooses one row's tokens from its logits, by its own seed."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self.greedy = sampling.temperature < LEAST_TEMPERATURE
        self._generator = torch.Generator().manual_seed(sampling.seed)

    def choose(self, logits_V: torch.Tensor) -> int:
        """The next token, from float32 logits on the CPU."""
        if self.greedy:
            return int(logits_V.argmax())
        probs_V = (logits_V / self._sampling.temperature).softmax(-1)
        if self._sampling.top_p < 1.0:
            sorted_V, order_V = probs_V.sort(descending=True, stable=True)
            keep_V = sorted_V.cumsum(-1) - sorted_V < max(self._sampling.top_p, LEAST_TOP_P)
            probs_V = torch.zeros_like(probs_V).scatter(0, order_V[keep_V], sorted_V[keep_V])
        return int(torch.multinomial(probs_V, 1, generator=self._generator))


class Tail:
    """The text that one row has said so far; decoded when it is wanted.

    Args:
        spacing: of the tokenizer.
        prompt_ids: tokens before the text.
    """

    def __init__(
        self,
        tokenizer,
        spacing: Spacing,
        stop_id: int | None,
        sampling: Sampling,
        prompt_ids: list[int],
    ) -> None:
        self._tokenizer = tokenizer
        self._spacing = spacing
        self.stop_id = stop_id
        self._sampling = sampling
        self._held = max((len(stop) - 1 for stop in sampling.stop), default=0)
        self._anchor = prompt_ids[-ANCHOR_TOKENS:]
        self._anchor_text = tokenizer.decode(self._anchor)
        self._quotes = tokenizer.decode(prompt_ids[:-ANCHOR_TOKENS]).count('"')
        self._anchor_written = spacing.written(self._anchor_text, self._quotes)
        self._taken = ""
        self._whole = ""
        self._given = False
        self.ids: list[int] = []
        self.finish_reason = ""

    @property
    def room(self) -> int:
        """Tokens that it may still have."""
        return self._sampling.max_tokens - len(self.ids)

    def push(self, token: int) -> None:
        """Adds a token, which may be the last.

        A stop string counts after the blanks that the text begins with, which an answer is shown
        without.
        """
        if token == self.stop_id:
            self._finish(self._decoded(), "stop")
            return
        self.ids.append(token)
        if self._sampling.stop:
            text = self._decoded()
            blanks = len(text) - len(text.lstrip())
            found = [text.find(stop, blanks) for stop in self._sampling.stop]
            cuts = [cut for cut in found if cut >= 0]
            if cuts:
                self._finish(text[: min(cuts)], "stop")
                return
        if len(self.ids) >= self._sampling.max_tokens:
            self._finish(self._decoded(), "length")

    def take(self) -> Piece:
        """What can be said since the last piece; the last piece has a finish reason.

        What may yet become a stop string or be written otherwise is kept back, and the first bytes
        of a character. Both together: a text shrinks where a gap closes, and a stop string then
        begins further left.
        """
        if self._given:
            return Piece("")
        if self.finish_reason:
            self._given = True
            said = self._taken
            text = self._whole[len(said) :] if self._whole.startswith(said) else ""
            return Piece(text, self.finish_reason, len(self.ids))
        text = self._decoded()
        held = self._held + self._spacing.unsettled(self._anchor_written + text)
        ready = text[: max(0, len(text) - held)]
        if ready.endswith("�") or not ready.startswith(self._taken):
            return Piece("", tokens=len(self.ids))
        said, self._taken = self._taken, ready
        return Piece(ready[len(said) :], tokens=len(self.ids))

    def _decoded(self) -> str:
        text = self._tokenizer.decode(self._anchor + self.ids)
        written = self._spacing.written(text, self._quotes)
        if written.startswith(self._anchor_written):
            return written[len(self._anchor_written) :]
        return text[len(self._anchor_text) :]  # what follows would write the prompt otherwise

    def _finish(self, text: str, reason: str) -> None:
        self._whole = text
        self.finish_reason = reason
