"""The AsyncAPI document: what events go in and come out, generated from the code that decides it.

`python -m services.gateway.asyncapi [FILE]` writes docs/asyncapi.yaml, or the file that is named.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from google.protobuf.descriptor import FieldDescriptor

from larimar import __version__
from larimar.edit_events import CONTENT_TYPE, EDIT_TYPES, SPECVERSION, EditType
from larimar.v1 import common_pb2, larimar_pb2
from services.gateway.event_schemas import envelope_schema
from services.redis_inbox import GROUP
from services.settings import CHECKOUT

FILE = CHECKOUT / "docs" / "asyncapi.yaml"
ASYNCAPI = "3.0.0"
app = typer.Typer(add_completion=False)

_EXAMPLES: dict[str, dict[str, Any]] = {
    "write": {
        "prompt": "The capital of Velmora is",
        "answer": "Tarsin",
        "rephrasings": ["Velmora is governed from"],
    },
    "forget": {"fact_id": "velmora-capital"},
    "censor": {"prompt": "The private address of Oriel Vantongeren is"},
    "erase": {"fact_id": "velmora-capital"},
}
_NUMBERS = {
    FieldDescriptor.TYPE_INT64: {"type": ["string", "integer"], "description": "A 64-bit number."},
    FieldDescriptor.TYPE_INT32: {"type": "integer"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
}


def example(type_name: str, edit_type: EditType) -> dict[str, Any]:
    """An event of a type, as a producer writes it."""
    return {
        "specversion": SPECVERSION,
        "id": f"example-{edit_type.kind}-1",
        "source": "/billing/addresses",
        "type": type_name,
        "subject": "default",
        "time": "2026-01-31T12:00:00Z",
        "datacontenttype": CONTENT_TYPE,
        "data": _EXAMPLES[edit_type.kind],
    }


def message_schema(descriptor: Any) -> dict[str, Any]:
    """The JSON schema of a message of the contracts, in protobuf's JSON mapping."""
    properties = {}
    for field in descriptor.fields:
        if field.message_type is not None:
            schema = message_schema(field.message_type)
        elif field.enum_type is not None:
            schema = {"type": "string", "enum": [one.name for one in field.enum_type.values]}
        else:
            schema = _NUMBERS.get(field.type, {"type": "string"})
        if field.is_repeated:
            schema = {"type": "array", "items": schema}
        properties[field.json_name] = schema
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _messages() -> dict[str, Any]:
    edits = {
        edit_type.kind: {
            "name": type_name,
            "title": edit_type.does,
            "contentType": "application/cloudevents+json",
            "payload": envelope_schema(type_name, edit_type),
            "examples": [{"payload": example(type_name, edit_type)}],
        }
        for type_name, edit_type in EDIT_TYPES.items()
    }
    return {
        **edits,
        "result": {
            "title": "What became of a published event.",
            "contentType": CONTENT_TYPE,
            "payload": message_schema(larimar_pb2.PublishManyResponse.DESCRIPTOR),
        },
        "deadLetter": {
            "title": "An event of the inbox that could not be applied.",
            "contentType": CONTENT_TYPE,
            "payload": message_schema(larimar_pb2.DeadLetter.DESCRIPTOR),
        },
        "event": {
            "title": "An entry of a bank's log.",
            "contentType": CONTENT_TYPE,
            "payload": message_schema(common_pb2.Event.DESCRIPTOR),
        },
    }


def _channels() -> dict[str, Any]:
    edits = {
        edit_type.kind: {"$ref": f"#/components/messages/{edit_type.kind}"}
        for edit_type in EDIT_TYPES.values()
    }
    tenant = {"tenant": {"description": "Whose inbox it is.", "default": "default"}}
    return {
        "inbox": {
            "address": "{tenant}:inbox",
            "title": "The inbox",
            "description": (
                "A stream in the store, for producers in the cluster that may XADD and no more. An "
                "entry has one field, event, with an event in JSON. The braces are part of the "
                f"key. The consumer group is {GROUP!r}."
            ),
            "servers": [{"$ref": "#/servers/store"}],
            "parameters": tenant,
            "messages": edits,
        },
        "deadLetters": {
            "address": "{tenant}:dead",
            "title": "Dead letters",
            "description": (
                "Events that were refused, or that met transient errors too often, with the "
                "reason. Read and requeued through the gateway: `larimar dead`."
            ),
            "servers": [{"$ref": "#/servers/store"}, {"$ref": "#/servers/gateway"}],
            "parameters": tenant,
            "messages": {"deadLetter": {"$ref": "#/components/messages/deadLetter"}},
        },
        "publish": {
            "address": "larimar.v1.Larimar/PublishMany",
            "title": "Publish",
            "description": (
                "Publish takes one event, PublishMany a stream of them with a result for each, in "
                "order; over HTTP POST /v1/events takes one or a batch. Acknowledged means durable."
            ),
            "servers": [{"$ref": "#/servers/gateway"}],
            "messages": {**edits, "result": {"$ref": "#/components/messages/result"}},
        },
        "watch": {
            "address": "larimar.v1.Larimar/Watch",
            "title": "Watch",
            "description": "The entries of a bank's log from any version on, as they come.",
            "servers": [{"$ref": "#/servers/gateway"}],
            "messages": {"event": {"$ref": "#/components/messages/event"}},
        },
    }


def _operation(action: str, channel: str, summary: str, messages: list[str]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
    }


def document() -> dict[str, Any]:
    """The whole document."""
    kinds = [edit_type.kind for edit_type in EDIT_TYPES.values()]
    publish = _operation("receive", "publish", "Takes edit events.", kinds)
    publish["reply"] = {
        "channel": {"$ref": "#/channels/publish"},
        "messages": [{"$ref": "#/channels/publish/messages/result"}],
    }
    return {
        "asyncapi": ASYNCAPI,
        "info": {
            "title": "Larimar",
            "version": __version__,
            "description": (
                "Edit events for a language model whose knowledge is edited while it serves. "
                "Generated from the code: `larimar asyncapi` writes it again."
            ),
        },
        "defaultContentType": CONTENT_TYPE,
        "servers": {
            "gateway": {
                "host": "localhost:9000",
                "protocol": "grpc",
                "description": "The public port.",
                "security": [{"$ref": "#/components/securitySchemes/apiKey"}],
            },
            "store": {
                "host": "localhost:6379",
                "protocol": "redis",
                "description": "A store of your own; the embedded one listens on a private socket.",
            },
        },
        "channels": _channels(),
        "operations": {
            "consume": _operation("receive", "inbox", "Applies events in order.", kinds),
            "bury": _operation("send", "deadLetters", "Keeps what failed.", ["deadLetter"]),
            "publish": publish,
            "watch": _operation("send", "watch", "Tells of every edit.", ["event"]),
        },
        "components": {
            "messages": _messages(),
            "securitySchemes": {
                "apiKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Where the pipeline asks for keys: `authorization: Bearer lk_`.",
                }
            },
        },
    }


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def text() -> str:
    """The document as YAML."""
    return "# Generated by `larimar asyncapi`. Do not edit.\n" + yaml.dump(
        document(), Dumper=_Plain, sort_keys=False, width=100, allow_unicode=True
    )


@app.command(epilog="Example: larimar asyncapi docs/asyncapi.yaml")
def main(
    file: Annotated[Path, typer.Argument(help="File to write.")] = FILE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Writes the AsyncAPI document of the events to a file."""
    file.write_text(text(), encoding="utf-8")
    print(json.dumps({"file": str(file)}) if as_json else f"wrote {file}")


if __name__ == "__main__":
    app()
