from larimar.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MakeBankRequest(_message.Message):
    __slots__ = ("config", "context")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    config: _common_pb2.BankConfig
    context: _common_pb2.CallContext
    def __init__(self, config: _Optional[_Union[_common_pb2.BankConfig, _Mapping]] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class MakeBankResponse(_message.Message):
    __slots__ = ("config", "created")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    config: _common_pb2.BankConfig
    created: bool
    def __init__(self, config: _Optional[_Union[_common_pb2.BankConfig, _Mapping]] = ..., created: _Optional[bool] = ...) -> None: ...

class BankInfo(_message.Message):
    __slots__ = ("config", "version", "facts", "state_bytes", "erase_count", "fill", "origin", "stopped")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    STATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ERASE_COUNT_FIELD_NUMBER: _ClassVar[int]
    FILL_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    config: _common_pb2.BankConfig
    version: int
    facts: int
    state_bytes: int
    erase_count: int
    fill: float
    origin: _common_pb2.Origin
    stopped: str
    def __init__(self, config: _Optional[_Union[_common_pb2.BankConfig, _Mapping]] = ..., version: _Optional[int] = ..., facts: _Optional[int] = ..., state_bytes: _Optional[int] = ..., erase_count: _Optional[int] = ..., fill: _Optional[float] = ..., origin: _Optional[_Union[_common_pb2.Origin, _Mapping]] = ..., stopped: _Optional[str] = ...) -> None: ...

class DescribeBankRequest(_message.Message):
    __slots__ = ("bank", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class DescribeBankResponse(_message.Message):
    __slots__ = ("info",)
    INFO_FIELD_NUMBER: _ClassVar[int]
    info: BankInfo
    def __init__(self, info: _Optional[_Union[BankInfo, _Mapping]] = ...) -> None: ...

class EnumerateBanksRequest(_message.Message):
    __slots__ = ("context",)
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    context: _common_pb2.CallContext
    def __init__(self, context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class EnumerateBanksResponse(_message.Message):
    __slots__ = ("banks",)
    BANKS_FIELD_NUMBER: _ClassVar[int]
    banks: _containers.RepeatedCompositeFieldContainer[BankInfo]
    def __init__(self, banks: _Optional[_Iterable[_Union[BankInfo, _Mapping]]] = ...) -> None: ...

class DropBankRequest(_message.Message):
    __slots__ = ("bank", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class DropBankResponse(_message.Message):
    __slots__ = ("existed",)
    EXISTED_FIELD_NUMBER: _ClassVar[int]
    existed: bool
    def __init__(self, existed: _Optional[bool] = ...) -> None: ...

class AppendItem(_message.Message):
    __slots__ = ("kind", "event_id", "fact_id", "prompt", "answer", "rephrasings", "prompt_latents", "value", "scope_vectors", "expected_version")
    KIND_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    REPHRASINGS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LATENTS_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SCOPE_VECTORS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    kind: _common_pb2.EventKind
    event_id: str
    fact_id: str
    prompt: str
    answer: str
    rephrasings: _containers.RepeatedScalarFieldContainer[str]
    prompt_latents: _containers.RepeatedScalarFieldContainer[bytes]
    value: bytes
    scope_vectors: _containers.RepeatedScalarFieldContainer[bytes]
    expected_version: int
    def __init__(self, kind: _Optional[_Union[_common_pb2.EventKind, str]] = ..., event_id: _Optional[str] = ..., fact_id: _Optional[str] = ..., prompt: _Optional[str] = ..., answer: _Optional[str] = ..., rephrasings: _Optional[_Iterable[str]] = ..., prompt_latents: _Optional[_Iterable[bytes]] = ..., value: _Optional[bytes] = ..., scope_vectors: _Optional[_Iterable[bytes]] = ..., expected_version: _Optional[int] = ...) -> None: ...

class AppendRequest(_message.Message):
    __slots__ = ("bank", "items", "encoder_digest", "scope_digest", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    ENCODER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SCOPE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    items: _containers.RepeatedCompositeFieldContainer[AppendItem]
    encoder_digest: str
    scope_digest: str
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., items: _Optional[_Iterable[_Union[AppendItem, _Mapping]]] = ..., encoder_digest: _Optional[str] = ..., scope_digest: _Optional[str] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class AppendResult(_message.Message):
    __slots__ = ("status", "event_id", "fact_id", "version", "duplicate")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    status: _common_pb2.Status
    event_id: str
    fact_id: str
    version: int
    duplicate: bool
    def __init__(self, status: _Optional[_Union[_common_pb2.Status, _Mapping]] = ..., event_id: _Optional[str] = ..., fact_id: _Optional[str] = ..., version: _Optional[int] = ..., duplicate: _Optional[bool] = ...) -> None: ...

class AppendResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[AppendResult]
    def __init__(self, results: _Optional[_Iterable[_Union[AppendResult, _Mapping]]] = ...) -> None: ...

class ReadRequest(_message.Message):
    __slots__ = ("bank", "prompt_latents", "min_version", "at_version", "allow_stale", "noise", "noise_seed", "encoder_digest", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LATENTS_FIELD_NUMBER: _ClassVar[int]
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    AT_VERSION_FIELD_NUMBER: _ClassVar[int]
    ALLOW_STALE_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    NOISE_SEED_FIELD_NUMBER: _ClassVar[int]
    ENCODER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    prompt_latents: _containers.RepeatedScalarFieldContainer[bytes]
    min_version: int
    at_version: int
    allow_stale: bool
    noise: float
    noise_seed: int
    encoder_digest: str
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., prompt_latents: _Optional[_Iterable[bytes]] = ..., min_version: _Optional[int] = ..., at_version: _Optional[int] = ..., allow_stale: _Optional[bool] = ..., noise: _Optional[float] = ..., noise_seed: _Optional[int] = ..., encoder_digest: _Optional[str] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class ReadOut(_message.Message):
    __slots__ = ("value", "fact_id", "weight")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    value: bytes
    fact_id: str
    weight: float
    def __init__(self, value: _Optional[bytes] = ..., fact_id: _Optional[str] = ..., weight: _Optional[float] = ...) -> None: ...

class ReadResponse(_message.Message):
    __slots__ = ("readouts", "version", "stale")
    READOUTS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    readouts: _containers.RepeatedCompositeFieldContainer[ReadOut]
    version: int
    stale: bool
    def __init__(self, readouts: _Optional[_Iterable[_Union[ReadOut, _Mapping]]] = ..., version: _Optional[int] = ..., stale: _Optional[bool] = ...) -> None: ...

class EnumerateFactsRequest(_message.Message):
    __slots__ = ("bank", "page_size", "after", "fact_id", "at_version", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    AT_VERSION_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    page_size: int
    after: str
    fact_id: str
    at_version: int
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., page_size: _Optional[int] = ..., after: _Optional[str] = ..., fact_id: _Optional[str] = ..., at_version: _Optional[int] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class EnumerateFactsResponse(_message.Message):
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

class EnumerateEventsRequest(_message.Message):
    __slots__ = ("bank", "after_version", "page_size", "wait_s", "fact_id", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    AFTER_VERSION_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    after_version: int
    page_size: int
    wait_s: float
    fact_id: str
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., after_version: _Optional[int] = ..., page_size: _Optional[int] = ..., wait_s: _Optional[float] = ..., fact_id: _Optional[str] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class EnumerateEventsResponse(_message.Message):
    __slots__ = ("events", "version", "erased")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ERASED_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_common_pb2.Event]
    version: int
    erased: bool
    def __init__(self, events: _Optional[_Iterable[_Union[_common_pb2.Event, _Mapping]]] = ..., version: _Optional[int] = ..., erased: _Optional[bool] = ...) -> None: ...

class ComputeDigestRequest(_message.Message):
    __slots__ = ("bank", "at_version", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    AT_VERSION_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    at_version: int
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., at_version: _Optional[int] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class ComputeDigestResponse(_message.Message):
    __slots__ = ("digest", "version", "facts", "erase_count", "folded_sha256")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    ERASE_COUNT_FIELD_NUMBER: _ClassVar[int]
    FOLDED_SHA256_FIELD_NUMBER: _ClassVar[int]
    digest: str
    version: int
    facts: int
    erase_count: int
    folded_sha256: str
    def __init__(self, digest: _Optional[str] = ..., version: _Optional[int] = ..., facts: _Optional[int] = ..., erase_count: _Optional[int] = ..., folded_sha256: _Optional[str] = ...) -> None: ...

class RebuildBankRequest(_message.Message):
    __slots__ = ("bank", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class RebuildBankResponse(_message.Message):
    __slots__ = ("version", "events", "seconds", "digest", "folded_sha256", "matches")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FOLDED_SHA256_FIELD_NUMBER: _ClassVar[int]
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    version: int
    events: int
    seconds: float
    digest: str
    folded_sha256: str
    matches: bool
    def __init__(self, version: _Optional[int] = ..., events: _Optional[int] = ..., seconds: _Optional[float] = ..., digest: _Optional[str] = ..., folded_sha256: _Optional[str] = ..., matches: _Optional[bool] = ...) -> None: ...

class SaveCheckpointRequest(_message.Message):
    __slots__ = ("bank", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class SaveCheckpointResponse(_message.Message):
    __slots__ = ("version", "digest", "bytes")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    version: int
    digest: str
    bytes: int
    def __init__(self, version: _Optional[int] = ..., digest: _Optional[str] = ..., bytes: _Optional[int] = ...) -> None: ...

class EraseFactsRequest(_message.Message):
    __slots__ = ("bank", "fact_ids", "event_id", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    FACT_IDS_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    fact_ids: _containers.RepeatedScalarFieldContainer[str]
    event_id: str
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., fact_ids: _Optional[_Iterable[str]] = ..., event_id: _Optional[str] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class EraseFactsResponse(_message.Message):
    __slots__ = ("receipt",)
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    receipt: _common_pb2.EraseReceipt
    def __init__(self, receipt: _Optional[_Union[_common_pb2.EraseReceipt, _Mapping]] = ...) -> None: ...

class DescribeEraseRequest(_message.Message):
    __slots__ = ("bank", "event_id", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    event_id: str
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., event_id: _Optional[str] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class DescribeEraseResponse(_message.Message):
    __slots__ = ("receipt",)
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    receipt: _common_pb2.EraseReceipt
    def __init__(self, receipt: _Optional[_Union[_common_pb2.EraseReceipt, _Mapping]] = ...) -> None: ...

class BranchBankRequest(_message.Message):
    __slots__ = ("bank", "new_bank", "at_version", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    NEW_BANK_FIELD_NUMBER: _ClassVar[int]
    AT_VERSION_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    new_bank: str
    at_version: int
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., new_bank: _Optional[str] = ..., at_version: _Optional[int] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class BranchBankResponse(_message.Message):
    __slots__ = ("info", "created")
    INFO_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    info: BankInfo
    created: bool
    def __init__(self, info: _Optional[_Union[BankInfo, _Mapping]] = ..., created: _Optional[bool] = ...) -> None: ...

class CombineBanksRequest(_message.Message):
    __slots__ = ("source", "target", "policy", "merge_id", "dry_run", "context")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    MERGE_ID_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    source: str
    target: str
    policy: _common_pb2.MergePolicy
    merge_id: str
    dry_run: bool
    context: _common_pb2.CallContext
    def __init__(self, source: _Optional[str] = ..., target: _Optional[str] = ..., policy: _Optional[_Union[_common_pb2.MergePolicy, str]] = ..., merge_id: _Optional[str] = ..., dry_run: _Optional[bool] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class CombineBanksResponse(_message.Message):
    __slots__ = ("merge_id", "base_version", "source_version", "target_version", "written", "forgotten", "conflicts", "conflict_count", "overtaken", "version")
    MERGE_ID_FIELD_NUMBER: _ClassVar[int]
    BASE_VERSION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_VERSION_FIELD_NUMBER: _ClassVar[int]
    TARGET_VERSION_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    CONFLICTS_FIELD_NUMBER: _ClassVar[int]
    CONFLICT_COUNT_FIELD_NUMBER: _ClassVar[int]
    OVERTAKEN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    merge_id: str
    base_version: int
    source_version: int
    target_version: int
    written: int
    forgotten: int
    conflicts: _containers.RepeatedCompositeFieldContainer[_common_pb2.MergeConflict]
    conflict_count: int
    overtaken: _containers.RepeatedScalarFieldContainer[str]
    version: int
    def __init__(self, merge_id: _Optional[str] = ..., base_version: _Optional[int] = ..., source_version: _Optional[int] = ..., target_version: _Optional[int] = ..., written: _Optional[int] = ..., forgotten: _Optional[int] = ..., conflicts: _Optional[_Iterable[_Union[_common_pb2.MergeConflict, _Mapping]]] = ..., conflict_count: _Optional[int] = ..., overtaken: _Optional[_Iterable[str]] = ..., version: _Optional[int] = ...) -> None: ...

class CompareVersionsRequest(_message.Message):
    __slots__ = ("bank", "from_version", "to_version", "to_bank", "page_size", "after", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    FROM_VERSION_FIELD_NUMBER: _ClassVar[int]
    TO_VERSION_FIELD_NUMBER: _ClassVar[int]
    TO_BANK_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    from_version: int
    to_version: int
    to_bank: str
    page_size: int
    after: str
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., from_version: _Optional[int] = ..., to_version: _Optional[int] = ..., to_bank: _Optional[str] = ..., page_size: _Optional[int] = ..., after: _Optional[str] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class CompareVersionsResponse(_message.Message):
    __slots__ = ("changes", "from_version", "to_version", "added", "removed", "changed", "next_after")
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    FROM_VERSION_FIELD_NUMBER: _ClassVar[int]
    TO_VERSION_FIELD_NUMBER: _ClassVar[int]
    ADDED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    NEXT_AFTER_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[_common_pb2.FactChange]
    from_version: int
    to_version: int
    added: int
    removed: int
    changed: int
    next_after: str
    def __init__(self, changes: _Optional[_Iterable[_Union[_common_pb2.FactChange, _Mapping]]] = ..., from_version: _Optional[int] = ..., to_version: _Optional[int] = ..., added: _Optional[int] = ..., removed: _Optional[int] = ..., changed: _Optional[int] = ..., next_after: _Optional[str] = ...) -> None: ...

class DumpBankRequest(_message.Message):
    __slots__ = ("bank", "after_version", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    AFTER_VERSION_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    after_version: int
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., after_version: _Optional[int] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class DumpBankResponse(_message.Message):
    __slots__ = ("header", "records")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    header: _common_pb2.ArchiveHeader
    records: _containers.RepeatedCompositeFieldContainer[_common_pb2.ArchiveRecord]
    def __init__(self, header: _Optional[_Union[_common_pb2.ArchiveHeader, _Mapping]] = ..., records: _Optional[_Iterable[_Union[_common_pb2.ArchiveRecord, _Mapping]]] = ...) -> None: ...

class LoadBankRequest(_message.Message):
    __slots__ = ("header", "records", "bank", "last", "source", "replaces_version", "reencoded_from", "context")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    BANK_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REPLACES_VERSION_FIELD_NUMBER: _ClassVar[int]
    REENCODED_FROM_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    header: _common_pb2.ArchiveHeader
    records: _containers.RepeatedCompositeFieldContainer[_common_pb2.ArchiveRecord]
    bank: str
    last: bool
    source: str
    replaces_version: int
    reencoded_from: str
    context: _common_pb2.CallContext
    def __init__(self, header: _Optional[_Union[_common_pb2.ArchiveHeader, _Mapping]] = ..., records: _Optional[_Iterable[_Union[_common_pb2.ArchiveRecord, _Mapping]]] = ..., bank: _Optional[str] = ..., last: _Optional[bool] = ..., source: _Optional[str] = ..., replaces_version: _Optional[int] = ..., reencoded_from: _Optional[str] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class LoadBankResponse(_message.Message):
    __slots__ = ("info", "digest", "erased_again", "version", "chain")
    INFO_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ERASED_AGAIN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    info: BankInfo
    digest: str
    erased_again: int
    version: int
    chain: str
    def __init__(self, info: _Optional[_Union[BankInfo, _Mapping]] = ..., digest: _Optional[str] = ..., erased_again: _Optional[int] = ..., version: _Optional[int] = ..., chain: _Optional[str] = ...) -> None: ...

class SampleLatentsRequest(_message.Message):
    __slots__ = ("bank", "count", "seed", "at_version", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    AT_VERSION_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    count: int
    seed: int
    at_version: int
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., count: _Optional[int] = ..., seed: _Optional[int] = ..., at_version: _Optional[int] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class SampleLatentsResponse(_message.Message):
    __slots__ = ("values", "version", "encoder_digest")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENCODER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[bytes]
    version: int
    encoder_digest: str
    def __init__(self, values: _Optional[_Iterable[bytes]] = ..., version: _Optional[int] = ..., encoder_digest: _Optional[str] = ...) -> None: ...

class ReadRecursivelyRequest(_message.Message):
    __slots__ = ("bank", "prompt_latent", "episode_size", "fact_id_prefix", "at_version", "encoder_digest", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LATENT_FIELD_NUMBER: _ClassVar[int]
    EPISODE_SIZE_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_PREFIX_FIELD_NUMBER: _ClassVar[int]
    AT_VERSION_FIELD_NUMBER: _ClassVar[int]
    ENCODER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    prompt_latent: bytes
    episode_size: int
    fact_id_prefix: str
    at_version: int
    encoder_digest: str
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., prompt_latent: _Optional[bytes] = ..., episode_size: _Optional[int] = ..., fact_id_prefix: _Optional[str] = ..., at_version: _Optional[int] = ..., encoder_digest: _Optional[str] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class ReadRecursivelyResponse(_message.Message):
    __slots__ = ("value", "weights", "levels", "facts", "version")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    value: bytes
    weights: _containers.RepeatedCompositeFieldContainer[FactWeight]
    levels: int
    facts: int
    version: int
    def __init__(self, value: _Optional[bytes] = ..., weights: _Optional[_Iterable[_Union[FactWeight, _Mapping]]] = ..., levels: _Optional[int] = ..., facts: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class FactWeight(_message.Message):
    __slots__ = ("fact_id", "weight")
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    fact_id: str
    weight: float
    def __init__(self, fact_id: _Optional[str] = ..., weight: _Optional[float] = ...) -> None: ...

class DescribeMemoryRequest(_message.Message):
    __slots__ = ("context",)
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    context: _common_pb2.CallContext
    def __init__(self, context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class DescribeMemoryResponse(_message.Message):
    __slots__ = ("pid", "instance_id", "banks_held", "state_bytes", "stopped")
    PID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    BANKS_HELD_FIELD_NUMBER: _ClassVar[int]
    STATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    pid: int
    instance_id: str
    banks_held: int
    state_bytes: int
    stopped: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, pid: _Optional[int] = ..., instance_id: _Optional[str] = ..., banks_held: _Optional[int] = ..., state_bytes: _Optional[int] = ..., stopped: _Optional[_Iterable[str]] = ...) -> None: ...
