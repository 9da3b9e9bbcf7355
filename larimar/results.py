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
class FailedEdit:
    """One item of `edit` that changed nothing; the others are not affected."""

    index: int
    """Place in what was given to the call, from 0."""
    fact_id: str
    event_id: str
    """Make the edit again under this event id where `error.retry_safe` says so."""
    bank: str
    error: LarimarError


@dataclass(frozen=True, slots=True)
class FailedWrite(FailedEdit):
    """One fact of `write_many` that was not acknowledged; the others are not affected."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A generated text and where it came from."""

    text: str
    in_scope: bool
    """Whether the prompt concerns a written fact; else the plain decoder answered."""
    scope_score: float
    """What the detector that decided gave the nearest written prompt; -1 in an empty bank."""
    fact_id: str | None
    version: int
    bank: str
    finish_reason: str = ""
    """``stop`` or ``length``."""
    tokens: int = 0
    stale: bool = False
    """Whether the store did not answer, so that newer edits may be missing; only where the call
    allowed it."""


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
    stale: bool = False

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
    """``WRITE``, ``FORGET`` or ``ERASE``."""
    fact_id: str
    event_id: str
    time_ms: int
    """Milliseconds since the Unix epoch, by the store's clock."""
    payload_sha256: str
    chain: str
    previous_version: int = 0
    """Version of the event before this one that concerns the same fact; 0 for none."""
    erased: bool = False
    """Whether the fact was erased since: the entry counts for nothing."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a fork comes from."""

    bank: str
    version: int
    """The last version that the fork shares with that bank."""
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
    """Whether the call that gave this made the bank; only `create_bank` and `fork` can."""
    erase_count: int = 0
    """Facts ever erased from the bank and its forks."""
    fill: float = 0.0
    """N / K of a pinv or gaussian bank, rephrasings counted; 0 for a slots bank."""
    origin: Origin | None = None
    """None for a bank that is not a fork."""
    stopped: str = ""
    """In a list: why the bank cannot be served, which leaves version and sizes 0."""


@dataclass(frozen=True, slots=True)
class DigestResult:
    """The digest of a bank's live facts at a version."""

    bank: str
    version: int
    facts: int
    digest: str
    erase_count: int = 0
    """Digests compare at equal version and equal erase count."""


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
class ErasedBank:
    """What an erasure did to one bank of the family."""

    bank: str
    versions: tuple[int, ...]
    """Versions of the ERASE events; empty where the facts were never known."""
    version: int
    erase_count: int
    digest: str
    """After the erasure."""
    replay_matches: bool
    """Whether a replay from nothing gave the served digest and bytes."""


@dataclass(frozen=True, slots=True)
class EraseScan:
    """The search for what was erased in the store's keys and files."""

    keys: int
    files: int
    bytes: int
    found: int
    """Places that hold a text or vector of the facts; 0 after a complete erasure."""
    found_before: int
    """The same before the erasure: a search that never finds anything proves nothing."""
    not_searched: str
    """Why files or keys were not searched; empty when they were."""


ERASE_STEPS = ("APPENDED", "CHECKPOINTED", "REMOVED", "REWRITTEN", "DONE")
"""What an erasure goes through, in order; from the first on nobody reads the facts."""


@dataclass(frozen=True, slots=True)
class EraseReceipt:
    """The proof of an erasure. Holds no text and no fact id, so that it may be kept."""

    event_id: str
    bank: str
    step: str
    """The last of `ERASE_STEPS` that was done."""
    fact_id_sha256: tuple[str, ...]
    banks: tuple[ErasedBank, ...]
    payloads_removed: int
    checkpoints_removed: int
    queue_entries_removed: int
    scan: EraseScan | None
    """None before anything was searched."""
    started_ms: int
    finished_ms: int
    failure: str
    """Why the erasure does not go on; it is tried again. Empty otherwise."""

    @property
    def done(self) -> bool:
        """Whether all steps are done."""
        return self.step == ERASE_STEPS[-1]


@dataclass(frozen=True, slots=True)
class MergeConflict:
    """A fact that both banks of a merge have changed since they parted, each in its own way.

    The versions are those of its live WRITE at the fork point and in each bank; 0: not live.
    """

    fact_id: str
    base_version: int
    target_version: int
    source_version: int


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What a merge did to its target, or would do."""

    merge_id: str
    source: str
    target: str
    base_version: int
    """Where the two parted."""
    source_version: int
    target_version: int
    """The versions that were compared."""
    written: int
    forgotten: int
    conflicts: tuple[MergeConflict, ...]
    """However they were resolved; the first thousand."""
    conflict_count: int
    overtaken: tuple[str, ...]
    """Facts that somebody changed in the target meanwhile, and that the merge left alone."""
    version: int
    """Of the target, afterwards."""
    dry_run: bool


@dataclass(frozen=True, slots=True)
class FactChange:
    """A fact that differs between two states."""

    kind: str
    """``ADDED``, ``REMOVED`` or ``CHANGED``."""
    fact_id: str
    before: Fact | None
    after: Fact | None


@dataclass(frozen=True, slots=True)
class ExportResult:
    """A bank's log in a folder."""

    bank: str
    folder: str
    version: int
    digest: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ImportResult:
    """A bank made of an archive."""

    info: BankInfo
    digest: str
    erased_again: int
    """Facts of the archive that had been erased here since it was made, and were again."""


@dataclass(frozen=True, slots=True)
class ReencodeResult:
    """A bank made of another for the models that serve; every live fact of both was compared."""

    info: BankInfo
    digest: str
    facts: int
    """Live facts that both have."""
    behind: int
    """Events of the other bank that came too fast: re-encode again to bring them over."""


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


@dataclass(frozen=True, slots=True)
class IngestResult:
    """How far a document has been written."""

    bank: str
    document: str
    passages: int
    """Live passages of what was sent so far."""
    duplicates: int
    """Those of them that stood there already."""
    characters: int
    """Of the document, sent so far."""
    version: int


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage that an answer rests on, or another fact that was read with them."""

    document: str
    """Empty for a fact that is no passage."""
    offset: int
    """Where it begins in the document, in characters."""
    length: int
    text: str
    weight: float
    """Its share of what was read; all shares add up to 1."""


@dataclass(frozen=True, slots=True)
class RecallResult:
    """A text decoded from the passages of a bank, and the passages with the largest weights."""

    text: str
    passages: tuple[Passage, ...]
    """Largest weight first."""
    levels: int
    """How many times read-outs were read, the passages themselves included."""
    version: int
    bank: str


@dataclass(frozen=True, slots=True)
class DreamResult:
    """Texts that a memory generates when nothing is asked."""

    texts: tuple[str, ...]
    version: int
    bank: str
