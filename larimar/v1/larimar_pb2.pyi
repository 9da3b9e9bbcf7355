from larimar.v1 import common_pb2 as _common_pb2
from larimar.v1 import decoder_pb2 as _decoder_pb2
from larimar.v1 import memory_pb2 as _memory_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WriteRequest(_message.Message):
    __slots__ = ("bank", "prompt", "answer", "rephrasings", "fact_id", "event_id", "encoder_digest", "expected_version")
    BANK_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    REPHRASINGS_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    ENCODER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    bank: str
    prompt: str
    answer: str
    rephrasings: _containers.RepeatedScalarFieldContainer[str]
    fact_id: str
    event_id: str
    encoder_digest: str
    expected_version: int
    def __init__(self, bank: _Optional[str] = ..., prompt: _Optional[str] = ..., answer: _Optional[str] = ..., rephrasings: _Optional[_Iterable[str]] = ..., fact_id: _Optional[str] = ..., event_id: _Optional[str] = ..., encoder_digest: _Optional[str] = ..., expected_version: _Optional[int] = ...) -> None: ...

class WriteResponse(_message.Message):
    __slots__ = ("fact_id", "event_id", "version", "bank", "duplicate")
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BANK_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    fact_id: str
    event_id: str
    version: int
    bank: str
    duplicate: bool
    def __init__(self, fact_id: _Optional[str] = ..., event_id: _Optional[str] = ..., version: _Optional[int] = ..., bank: _Optional[str] = ..., duplicate: _Optional[bool] = ...) -> None: ...

class WriteManyRequest(_message.Message):
    __slots__ = ("write",)
    WRITE_FIELD_NUMBER: _ClassVar[int]
    write: WriteRequest
    def __init__(self, write: _Optional[_Union[WriteRequest, _Mapping]] = ...) -> None: ...

class WriteManyResponse(_message.Message):
    __slots__ = ("status", "result")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    status: _common_pb2.Status
    result: WriteResponse
    def __init__(self, status: _Optional[_Union[_common_pb2.Status, _Mapping]] = ..., result: _Optional[_Union[WriteResponse, _Mapping]] = ...) -> None: ...

class ForgetRequest(_message.Message):
    __slots__ = ("bank", "fact_id", "event_id")
    BANK_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    bank: str
    fact_id: str
    event_id: str
    def __init__(self, bank: _Optional[str] = ..., fact_id: _Optional[str] = ..., event_id: _Optional[str] = ...) -> None: ...

class ForgetResponse(_message.Message):
    __slots__ = ("fact_id", "event_id", "version", "bank", "duplicate")
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BANK_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    fact_id: str
    event_id: str
    version: int
    bank: str
    duplicate: bool
    def __init__(self, fact_id: _Optional[str] = ..., event_id: _Optional[str] = ..., version: _Optional[int] = ..., bank: _Optional[str] = ..., duplicate: _Optional[bool] = ...) -> None: ...

class EditItem(_message.Message):
    __slots__ = ("write", "forget", "censor")
    WRITE_FIELD_NUMBER: _ClassVar[int]
    FORGET_FIELD_NUMBER: _ClassVar[int]
    CENSOR_FIELD_NUMBER: _ClassVar[int]
    write: WriteRequest
    forget: ForgetRequest
    censor: CensorRequest
    def __init__(self, write: _Optional[_Union[WriteRequest, _Mapping]] = ..., forget: _Optional[_Union[ForgetRequest, _Mapping]] = ..., censor: _Optional[_Union[CensorRequest, _Mapping]] = ...) -> None: ...

class EditRequest(_message.Message):
    __slots__ = ("bank", "items")
    BANK_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    bank: str
    items: _containers.RepeatedCompositeFieldContainer[EditItem]
    def __init__(self, bank: _Optional[str] = ..., items: _Optional[_Iterable[_Union[EditItem, _Mapping]]] = ...) -> None: ...

class EditResult(_message.Message):
    __slots__ = ("status", "fact_id", "event_id", "version", "duplicate")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    status: _common_pb2.Status
    fact_id: str
    event_id: str
    version: int
    duplicate: bool
    def __init__(self, status: _Optional[_Union[_common_pb2.Status, _Mapping]] = ..., fact_id: _Optional[str] = ..., event_id: _Optional[str] = ..., version: _Optional[int] = ..., duplicate: _Optional[bool] = ...) -> None: ...

