from larimar.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EncodeItem(_message.Message):
    __slots__ = ("prompt", "answer", "with_value")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    WITH_VALUE_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    answer: str
    with_value: bool
    def __init__(self, prompt: _Optional[str] = ..., answer: _Optional[str] = ..., with_value: _Optional[bool] = ...) -> None: ...

class EncodeRequest(_message.Message):
    __slots__ = ("items", "context")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[EncodeItem]
    context: _common_pb2.CallContext
    def __init__(self, items: _Optional[_Iterable[_Union[EncodeItem, _Mapping]]] = ..., context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class Latents(_message.Message):
    __slots__ = ("prompt_latent", "value")
    PROMPT_LATENT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    prompt_latent: bytes
    value: bytes
    def __init__(self, prompt_latent: _Optional[bytes] = ..., value: _Optional[bytes] = ...) -> None: ...

class EncodeResponse(_message.Message):
    __slots__ = ("latents", "encoder_digest")
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    ENCODER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    latents: _containers.RepeatedCompositeFieldContainer[Latents]
    encoder_digest: str
    def __init__(self, latents: _Optional[_Iterable[_Union[Latents, _Mapping]]] = ..., encoder_digest: _Optional[str] = ...) -> None: ...

class DescribeEncoderRequest(_message.Message):
    __slots__ = ("context",)
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    context: _common_pb2.CallContext
    def __init__(self, context: _Optional[_Union[_common_pb2.CallContext, _Mapping]] = ...) -> None: ...

class DescribeEncoderResponse(_message.Message):
    __slots__ = ("encoder_digest", "prompt_size", "value_size", "prompt_bits", "value_bits", "max_text_tokens", "pid")
    ENCODER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PROMPT_SIZE_FIELD_NUMBER: _ClassVar[int]
    VALUE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_BITS_FIELD_NUMBER: _ClassVar[int]
    VALUE_BITS_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    encoder_digest: str
    prompt_size: int
    value_size: int
    prompt_bits: int
    value_bits: int
    max_text_tokens: int
    pid: int
    def __init__(self, encoder_digest: _Optional[str] = ..., prompt_size: _Optional[int] = ..., value_size: _Optional[int] = ..., prompt_bits: _Optional[int] = ..., value_bits: _Optional[int] = ..., max_text_tokens: _Optional[int] = ..., pid: _Optional[int] = ...) -> None: ...
