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
    __slots__ = ("bank", "prompt", "answer", "rephrasings", "fact_id", "event_id", "encoder_digest")
    BANK_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    REPHRASINGS_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    ENCODER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    bank: str
    prompt: str
    answer: str
    rephrasings: _containers.RepeatedScalarFieldContainer[str]
    fact_id: str
    event_id: str
    encoder_digest: str
    def __init__(self, bank: _Optional[str] = ..., prompt: _Optional[str] = ..., answer: _Optional[str] = ..., rephrasings: _Optional[_Iterable[str]] = ..., fact_id: _Optional[str] = ..., event_id: _Optional[str] = ..., encoder_digest: _Optional[str] = ...) -> None: ...

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

class AskRequest(_message.Message):
    __slots__ = ("bank", "prompt", "sampling", "min_version", "no_memory")
    BANK_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    NO_MEMORY_FIELD_NUMBER: _ClassVar[int]
    bank: str
    prompt: str
    sampling: _decoder_pb2.Sampling
    min_version: int
    no_memory: bool
    def __init__(self, bank: _Optional[str] = ..., prompt: _Optional[str] = ..., sampling: _Optional[_Union[_decoder_pb2.Sampling, _Mapping]] = ..., min_version: _Optional[int] = ..., no_memory: _Optional[bool] = ...) -> None: ...

class Provenance(_message.Message):
    __slots__ = ("in_scope", "scope_score", "fact_id", "version", "bank")
    IN_SCOPE_FIELD_NUMBER: _ClassVar[int]
    SCOPE_SCORE_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BANK_FIELD_NUMBER: _ClassVar[int]
    in_scope: bool
    scope_score: float
    fact_id: str
    version: int
    bank: str
    def __init__(self, in_scope: _Optional[bool] = ..., scope_score: _Optional[float] = ..., fact_id: _Optional[str] = ..., version: _Optional[int] = ..., bank: _Optional[str] = ...) -> None: ...

class AskResponse(_message.Message):
    __slots__ = ("text", "provenance", "finish_reason", "tokens")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    text: str
    provenance: Provenance
    finish_reason: str
    tokens: int
    def __init__(self, text: _Optional[str] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ..., finish_reason: _Optional[str] = ..., tokens: _Optional[int] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("bank", "prompt", "candidates", "min_version", "no_memory")
    BANK_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    NO_MEMORY_FIELD_NUMBER: _ClassVar[int]
    bank: str
    prompt: str
    candidates: _containers.RepeatedScalarFieldContainer[str]
    min_version: int
    no_memory: bool
    def __init__(self, bank: _Optional[str] = ..., prompt: _Optional[str] = ..., candidates: _Optional[_Iterable[str]] = ..., min_version: _Optional[int] = ..., no_memory: _Optional[bool] = ...) -> None: ...

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
    __slots__ = ("bank", "page_size", "after", "fact_id")
    BANK_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    bank: str
    page_size: int
    after: str
    fact_id: str
    def __init__(self, bank: _Optional[str] = ..., page_size: _Optional[int] = ..., after: _Optional[str] = ..., fact_id: _Optional[str] = ...) -> None: ...

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
    __slots__ = ("bank", "after_version", "page_size")
    BANK_FIELD_NUMBER: _ClassVar[int]
    AFTER_VERSION_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    bank: str
    after_version: int
    page_size: int
    def __init__(self, bank: _Optional[str] = ..., after_version: _Optional[int] = ..., page_size: _Optional[int] = ...) -> None: ...

class ListEventsResponse(_message.Message):
    __slots__ = ("events", "version")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_common_pb2.Event]
    version: int
    def __init__(self, events: _Optional[_Iterable[_Union[_common_pb2.Event, _Mapping]]] = ..., version: _Optional[int] = ...) -> None: ...

class DigestRequest(_message.Message):
    __slots__ = ("bank",)
    BANK_FIELD_NUMBER: _ClassVar[int]
    bank: str
    def __init__(self, bank: _Optional[str] = ...) -> None: ...

class DigestResponse(_message.Message):
    __slots__ = ("bank", "version", "facts", "digest")
    BANK_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    bank: str
    version: int
    facts: int
    digest: str
    def __init__(self, bank: _Optional[str] = ..., version: _Optional[int] = ..., facts: _Optional[int] = ..., digest: _Optional[str] = ...) -> None: ...

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
