from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Addressing(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ADDRESSING_UNSPECIFIED: _ClassVar[Addressing]
    ADDRESSING_SLOTS: _ClassVar[Addressing]
    ADDRESSING_PINV: _ClassVar[Addressing]
    ADDRESSING_GAUSSIAN: _ClassVar[Addressing]

class EventKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_KIND_UNSPECIFIED: _ClassVar[EventKind]
    EVENT_KIND_WRITE: _ClassVar[EventKind]
    EVENT_KIND_FORGET: _ClassVar[EventKind]
    EVENT_KIND_ERASE: _ClassVar[EventKind]

class MergePolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MERGE_POLICY_UNSPECIFIED: _ClassVar[MergePolicy]
    MERGE_POLICY_FAIL: _ClassVar[MergePolicy]
    MERGE_POLICY_OURS: _ClassVar[MergePolicy]
    MERGE_POLICY_THEIRS: _ClassVar[MergePolicy]

class EraseStep(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERASE_STEP_UNSPECIFIED: _ClassVar[EraseStep]
    ERASE_STEP_APPENDED: _ClassVar[EraseStep]
    ERASE_STEP_CHECKPOINTED: _ClassVar[EraseStep]
    ERASE_STEP_REMOVED: _ClassVar[EraseStep]
    ERASE_STEP_REWRITTEN: _ClassVar[EraseStep]
    ERASE_STEP_DONE: _ClassVar[EraseStep]
ADDRESSING_UNSPECIFIED: Addressing
ADDRESSING_SLOTS: Addressing
ADDRESSING_PINV: Addressing
ADDRESSING_GAUSSIAN: Addressing
EVENT_KIND_UNSPECIFIED: EventKind
EVENT_KIND_WRITE: EventKind
EVENT_KIND_FORGET: EventKind
EVENT_KIND_ERASE: EventKind
MERGE_POLICY_UNSPECIFIED: MergePolicy
MERGE_POLICY_FAIL: MergePolicy
MERGE_POLICY_OURS: MergePolicy
MERGE_POLICY_THEIRS: MergePolicy
ERASE_STEP_UNSPECIFIED: EraseStep
ERASE_STEP_APPENDED: EraseStep
ERASE_STEP_CHECKPOINTED: EraseStep
ERASE_STEP_REMOVED: EraseStep
ERASE_STEP_REWRITTEN: EraseStep
ERASE_STEP_DONE: EraseStep

class CallContext(_message.Message):
    __slots__ = ("tenant", "deadline_unix_s", "traceparent", "tracestate")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    deadline_unix_s: float
    traceparent: str
    tracestate: str
    def __init__(self, tenant: _Optional[str] = ..., deadline_unix_s: _Optional[float] = ..., traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ...) -> None: ...

class Status(_message.Message):
    __slots__ = ("code", "reason", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    message: str
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class BankConfig(_message.Message):
    __slots__ = ("bank", "addressing", "slots", "prompt_size", "value_size", "scope_size", "prompt_bits", "address_bits", "value_bits", "scope_bits", "ridge", "alpha", "reference_seed", "encoder_digest", "scope_digest", "config_digest")
    BANK_FIELD_NUMBER: _ClassVar[int]
    ADDRESSING_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_SIZE_FIELD_NUMBER: _ClassVar[int]
    VALUE_SIZE_FIELD_NUMBER: _ClassVar[int]
    SCOPE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_BITS_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_BITS_FIELD_NUMBER: _ClassVar[int]
    VALUE_BITS_FIELD_NUMBER: _ClassVar[int]
    SCOPE_BITS_FIELD_NUMBER: _ClassVar[int]
    RIDGE_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_SEED_FIELD_NUMBER: _ClassVar[int]
    ENCODER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SCOPE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CONFIG_DIGEST_FIELD_NUMBER: _ClassVar[int]
    bank: str
    addressing: Addressing
    slots: int
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
    def __init__(self, bank: _Optional[str] = ..., addressing: _Optional[_Union[Addressing, str]] = ..., slots: _Optional[int] = ..., prompt_size: _Optional[int] = ..., value_size: _Optional[int] = ..., scope_size: _Optional[int] = ..., prompt_bits: _Optional[int] = ..., address_bits: _Optional[int] = ..., value_bits: _Optional[int] = ..., scope_bits: _Optional[int] = ..., ridge: _Optional[float] = ..., alpha: _Optional[float] = ..., reference_seed: _Optional[int] = ..., encoder_digest: _Optional[str] = ..., scope_digest: _Optional[str] = ..., config_digest: _Optional[str] = ...) -> None: ...

class Fact(_message.Message):
    __slots__ = ("fact_id", "prompt", "answer", "rephrasings", "version")
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    REPHRASINGS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    fact_id: str
    prompt: str
    answer: str
    rephrasings: _containers.RepeatedScalarFieldContainer[str]
    version: int
    def __init__(self, fact_id: _Optional[str] = ..., prompt: _Optional[str] = ..., answer: _Optional[str] = ..., rephrasings: _Optional[_Iterable[str]] = ..., version: _Optional[int] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("version", "kind", "fact_id", "event_id", "time_ms", "payload_sha256", "chain", "previous_version", "erased")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_SHA256_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_VERSION_FIELD_NUMBER: _ClassVar[int]
    ERASED_FIELD_NUMBER: _ClassVar[int]
    version: int
    kind: EventKind
    fact_id: str
    event_id: str
    time_ms: int
    payload_sha256: str
    chain: str
    previous_version: int
    erased: bool
    def __init__(self, version: _Optional[int] = ..., kind: _Optional[_Union[EventKind, str]] = ..., fact_id: _Optional[str] = ..., event_id: _Optional[str] = ..., time_ms: _Optional[int] = ..., payload_sha256: _Optional[str] = ..., chain: _Optional[str] = ..., previous_version: _Optional[int] = ..., erased: _Optional[bool] = ...) -> None: ...

class Origin(_message.Message):
    __slots__ = ("bank", "version", "chain")
    BANK_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    bank: str
    version: int
    chain: str
    def __init__(self, bank: _Optional[str] = ..., version: _Optional[int] = ..., chain: _Optional[str] = ...) -> None: ...

class FactChange(_message.Message):
    __slots__ = ("kind", "fact_id", "before", "after")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[FactChange.Kind]
        KIND_ADDED: _ClassVar[FactChange.Kind]
        KIND_REMOVED: _ClassVar[FactChange.Kind]
        KIND_CHANGED: _ClassVar[FactChange.Kind]
    KIND_UNSPECIFIED: FactChange.Kind
    KIND_ADDED: FactChange.Kind
    KIND_REMOVED: FactChange.Kind
    KIND_CHANGED: FactChange.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    kind: FactChange.Kind
    fact_id: str
    before: Fact
    after: Fact
    def __init__(self, kind: _Optional[_Union[FactChange.Kind, str]] = ..., fact_id: _Optional[str] = ..., before: _Optional[_Union[Fact, _Mapping]] = ..., after: _Optional[_Union[Fact, _Mapping]] = ...) -> None: ...

class MergeConflict(_message.Message):
    __slots__ = ("fact_id", "base_version", "target_version", "source_version")
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    BASE_VERSION_FIELD_NUMBER: _ClassVar[int]
    TARGET_VERSION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_VERSION_FIELD_NUMBER: _ClassVar[int]
    fact_id: str
    base_version: int
    target_version: int
    source_version: int
    def __init__(self, fact_id: _Optional[str] = ..., base_version: _Optional[int] = ..., target_version: _Optional[int] = ..., source_version: _Optional[int] = ...) -> None: ...

class EraseReceipt(_message.Message):
    __slots__ = ("event_id", "bank", "step", "fact_id_sha256", "banks", "payloads_removed", "checkpoints_removed", "queue_entries_removed", "scan", "started_ms", "finished_ms", "failure")
    class BankResult(_message.Message):
        __slots__ = ("bank", "versions", "version", "erase_count", "digest", "replay_matches")
        BANK_FIELD_NUMBER: _ClassVar[int]
        VERSIONS_FIELD_NUMBER: _ClassVar[int]
        VERSION_FIELD_NUMBER: _ClassVar[int]
        ERASE_COUNT_FIELD_NUMBER: _ClassVar[int]
        DIGEST_FIELD_NUMBER: _ClassVar[int]
        REPLAY_MATCHES_FIELD_NUMBER: _ClassVar[int]
        bank: str
        versions: _containers.RepeatedScalarFieldContainer[int]
        version: int
        erase_count: int
        digest: str
        replay_matches: bool
        def __init__(self, bank: _Optional[str] = ..., versions: _Optional[_Iterable[int]] = ..., version: _Optional[int] = ..., erase_count: _Optional[int] = ..., digest: _Optional[str] = ..., replay_matches: _Optional[bool] = ...) -> None: ...
    class Scan(_message.Message):
        __slots__ = ("keys", "files", "bytes", "found", "found_before", "not_searched")
        KEYS_FIELD_NUMBER: _ClassVar[int]
        FILES_FIELD_NUMBER: _ClassVar[int]
        BYTES_FIELD_NUMBER: _ClassVar[int]
        FOUND_FIELD_NUMBER: _ClassVar[int]
        FOUND_BEFORE_FIELD_NUMBER: _ClassVar[int]
        NOT_SEARCHED_FIELD_NUMBER: _ClassVar[int]
        keys: int
        files: int
        bytes: int
        found: int
        found_before: int
        not_searched: str
        def __init__(self, keys: _Optional[int] = ..., files: _Optional[int] = ..., bytes: _Optional[int] = ..., found: _Optional[int] = ..., found_before: _Optional[int] = ..., not_searched: _Optional[str] = ...) -> None: ...
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    BANK_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_SHA256_FIELD_NUMBER: _ClassVar[int]
    BANKS_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_REMOVED_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_REMOVED_FIELD_NUMBER: _ClassVar[int]
    QUEUE_ENTRIES_REMOVED_FIELD_NUMBER: _ClassVar[int]
    SCAN_FIELD_NUMBER: _ClassVar[int]
    STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_MS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    bank: str
    step: EraseStep
    fact_id_sha256: _containers.RepeatedScalarFieldContainer[str]
    banks: _containers.RepeatedCompositeFieldContainer[EraseReceipt.BankResult]
    payloads_removed: int
    checkpoints_removed: int
    queue_entries_removed: int
    scan: EraseReceipt.Scan
    started_ms: int
    finished_ms: int
    failure: str
    def __init__(self, event_id: _Optional[str] = ..., bank: _Optional[str] = ..., step: _Optional[_Union[EraseStep, str]] = ..., fact_id_sha256: _Optional[_Iterable[str]] = ..., banks: _Optional[_Iterable[_Union[EraseReceipt.BankResult, _Mapping]]] = ..., payloads_removed: _Optional[int] = ..., checkpoints_removed: _Optional[int] = ..., queue_entries_removed: _Optional[int] = ..., scan: _Optional[_Union[EraseReceipt.Scan, _Mapping]] = ..., started_ms: _Optional[int] = ..., finished_ms: _Optional[int] = ..., failure: _Optional[str] = ...) -> None: ...

class ArchiveHeader(_message.Message):
    __slots__ = ("config", "version", "chain", "erase_count", "erased_fact_ids", "digest", "memory_sha256", "scope_sha256")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    ERASE_COUNT_FIELD_NUMBER: _ClassVar[int]
    ERASED_FACT_IDS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    MEMORY_SHA256_FIELD_NUMBER: _ClassVar[int]
    SCOPE_SHA256_FIELD_NUMBER: _ClassVar[int]
    config: BankConfig
    version: int
    chain: str
    erase_count: int
    erased_fact_ids: _containers.RepeatedScalarFieldContainer[str]
    digest: str
    memory_sha256: str
    scope_sha256: str
    def __init__(self, config: _Optional[_Union[BankConfig, _Mapping]] = ..., version: _Optional[int] = ..., chain: _Optional[str] = ..., erase_count: _Optional[int] = ..., erased_fact_ids: _Optional[_Iterable[str]] = ..., digest: _Optional[str] = ..., memory_sha256: _Optional[str] = ..., scope_sha256: _Optional[str] = ...) -> None: ...

class ArchiveRecord(_message.Message):
    __slots__ = ("event", "salt", "payload", "request_hmac")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    REQUEST_HMAC_FIELD_NUMBER: _ClassVar[int]
    event: Event
    salt: bytes
    payload: bytes
    request_hmac: str
    def __init__(self, event: _Optional[_Union[Event, _Mapping]] = ..., salt: _Optional[bytes] = ..., payload: _Optional[bytes] = ..., request_hmac: _Optional[str] = ...) -> None: ...
