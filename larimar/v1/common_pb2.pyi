from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
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
ADDRESSING_UNSPECIFIED: Addressing
ADDRESSING_SLOTS: Addressing
ADDRESSING_PINV: Addressing
ADDRESSING_GAUSSIAN: Addressing
EVENT_KIND_UNSPECIFIED: EventKind
EVENT_KIND_WRITE: EventKind
EVENT_KIND_FORGET: EventKind

class CallContext(_message.Message):
    __slots__ = ("tenant", "deadline_unix_s", "traceparent")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    deadline_unix_s: float
    traceparent: str
    def __init__(self, tenant: _Optional[str] = ..., deadline_unix_s: _Optional[float] = ..., traceparent: _Optional[str] = ...) -> None: ...

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
    __slots__ = ("version", "kind", "fact_id", "event_id", "time_ms", "payload_sha256", "chain")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_SHA256_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    version: int
    kind: EventKind
    fact_id: str
    event_id: str
    time_ms: int
    payload_sha256: str
    chain: str
    def __init__(self, version: _Optional[int] = ..., kind: _Optional[_Union[EventKind, str]] = ..., fact_id: _Optional[str] = ..., event_id: _Optional[str] = ..., time_ms: _Optional[int] = ..., payload_sha256: _Optional[str] = ..., chain: _Optional[str] = ...) -> None: ...
