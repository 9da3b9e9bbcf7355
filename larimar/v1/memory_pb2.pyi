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
    __slots__ = ("config", "version", "facts", "state_bytes")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    STATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    config: _common_pb2.BankConfig
    version: int
    facts: int
    state_bytes: int
    def __init__(self, config: _Optional[_Union[_common_pb2.BankConfig, _Mapping]] = ..., version: _Optional[int] = ..., facts: _Optional[int] = ..., state_bytes: _Optional[int] = ...) -> None: ...

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
    __slots__ = ("kind", "event_id", "fact_id", "prompt", "answer", "rephrasings", "prompt_latents", "value", "scope_vectors")
    KIND_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    REPHRASINGS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LATENTS_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SCOPE_VECTORS_FIELD_NUMBER: _ClassVar[int]
    kind: _common_pb2.EventKind
    event_id: str
    fact_id: str
    prompt: str
    answer: str
    rephrasings: _containers.RepeatedScalarFieldContainer[str]
    prompt_latents: _containers.RepeatedScalarFieldContainer[bytes]
    value: bytes
    scope_vectors: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, kind: _Optional[_Union[_common_pb2.EventKind, str]] = ..., event_id: _Optional[str] = ..., fact_id: _Optional[str] = ..., prompt: _Optional[str] = ..., answer: _Optional[str] = ..., rephrasings: _Optional[_Iterable[str]] = ..., prompt_latents: _Optional[_Iterable[bytes]] = ..., value: _Optional[bytes] = ..., scope_vectors: _Optional[_Iterable[bytes]] = ...) -> None: ...

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
    __slots__ = ("bank", "prompt_latents", "min_version", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LATENTS_FIELD_NUMBER: _ClassVar[int]
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    prompt_latents: _containers.RepeatedScalarFieldContainer[bytes]
    min_version: int
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., prompt_latents: _Optional[_Iterable[bytes]] = ..., min_version: _Optional[int] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

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
    __slots__ = ("readouts", "version")
    READOUTS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    readouts: _containers.RepeatedCompositeFieldContainer[ReadOut]
    version: int
    def __init__(self, readouts: _Optional[_Iterable[_Union[ReadOut, _Mapping]]] = ..., version: _Optional[int] = ...) -> None: ...

class EnumerateFactsRequest(_message.Message):
    __slots__ = ("bank", "page_size", "after", "fact_id", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    page_size: int
    after: str
    fact_id: str
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., page_size: _Optional[int] = ..., after: _Optional[str] = ..., fact_id: _Optional[str] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

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
    __slots__ = ("bank", "after_version", "page_size", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    AFTER_VERSION_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    after_version: int
    page_size: int
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., after_version: _Optional[int] = ..., page_size: _Optional[int] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class EnumerateEventsResponse(_message.Message):
    __slots__ = ("events", "version")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_common_pb2.Event]
    version: int
    def __init__(self, events: _Optional[_Iterable[_Union[_common_pb2.Event, _Mapping]]] = ..., version: _Optional[int] = ...) -> None: ...

class ComputeDigestRequest(_message.Message):
    __slots__ = ("bank", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class ComputeDigestResponse(_message.Message):
    __slots__ = ("digest", "version", "facts")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    digest: str
    version: int
    facts: int
    def __init__(self, digest: _Optional[str] = ..., version: _Optional[int] = ..., facts: _Optional[int] = ...) -> None: ...

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

class DescribeMemoryRequest(_message.Message):
    __slots__ = ("context",)
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    context: _common_pb2.CallContext
    def __init__(self, context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class DescribeMemoryResponse(_message.Message):
    __slots__ = ("pid", "instance_id", "banks_held", "state_bytes")
    PID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    BANKS_HELD_FIELD_NUMBER: _ClassVar[int]
    STATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    pid: int
    instance_id: str
    banks_held: int
    state_bytes: int
    def __init__(self, pid: _Optional[int] = ..., instance_id: _Optional[str] = ..., banks_held: _Optional[int] = ..., state_bytes: _Optional[int] = ...) -> None: ...
