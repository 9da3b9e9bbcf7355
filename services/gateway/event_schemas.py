"""JSON schemas of edit events, made of the table that the parser reads."""

from __future__ import annotations

from typing import Any

from larimar.edit_events import (
    ATTRIBUTES,
    CONTENT_TYPE,
    FIELDS,
    MAX_ATTRIBUTE_BYTES,
    MAX_EVENT_BYTES,
    SPECVERSION,
    EditType,
)
from services.limits import BANK_NAME, MAX_ID_BYTES, MAX_REPHRASINGS, MAX_TEXT_BYTES

VISIBLE = r"[^\s\x00-\x1f\x7f-\x9f]"
"""What a text holds somewhere, as a regular expression."""
ID = r"^[^\x00-\x1f\x7f]*$"
"""What an id is."""

_BASE64 = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_JSON_TYPE = r"^(application|text)/(json|[A-Za-z0-9_.!#$&^-]+\+json)(;.*)?$"
_EXTENSIONS = {
    "propertyNames": {"pattern": "^([a-z0-9]+|data_base64)$"},
    "additionalProperties": {"type": ["string", "boolean", "integer", "null"]},
}
"""Of an envelope: what else it may hold, and how that is named."""
_NO_BLANKS = r"^[^\s\x00-\x1f\x7f]+$"
_ATTRIBUTE_NOTES = {
    "id": "The idempotency key: the same id again is the same event.",
    "source": "Who made the event, a URI reference.",
    "specversion": "Of CloudEvents.",
    "type": "What the event does.",
    "subject": 'The bank; without it, "default".',
    "time": "When it was made, RFC 3339.",
    "datacontenttype": "JSON.",
}


def data_schema(edit_type: EditType) -> dict[str, Any]:
    """The JSON schema of the data of a type of event."""
    names = (*edit_type.required, *edit_type.optional)
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(edit_type.required),
        "properties": {name: _field_schema(name) for name in names},
    }


def _field_schema(name: str) -> dict[str, Any]:
    kind, note = FIELDS[name]
    limit = MAX_ID_BYTES if name.endswith("_id") else MAX_TEXT_BYTES
    pattern = ID if name.endswith("_id") else VISIBLE
    text = {"type": "string", "minLength": 1, "maxLength": limit, "pattern": pattern}
    if kind is str:
        return {"description": f"{note} At most {limit} bytes.", **text}
    return {
        "description": f"{note} At most {limit} bytes each.",
        "type": "array",
        "maxItems": MAX_REPHRASINGS,
        "items": text,
    }


def envelope_schema(type_name: str, edit_type: EditType) -> dict[str, Any]:
    """The JSON schema of a whole event of a type."""
    attributes: dict[str, Any] = {
        name: {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_ATTRIBUTE_BYTES,
            "description": _ATTRIBUTE_NOTES[name],
        }
        for name in ATTRIBUTES
    }
    attributes["id"] |= {"maxLength": MAX_ID_BYTES, "pattern": ID}
    attributes["source"]["pattern"] = _NO_BLANKS
    attributes["subject"]["pattern"] = f"^{BANK_NAME}$"
    attributes["specversion"]["const"] = SPECVERSION
    attributes["type"]["const"] = type_name
    attributes["time"]["format"] = "date-time"
    attributes["datacontenttype"] |= {"default": CONTENT_TYPE, "pattern": _JSON_TYPE}
    return {
        "type": "object",
        "description": f"{edit_type.does} At most {MAX_EVENT_BYTES} bytes.",
        "required": ["specversion", "id", "source", "type"],
        "properties": {
            **attributes,
            "data": data_schema(edit_type),
            "data_base64": {"type": "string", "contentEncoding": "base64", "pattern": _BASE64},
        },
        **_EXTENSIONS,
        "oneOf": [{"required": ["data"]}, {"required": ["data_base64"]}],
    }