class EditResponse(_message.Message):
    __slots__ = ("bank", "results")
    BANK_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    bank: str
    results: _containers.RepeatedCompositeFieldContainer[EditResult]
    def __init__(self, bank: _Optional[str] = ..., results: _Optional[_Iterable[_Union[EditResult, _Mapping]]] = ...) -> None: ...

class CensorRequest(_message.Message):
    __slots__ = ("bank", "prompt", "event_id", "rephrasings", "fact_id")
    BANK_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    REPHRASINGS_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    bank: str
    prompt: str
    event_id: str
    rephrasings: _containers.RepeatedScalarFieldContainer[str]
    fact_id: str
    def __init__(self, bank: _Optional[str] = ..., prompt: _Optional[str] = ..., event_id: _Optional[str] = ..., rephrasings: _Optional[_Iterable[str]] = ..., fact_id: _Optional[str] = ...) -> None: ...

class CensorResponse(_message.Message):
    __slots__ = ("fact_id", "event_id", "version", "bank", "duplicate")
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BANK_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    fact_id: str
    event_id: str
    version: int
    bank: str
    duplicate: bool
    def __init__(self, fact_id: _Optional[str] = ..., event_id: _Optional[str] = ..., version: _Optional[int] = ..., bank: _Optional[str] = ..., duplicate: _Optional[bool] = ...) -> None: ...

class EraseRequest(_message.Message):
    __slots__ = ("bank", "fact_ids", "event_id")
    BANK_FIELD_NUMBER: _ClassVar[int]
    FACT_IDS_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    bank: str
    fact_ids: _containers.RepeatedScalarFieldContainer[str]
    event_id: str
    def __init__(self, bank: _Optional[str] = ..., fact_ids: _Optional[_Iterable[str]] = ..., event_id: _Optional[str] = ...) -> None: ...

class EraseResponse(_message.Message):
    __slots__ = ("receipt",)
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    receipt: _common_pb2.EraseReceipt
    def __init__(self, receipt: _Optional[_Union[_common_pb2.EraseReceipt, _Mapping]] = ...) -> None: ...

class GetEraseRequest(_message.Message):
    __slots__ = ("bank", "event_id")
    BANK_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    bank: str
    event_id: str
    def __init__(self, bank: _Optional[str] = ..., event_id: _Optional[str] = ...) -> None: ...

class GetEraseResponse(_message.Message):
    __slots__ = ("receipt",)
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    receipt: _common_pb2.EraseReceipt
    def __init__(self, receipt: _Optional[_Union[_common_pb2.EraseReceipt, _Mapping]] = ...) -> None: ...

class AskRequest(_message.Message):
    __slots__ = ("bank", "prompt", "sampling", "min_version", "no_memory", "at_version", "allow_stale", "noise", "noise_seed", "whole", "preamble")
    BANK_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    NO_MEMORY_FIELD_NUMBER: _ClassVar[int]
    AT_VERSION_FIELD_NUMBER: _ClassVar[int]
    ALLOW_STALE_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    NOISE_SEED_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    PREAMBLE_FIELD_NUMBER: _ClassVar[int]
    bank: str
    prompt: str
    sampling: _decoder_pb2.Sampling
    min_version: int
    no_memory: bool
    at_version: int
    allow_stale: bool
    noise: float
    noise_seed: int
    whole: bool
    preamble: str
    def __init__(self, bank: _Optional[str] = ..., prompt: _Optional[str] = ..., sampling: _Optional[_Union[_decoder_pb2.Sampling, _Mapping]] = ..., min_version: _Optional[int] = ..., no_memory: _Optional[bool] = ..., at_version: _Optional[int] = ..., allow_stale: _Optional[bool] = ..., noise: _Optional[float] = ..., noise_seed: _Optional[int] = ..., whole: _Optional[bool] = ..., preamble: _Optional[str] = ...) -> None: ...

class Provenance(_message.Message):
    __slots__ = ("in_scope", "scope_score", "fact_id", "version", "bank", "stale", "nearest_fact_id", "scope_threshold")
    IN_SCOPE_FIELD_NUMBER: _ClassVar[int]
    SCOPE_SCORE_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BANK_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    NEAREST_FACT_ID_FIELD_NUMBER: _ClassVar[int]
    SCOPE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    in_scope: bool
    scope_score: float
    fact_id: str
    version: int
    bank: str
    stale: bool
    nearest_fact_id: str
    scope_threshold: float
    def __init__(self, in_scope: _Optional[bool] = ..., scope_score: _Optional[float] = ..., fact_id: _Optional[str] = ..., version: _Optional[int] = ..., bank: _Optional[str] = ..., stale: _Optional[bool] = ..., nearest_fact_id: _Optional[str] = ..., scope_threshold: _Optional[float] = ...) -> None: ...

