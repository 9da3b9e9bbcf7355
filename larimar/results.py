"""What calls give back: small values, the same from a pipeline and from one process.

Imports nothing but the standard library and `larimar.errors`.
"""

from __future__ import annotations

from dataclasses import dataclass

from larimar.errors import LarimarError


@dataclass(frozen=True, slots=True)
class Edit:
    """An acknowledged WRITE or FORGET: it is durable, and every later read sees it."""

    fact_id: str
    event_id: str
    version: int
    bank: str
    duplicate: bool = False
    """Whether the event had been appended before this call was made."""


@dataclass(frozen=True, slots=True)
class FailedWrite:
    """One fact of `write_many` that was not acknowledged; the others are not affected."""

    index: int
    """Place in what was given to `write_many`, from 0."""
    fact_id: str
    event_id: str
    """Write the fact again under this event id where `error.retry_safe` says so."""
    bank: str
    error: LarimarError


@dataclass(frozen=True, slots=True)
class Answer:
    """A generated text and where it came from."""

    text: str
    in_scope: bool
    """Whether the prompt concerns a written fact; else the plain decoder answered."""
    scope_score: float
    """Cosine to the nearest written prompt; -1 in an empty bank."""
    fact_id: str | None
    version: int
    bank: str
    finish_reason: str = ""
    """``stop`` or ``length``."""
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class CandidateScore:
    """Natural log probabilities of one candidate after the prompt."""

    candidate: str
    token_logprobs: tuple[float, ...]
    token_is_argmax: tuple[bool, ...]

    @property
    def logprob(self) -> float:
        """Log probability of the whole candidate."""
        return sum(self.token_logprobs)

    @property
    def mean_logprob(self) -> float:
        """Log probability a token: its exponential is the P of the paper's scores."""
        return self.logprob / max(len(self.token_logprobs), 1)


@dataclass(frozen=True, slots=True)
class Score:
    """Candidates of one prompt, in the order given, and where the scores came from."""

    candidates: tuple[CandidateScore, ...]
    in_scope: bool
    scope_score: float
    fact_id: str | None
    version: int
    bank: str

    @property
    def best(self) -> CandidateScore:
        """The candidate with the largest mean log probability; the first of equals."""
        return max(self.candidates, key=lambda one: one.mean_logprob)


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact that is live in a bank."""

    fact_id: str
    prompt: str
    answer: str
    version: int
    rephrasings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a bank's log, without its payload."""

    version: int
    kind: str
    """``WRITE`` or ``FORGET``."""
    fact_id: str
    event_id: str
    time_ms: int
    """Milliseconds since the Unix epoch, by the store's clock."""
    payload_sha256: str
    chain: str


@dataclass(frozen=True, slots=True)
class BankInfo:
    """A bank: its immutable configuration, and what it holds at a version."""

    bank: str
    addressing: str
    """``slots``, ``pinv`` or ``gaussian``."""
    slots: int
    """K of a pinv or gaussian bank; 0 for a slots bank, which grows."""
    version: int
    facts: int
    state_bytes: int
    prompt_size: int
    value_size: int
    scope_size: int
    prompt_bits: int
    address_bits: int
    value_bits: int
    scope_bits: int
    ridge: float
    alpha: float
    reference_seed: int
    encoder_digest: str
    scope_digest: str
    config_digest: str
    created: bool = False
    """Whether the call that gave this made the bank; only `create_bank` can."""


@dataclass(frozen=True, slots=True)
class DigestResult:
    """The digest of a bank's live facts at a version."""

    bank: str
    version: int
    facts: int
    digest: str


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """A bank rebuilt from its log alone, compared with the one that serves."""

    bank: str
    version: int
    events: int
    seconds: float
    digest: str
    matches: bool
    folded_sha256: str


@dataclass(frozen=True, slots=True)
class CheckpointResult:
    """A state saved at a version."""

    bank: str
    version: int
    digest: str
    bytes: int


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """One service of the pipeline; `detail` says what it holds, or why it is not ready."""

    name: str
    ready: bool
    detail: str
    pid: int = 0
    """Process that serves it; 0 when unknown."""


@dataclass(frozen=True, slots=True)
class Status:
    """What is running, and of which model."""

    services: tuple[ServiceInfo, ...] = ()
    model_digest: str = ""
    encoder_digest: str = ""
    scope_digest: str = ""
    version: str = ""
