from larimar.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EmbedRequest(_message.Message):
    __slots__ = ("texts", "context")
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    context: _common_pb2.CallContext
    def __init__(self, texts: _Optional[_Iterable[str]] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("embeddings", "scope_digest")
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    SCOPE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    embeddings: _containers.RepeatedScalarFieldContainer[bytes]
    scope_digest: str
    def __init__(self, embeddings: _Optional[_Iterable[bytes]] = ..., scope_digest: _Optional[str] = ...) -> None: ...

class DetectRequest(_message.Message):
    __slots__ = ("bank", "queries", "min_version", "at_version", "allow_stale", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    AT_VERSION_FIELD_NUMBER: _ClassVar[int]
    ALLOW_STALE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    queries: _containers.RepeatedScalarFieldContainer[str]
    min_version: int
    at_version: int
    allow_stale: bool
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., queries: _Optional[_Iterable[str]] = ..., min_version: _Optional[int] = ..., at_version: _Optional[int] = ..., allow_stale: _Optional[bool] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class Detection(_message.Message):
    __slots__ = ("in_scope", "score", "fact_id")
    IN_SCOPE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    FACT_ID_FIELD_NUMBER: _ClassVar[int]
    in_scope: bool
    score: float
    fact_id: str
    def __init__(self, in_scope: _Optional[bool] = ..., score: _Optional[float] = ..., fact_id: _Optional[str] = ...) -> None: ...

class DetectResponse(_message.Message):
    __slots__ = ("detections", "version", "threshold", "stale")
    DETECTIONS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    detections: _containers.RepeatedCompositeFieldContainer[Detection]
    version: int
    threshold: float
    stale: bool
    def __init__(self, detections: _Optional[_Iterable[_Union[Detection, _Mapping]]] = ..., version: _Optional[int] = ..., threshold: _Optional[float] = ..., stale: _Optional[bool] = ...) -> None: ...

class FindFactsRequest(_message.Message):
    __slots__ = ("bank", "texts", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    texts: _containers.RepeatedScalarFieldContainer[str]
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., texts: _Optional[_Iterable[str]] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class FoundFacts(_message.Message):
    __slots__ = ("fact_ids",)
    FACT_IDS_FIELD_NUMBER: _ClassVar[int]
    fact_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, fact_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class FindFactsResponse(_message.Message):
    __slots__ = ("found",)
    FOUND_FIELD_NUMBER: _ClassVar[int]
    found: _containers.RepeatedCompositeFieldContainer[FoundFacts]
    def __init__(self, found: _Optional[_Iterable[_Union[FoundFacts, _Mapping]]] = ...) -> None: ...

class RebuildScopeRequest(_message.Message):
    __slots__ = ("bank", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class RebuildScopeResponse(_message.Message):
    __slots__ = ("version", "digest", "folded_sha256", "matches")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FOLDED_SHA256_FIELD_NUMBER: _ClassVar[int]
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    version: int
    digest: str
    folded_sha256: str
    matches: bool
    def __init__(self, version: _Optional[int] = ..., digest: _Optional[str] = ..., folded_sha256: _Optional[str] = ..., matches: _Optional[bool] = ...) -> None: ...

class SaveScopeRequest(_message.Message):
    __slots__ = ("bank", "context")
    BANK_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    bank: str
    context: _common_pb2.CallContext
    def __init__(self, bank: _Optional[str] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class SaveScopeResponse(_message.Message):
    __slots__ = ("version", "digest", "bytes")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    version: int
    digest: str
    bytes: int
    def __init__(self, version: _Optional[int] = ..., digest: _Optional[str] = ..., bytes: _Optional[int] = ...) -> None: ...

class DescribeScopeRequest(_message.Message):
    __slots__ = ("context",)
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    context: _common_pb2.CallContext
    def __init__(self, context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class DescribeScopeResponse(_message.Message):
    __slots__ = ("scope_digest", "scope_size", "scope_bits", "threshold", "max_text_tokens", "pid")
    SCOPE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SCOPE_SIZE_FIELD_NUMBER: _ClassVar[int]
    SCOPE_BITS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    scope_digest: str
    scope_size: int
    scope_bits: int
    threshold: float
    max_text_tokens: int
    pid: int
    def __init__(self, scope_digest: _Optional[str] = ..., scope_size: _Optional[int] = ..., scope_bits: _Optional[int] = ..., threshold: _Optional[float] = ..., max_text_tokens: _Optional[int] = ..., pid: _Optional[int] = ...) -> None: ...