class AskResponse(_message.Message):
    __slots__ = ("text", "provenance", "finish_reason", "tokens", "prompt_tokens")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    text: str
    provenance: Provenance
    finish_reason: str
    tokens: int
    prompt_tokens: int
    def __init__(self, text: _Optional[str] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ..., finish_reason: _Optional[str] = ..., tokens: _Optional[int] = ..., prompt_tokens: _Optional[int] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("bank", "prompt", "candidates", "min_version", "no_memory", "at_version", "allow_stale")
    BANK_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    NO_MEMORY_FIELD_NUMBER: _ClassVar[int]
    AT_VERSION_FIELD_NUMBER: _ClassVar[int]
    ALLOW_STALE_FIELD_NUMBER: _ClassVar[int]
    bank: str
    prompt: str
    candidates: _containers.RepeatedScalarFieldContainer[str]
    min_version: int
    no_memory: bool
    at_version: int
    allow_stale: bool
    def __init__(self, bank: _Optional[str] = ..., prompt: _Optional[str] = ..., candidates: _Optional[_Iterable[str]] = ..., min_version: _Optional[int] = ..., no_memory: _Optional[bool] = ..., at_version: _Optional[int] = ..., allow_stale: _Optional[bool] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("scores", "provenance")
    SCORES_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    scores: _containers.RepeatedCompositeFieldContainer[_decoder_pb2.CandidateScore]
    provenance: Provenance
    def __init__(self, scores: _Optional[_Iterable[_Union[_decoder_pb2.CandidateScore, _Mapping]]] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ...) -> None: ...

class CreateBankRequest(_message.Message):
    __slots__ = ("bank", "addressing", "slots")
    BANK_FIELD_NUMBER: _ClassVar[int]
    ADDRESSING_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    bank: str
    addressing: _common_pb2.Addressing
    slots: int
    def __init__(self, bank: _Optional[str] = ..., addressing: _Optional[_Union[_common_pb2.Addressing, str]] = ..., slots: _Optional[int] = ...) -> None: ...

class CreateBankResponse(_message.Message):
    __slots__ = ("info", "created")
    INFO_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    info: _memory_pb2.BankInfo
    created: bool
    def __init__(self, info: _Optional[_Union[_memory_pb2.BankInfo, _Mapping]] = ..., created: _Optional[bool] = ...) -> None: ...

class GetBankRequest(_message.Message):
    __slots__ = ("bank",)
    BANK_FIELD_NUMBER: _ClassVar[int]
    bank: str
    def __init__(self, bank: _Optional[str] = ...) -> None: ...

class GetBankResponse(_message.Message):
    __slots__ = ("info",)
    INFO_FIELD_NUMBER: _ClassVar[int]
    info: _memory_pb2.BankInfo
    def __init__(self, info: _Optional[_Union[_memory_pb2.BankInfo, _Mapping]] = ...) -> None: ...

class ListBanksRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListBanksResponse(_message.Message):
    __slots__ = ("banks",)
    BANKS_FIELD_NUMBER: _ClassVar[int]
    banks: _containers.RepeatedCompositeFieldContainer[_memory_pb2.BankInfo]
    def __init__(self, banks: _Optional[_Iterable[_Union[_memory_pb2.BankInfo, _Mapping]]] = ...) -> None: ...

class DeleteBankRequest(_message.Message):
    __slots__ = ("bank",)
    BANK_FIELD_NUMBER: _ClassVar[int]
    bank: str
    def __init__(self, bank: _Optional[str] = ...) -> None: ...

class DeleteBankResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListFactsRequest(_message.Message):
    __slots__ = ("bank", "page_size", "after", "fact_id", "at_version")
    BANK_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    AT_VERSION_FIELD_NUMBER: _ClassVar[int]
    bank: str
    page_size: int
    after: str
    fact_id: str
    at_version: int
    def __init__(self, bank: _Optional[str] = ..., page_size: _Optional[int] = ..., after: _Optional[str] = ..., fact_id: _Optional[str] = ..., at_version: _Optional[int] = ...) -> None: ...

class ListFactsResponse(_message.Message):
    __slots__ = ("facts", "version", "total", "next_after")
    FACTS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    NEXT_AFTER_FIELD_NUMBER: _ClassVar[int]
    facts: _containers.RepeatedCompositeFieldContainer[_common_pb2.Fact]
    version: int
    total: int
    next_after: str
    def __init__(self, facts: _Optional[_Iterable[_Union[_common_pb2.Fact, _Mapping]]] = ..., version: _Optional[int] = ..., total: _Optional[int] = ..., next_after: _Optional[str] = ...) -> None: ...

class ListEventsRequest(_message.Message):
    __slots__ = ("bank", "after_version", "page_size", "fact_id")
    BANK_FIELD_NUMBER: _ClassVar[int]
    AFTER_VERSION_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    bank: str
    after_version: int
    page_size: int
    fact_id: str
    def __init__(self, bank: _Optional[str] = ..., after_version: _Optional[int] = ..., page_size: _Optional[int] = ..., fact_id: _Optional[str] = ...) -> None: ...

class ListEventsResponse(_message.Message):
    __slots__ = ("events", "version")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_common_pb2.Event]
    version: int
    def __init__(self, events: _Optional[_Iterable[_Union[_common_pb2.Event, _Mapping]]] = ..., version: _Optional[int] = ...) -> None: ...

class DigestRequest(_message.Message):
    __slots__ = ("bank", "at_version")
    BANK_FIELD_NUMBER: _ClassVar[int]
    AT_VERSION_FIELD_NUMBER: _ClassVar[int]
    bank: str
    at_version: int
    def __init__(self, bank: _Optional[str] = ..., at_version: _Optional[int] = ...) -> None: ...

class DigestResponse(_message.Message):
    __slots__ = ("bank", "version", "facts", "digest", "erase_count")
    BANK_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ERASE_COUNT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    version: int
    facts: int
    digest: str
    erase_count: int
    def __init__(self, bank: _Optional[str] = ..., version: _Optional[int] = ..., facts: _Optional[int] = ..., digest: _Optional[str] = ..., erase_count: _Optional[int] = ...) -> None: ...

class ReplayRequest(_message.Message):
    __slots__ = ("bank",)
    BANK_FIELD_NUMBER: _ClassVar[int]
    bank: str
    def __init__(self, bank: _Optional[str] = ...) -> None: ...

class ReplayResponse(_message.Message):
    __slots__ = ("bank", "version", "events", "seconds", "digest", "matches", "folded_sha256")
    BANK_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    FOLDED_SHA256_FIELD_NUMBER: _ClassVar[int]
    bank: str
    version: int
    events: int
    seconds: float
    digest: str
    matches: bool
    folded_sha256: str
    def __init__(self, bank: _Optional[str] = ..., version: _Optional[int] = ..., events: _Optional[int] = ..., seconds: _Optional[float] = ..., digest: _Optional[str] = ..., matches: _Optional[bool] = ..., folded_sha256: _Optional[str] = ...) -> None: ...

class ForkBankRequest(_message.Message):
    __slots__ = ("bank", "new_bank", "at_version")
    BANK_FIELD_NUMBER: _ClassVar[int]
    NEW_BANK_FIELD_NUMBER: _ClassVar[int]
    AT_VERSION_FIELD_NUMBER: _ClassVar[int]
    bank: str
    new_bank: str
    at_version: int
    def __init__(self, bank: _Optional[str] = ..., new_bank: _Optional[str] = ..., at_version: _Optional[int] = ...) -> None: ...

class ForkBankResponse(_message.Message):
    __slots__ = ("info", "created")
    INFO_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    info: _memory_pb2.BankInfo
    created: bool
    def __init__(self, info: _Optional[_Union[_memory_pb2.BankInfo, _Mapping]] = ..., created: _Optional[bool] = ...) -> None: ...

class MergeBankRequest(_message.Message):
    __slots__ = ("source", "target", "policy", "merge_id", "dry_run")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    MERGE_ID_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    source: str
    target: str
    policy: _common_pb2.MergePolicy
    merge_id: str
    dry_run: bool
    def __init__(self, source: _Optional[str] = ..., target: _Optional[str] = ..., policy: _Optional[_Union[_common_pb2.MergePolicy, str]] = ..., merge_id: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class MergeBankResponse(_message.Message):
    __slots__ = ("merge",)
    MERGE_FIELD_NUMBER: _ClassVar[int]
    merge: _memory_pb2.CombineBanksResponse
    def __init__(self, merge: _Optional[_Union[_memory_pb2.CombineBanksResponse, _Mapping]] = ...) -> None: ...

class DiffBankRequest(_message.Message):
    __slots__ = ("bank", "from_version", "to_version", "to_bank", "page_size", "after")
    BANK_FIELD_NUMBER: _ClassVar[int]
    FROM_VERSION_FIELD_NUMBER: _ClassVar[int]
    TO_VERSION_FIELD_NUMBER: _ClassVar[int]
    TO_BANK_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    bank: str
    from_version: int
    to_version: int
    to_bank: str
    page_size: int
    after: str
    def __init__(self, bank: _Optional[str] = ..., from_version: _Optional[int] = ..., to_version: _Optional[int] = ..., to_bank: _Optional[str] = ..., page_size: _Optional[int] = ..., after: _Optional[str] = ...) -> None: ...

class DiffBankResponse(_message.Message):
    __slots__ = ("diff",)
    DIFF_FIELD_NUMBER: _ClassVar[int]
    diff: _memory_pb2.CompareVersionsResponse
    def __init__(self, diff: _Optional[_Union[_memory_pb2.CompareVersionsResponse, _Mapping]] = ...) -> None: ...

class ExportBankRequest(_message.Message):
    __slots__ = ("bank",)
    BANK_FIELD_NUMBER: _ClassVar[int]
    bank: str
    def __init__(self, bank: _Optional[str] = ...) -> None: ...

class ExportBankResponse(_message.Message):
    __slots__ = ("header", "records")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    header: _common_pb2.ArchiveHeader
    records: _containers.RepeatedCompositeFieldContainer[_common_pb2.ArchiveRecord]
    def __init__(self, header: _Optional[_Union[_common_pb2.ArchiveHeader, _Mapping]] = ..., records: _Optional[_Iterable[_Union[_common_pb2.ArchiveRecord, _Mapping]]] = ...) -> None: ...

class ImportBankRequest(_message.Message):
    __slots__ = ("header", "records", "replaces_version")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    REPLACES_VERSION_FIELD_NUMBER: _ClassVar[int]
    header: _common_pb2.ArchiveHeader
    records: _containers.RepeatedCompositeFieldContainer[_common_pb2.ArchiveRecord]
    replaces_version: int
    def __init__(self, header: _Optional[_Union[_common_pb2.ArchiveHeader, _Mapping]] = ..., records: _Optional[_Iterable[_Union[_common_pb2.ArchiveRecord, _Mapping]]] = ..., replaces_version: _Optional[int] = ...) -> None: ...

class ImportBankResponse(_message.Message):
    __slots__ = ("info", "digest", "erased_again")
    INFO_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ERASED_AGAIN_FIELD_NUMBER: _ClassVar[int]
    info: _memory_pb2.BankInfo
    digest: str
    erased_again: int
    def __init__(self, info: _Optional[_Union[_memory_pb2.BankInfo, _Mapping]] = ..., digest: _Optional[str] = ..., erased_again: _Optional[int] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("bank", "after_version")
    BANK_FIELD_NUMBER: _ClassVar[int]
    AFTER_VERSION_FIELD_NUMBER: _ClassVar[int]
    bank: str
    after_version: int
    def __init__(self, bank: _Optional[str] = ..., after_version: _Optional[int] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: _common_pb2.Event
    def __init__(self, event: _Optional[_Union[_common_pb2.Event, _Mapping]] = ...) -> None: ...

class DreamRequest(_message.Message):
    __slots__ = ("bank", "count", "seed", "at_version", "prompt", "sampling")
    BANK_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    AT_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    bank: str
    count: int
    seed: int
    at_version: int
    prompt: str
    sampling: _decoder_pb2.Sampling
    def __init__(self, bank: _Optional[str] = ..., count: _Optional[int] = ..., seed: _Optional[int] = ..., at_version: _Optional[int] = ..., prompt: _Optional[str] = ..., sampling: _Optional[_Union[_decoder_pb2.Sampling, _Mapping]] = ...) -> None: ...

class DreamResponse(_message.Message):
    __slots__ = ("texts", "version", "bank")
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BANK_FIELD_NUMBER: _ClassVar[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    version: int
    bank: str
    def __init__(self, texts: _Optional[_Iterable[str]] = ..., version: _Optional[int] = ..., bank: _Optional[str] = ...) -> None: ...

class IngestRequest(_message.Message):
    __slots__ = ("bank", "document", "text", "offset", "passage_words")
    BANK_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    PASSAGE_WORDS_FIELD_NUMBER: _ClassVar[int]
    bank: str
    document: str
    text: str
    offset: int
    passage_words: int
    def __init__(self, bank: _Optional[str] = ..., document: _Optional[str] = ..., text: _Optional[str] = ..., offset: _Optional[int] = ..., passage_words: _Optional[int] = ...) -> None: ...

class IngestResponse(_message.Message):
    __slots__ = ("bank", "document", "passages", "duplicates", "version")
    BANK_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    PASSAGES_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    bank: str
    document: str
    passages: int
    duplicates: int
    version: int
    def __init__(self, bank: _Optional[str] = ..., document: _Optional[str] = ..., passages: _Optional[int] = ..., duplicates: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class RecallRequest(_message.Message):
    __slots__ = ("bank", "prompt", "sampling", "document", "at_version")
    BANK_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    AT_VERSION_FIELD_NUMBER: _ClassVar[int]
    bank: str
    prompt: str
    sampling: _decoder_pb2.Sampling
    document: str
    at_version: int
    def __init__(self, bank: _Optional[str] = ..., prompt: _Optional[str] = ..., sampling: _Optional[_Union[_decoder_pb2.Sampling, _Mapping]] = ..., document: _Optional[str] = ..., at_version: _Optional[int] = ...) -> None: ...

class Passage(_message.Message):
    __slots__ = ("document", "offset", "length", "text", "weight")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    document: str
    offset: int
    length: int
    text: str
    weight: float
    def __init__(self, document: _Optional[str] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ..., text: _Optional[str] = ..., weight: _Optional[float] = ...) -> None: ...

class RecallResponse(_message.Message):
    __slots__ = ("text", "passages", "levels", "version", "bank")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PASSAGES_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BANK_FIELD_NUMBER: _ClassVar[int]
    text: str
    passages: _containers.RepeatedCompositeFieldContainer[Passage]
    levels: int
    version: int
    bank: str
    def __init__(self, text: _Optional[str] = ..., passages: _Optional[_Iterable[_Union[Passage, _Mapping]]] = ..., levels: _Optional[int] = ..., version: _Optional[int] = ..., bank: _Optional[str] = ...) -> None: ...

class CloudEvent(_message.Message):
    __slots__ = ("id", "source", "specversion", "type", "subject", "time", "datacontenttype", "data", "traceparent", "tracestate")
    ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SPECVERSION_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    DATACONTENTTYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    id: str
    source: str
    specversion: str
    type: str
    subject: str
    time: str
    datacontenttype: str
    data: bytes
    traceparent: str
    tracestate: str
    def __init__(self, id: _Optional[str] = ..., source: _Optional[str] = ..., specversion: _Optional[str] = ..., type: _Optional[str] = ..., subject: _Optional[str] = ..., time: _Optional[str] = ..., datacontenttype: _Optional[str] = ..., data: _Optional[bytes] = ..., traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ...) -> None: ...

class PublishRequest(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: CloudEvent
    def __init__(self, event: _Optional[_Union[CloudEvent, _Mapping]] = ...) -> None: ...

class PublishResponse(_message.Message):
    __slots__ = ("id", "bank", "fact_id", "version", "duplicate")
    ID_FIELD_NUMBER: _ClassVar[int]
    BANK_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    id: str
    bank: str
    fact_id: str
    version: int
    duplicate: bool
    def __init__(self, id: _Optional[str] = ..., bank: _Optional[str] = ..., fact_id: _Optional[str] = ..., version: _Optional[int] = ..., duplicate: _Optional[bool] = ...) -> None: ...

class PublishManyRequest(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: CloudEvent
    def __init__(self, event: _Optional[_Union[CloudEvent, _Mapping]] = ...) -> None: ...

class PublishManyResponse(_message.Message):
    __slots__ = ("status", "result")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    status: _common_pb2.Status
    result: PublishResponse
    def __init__(self, status: _Optional[_Union[_common_pb2.Status, _Mapping]] = ..., result: _Optional[_Union[PublishResponse, _Mapping]] = ...) -> None: ...

class DeadLetter(_message.Message):
    __slots__ = ("letter_id", "event", "reason", "message", "tries", "time_ms", "inbox_id")
    LETTER_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TRIES_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    INBOX_ID_FIELD_NUMBER: _ClassVar[int]
    letter_id: str
    event: bytes
    reason: str
    message: str
    tries: int
    time_ms: int
    inbox_id: str
    def __init__(self, letter_id: _Optional[str] = ..., event: _Optional[bytes] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., tries: _Optional[int] = ..., time_ms: _Optional[int] = ..., inbox_id: _Optional[str] = ...) -> None: ...

class ListDeadLettersRequest(_message.Message):
    __slots__ = ("after", "page_size")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    after: str
    page_size: int
    def __init__(self, after: _Optional[str] = ..., page_size: _Optional[int] = ...) -> None: ...

class ListDeadLettersResponse(_message.Message):
    __slots__ = ("letters", "total", "next_after")
    LETTERS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    NEXT_AFTER_FIELD_NUMBER: _ClassVar[int]
    letters: _containers.RepeatedCompositeFieldContainer[DeadLetter]
    total: int
    next_after: str
    def __init__(self, letters: _Optional[_Iterable[_Union[DeadLetter, _Mapping]]] = ..., total: _Optional[int] = ..., next_after: _Optional[str] = ...) -> None: ...

class RequeueDeadLettersRequest(_message.Message):
    __slots__ = ("letter_ids",)
    LETTER_IDS_FIELD_NUMBER: _ClassVar[int]
    letter_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, letter_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class RequeueDeadLettersResponse(_message.Message):
    __slots__ = ("requeued",)
    REQUEUED_FIELD_NUMBER: _ClassVar[int]
    requeued: int
    def __init__(self, requeued: _Optional[int] = ...) -> None: ...

class DropDeadLettersRequest(_message.Message):
    __slots__ = ("letter_ids",)
    LETTER_IDS_FIELD_NUMBER: _ClassVar[int]
    letter_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, letter_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class DropDeadLettersResponse(_message.Message):
    __slots__ = ("dropped",)
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    dropped: int
    def __init__(self, dropped: _Optional[int] = ...) -> None: ...

class ReencodeBankRequest(_message.Message):
    __slots__ = ("bank", "new_bank", "encoder_digest")
    BANK_FIELD_NUMBER: _ClassVar[int]
    NEW_BANK_FIELD_NUMBER: _ClassVar[int]
    ENCODER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    bank: str
    new_bank: str
    encoder_digest: str
    def __init__(self, bank: _Optional[str] = ..., new_bank: _Optional[str] = ..., encoder_digest: _Optional[str] = ...) -> None: ...

class ReencodeBankResponse(_message.Message):
    __slots__ = ("version", "total", "info", "digest", "facts")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    version: int
    total: int
    info: _memory_pb2.BankInfo
    digest: str
    facts: int
    def __init__(self, version: _Optional[int] = ..., total: _Optional[int] = ..., info: _Optional[_Union[_memory_pb2.BankInfo, _Mapping]] = ..., digest: _Optional[str] = ..., facts: _Optional[int] = ...) -> None: ...

class CheckpointRequest(_message.Message):
    __slots__ = ("bank",)
    BANK_FIELD_NUMBER: _ClassVar[int]
    bank: str
    def __init__(self, bank: _Optional[str] = ...) -> None: ...

class CheckpointResponse(_message.Message):
    __slots__ = ("bank", "version", "digest", "bytes")
    BANK_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    bank: str
    version: int
    digest: str
    bytes: int
    def __init__(self, bank: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ..., bytes: _Optional[int] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ServiceInfo(_message.Message):
    __slots__ = ("name", "ready", "detail", "pid")
    NAME_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    name: str
    ready: bool
    detail: str
    pid: int
    def __init__(self, name: _Optional[str] = ..., ready: _Optional[bool] = ..., detail: _Optional[str] = ..., pid: _Optional[int] = ...) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("services", "model_digest", "encoder_digest", "scope_digest", "version")
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ENCODER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SCOPE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    services: _containers.RepeatedCompositeFieldContainer[ServiceInfo]
    model_digest: str
    encoder_digest: str
    scope_digest: str
    version: str
    def __init__(self, services: _Optional[_Iterable[_Union[ServiceInfo, _Mapping]]] = ..., model_digest: _Optional[str] = ..., encoder_digest: _Optional[str] = ..., scope_digest: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...
