"""Messages of the contract as JSON, and the models that describe that JSON in OpenAPI.

Names are the contract's. Every field is there: what is not set has its default, a message that
is not set is null. Numbers are numbers, those of 64 bits too.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from pydantic import BaseModel, create_model

LOWER = frozenset({"Addressing", "MergePolicy"})
"""Enums whose names users type, in lower case; all others read as the log's: WRITE, DONE."""

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
}
_FLOAT_DIGITS = 7
"""Decimal places of a 32-bit number, past which it says nothing."""


def plain(message: Message) -> dict[str, Any]:
    """A message as what JSON holds; bytes must be text in UTF-8, and are cut where they are not."""
    return {field.name: _value(message, field) for field in message.DESCRIPTOR.fields}


def _value(message: Message, field: Any) -> Any:
    if field.is_repeated:
        return [_single(one, field) for one in getattr(message, field.name)]
    if field.message_type is not None and not message.HasField(field.name):
        return None
    return _single(getattr(message, field.name), field)


def _single(value: Any, field: FieldDescriptor) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        return _enum_names(field.enum_type).get(value, str(value))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return value.decode("utf-8", "replace")
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return round(value, _FLOAT_DIGITS)
    return value


@functools.cache
def _enum_names(enum: EnumDescriptor) -> dict[int, str]:
    """Names of an enum's values without what all of them begin with."""
    first = min(enum.values, key=lambda value: value.number).name
    prefix = first.removesuffix("UNSPECIFIED")
    shown = {value.number: value.name.removeprefix(prefix) for value in enum.values}
    if enum.name in LOWER:
        return {number: name.lower() for number, name in shown.items()}
    return shown


@functools.cache
def model_of(descriptor: Descriptor) -> type[BaseModel]:
    """The model of what `plain` makes of a message."""
    fields: dict[str, Any] = {field.name: (_type(field), ...) for field in descriptor.fields}
    name = descriptor.full_name.removeprefix("larimar.v1.").replace(".", "")
    return create_model(name, **fields)


def _type(field: FieldDescriptor) -> Any:
    single: Any
    if field.message_type is not None:
        single = model_of(field.message_type)
    elif field.enum_type is not None:
        single = Literal[tuple(_enum_names(field.enum_type).values())]
    elif field.cpp_type in _INTEGERS:
        single = int
    elif field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        single = bool
    elif field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        single = float
    else:
        single = str
    if field.is_repeated:
        return list[single]
    return single | None if field.message_type is not None else single
