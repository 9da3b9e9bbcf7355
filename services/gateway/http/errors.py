"""Errors over HTTP: one shape, one table of statuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from larimar.errors import InvalidArgument, LarimarError, NotFound
from services.rpc import domain_error

RETRY_AFTER_S = 1
"""What a client that is sent away is asked to wait: queues empty within it."""

_TYPES = {code.value[0]: code.name.lower() for code in grpc.StatusCode}
_STATUSES = {
    "cancelled": 499,
    "invalid_argument": 400,
    "deadline_exceeded": 504,
    "not_found": 404,
    "already_exists": 409,
    "permission_denied": 403,
    "resource_exhausted": 429,
    "failed_precondition": 409,
    "unavailable": 503,
    "unauthenticated": 401,
}
_STATUSES_BY_REASON = {
    "METHOD_NOT_ALLOWED": 405,
    "MESSAGE_TOO_LARGE": 413,
    "BAD_CONTENT_TYPE": 415,
    "HEADERS_TOO_LARGE": 431,
}
_SAID_BY_US = "Value error, "
"""What the framework puts before a message of a validator."""
_TAGS = frozenset({"str", "constrained-str", "SlotsBank", "FixedBank"})
"""What it puts into a field's place where the field may be of several types."""


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str = Field(description="What went wrong and what to do about it.")
    type: str = Field(description="Name of the gRPC status code, in lower case.")
    param: str | None = Field(description="The field of the request that is wrong, if it is one.")
    code: str = Field(description="The reason, a word for programs: UNKNOWN_BANK, CONFLICT ...")


class ErrorBody(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorDetail


class BadRequest(InvalidArgument):
    """A request that is not as the OpenAPI document says.

    Attributes:
        param: the field that is wrong, if it is one.
    """

    default_reason = "BAD_REQUEST"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def error_type(error: LarimarError) -> str:
    """Name of an error's gRPC status code, in lower case."""
    return _TYPES.get(error.code, "unknown")


def status_of(error: LarimarError) -> int:
    """The HTTP status of an error."""
    return _STATUSES_BY_REASON.get(error.reason) or _STATUSES.get(error_type(error), 500)


def error_body(error: LarimarError) -> dict[str, Any]:
    """An error in the shape of `ErrorBody`."""
    return {
        "error": {
            "message": error.message,
            "type": error_type(error),
            "param": getattr(error, "param", None),
            "code": error.reason,
        }
    }


def error_response(error: LarimarError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer that an error becomes."""
    status = status_of(error)
    more = dict(headers or {})
    if status in (429, 503):
        more["Retry-After"] = str(RETRY_AFTER_S)
    if status == 401:
        more["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error), status, more)


def http_error(error: BaseException) -> LarimarError:
    """What a caller may see of an exception, those of the framework among them."""
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        return _refused(error)
    return domain_error(error)


def _invalid(error: RequestValidationError) -> BadRequest:
    """The first thing that is wrong with a request; what was sent is not repeated."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    if first["type"] == "json_invalid":
        return BadRequest(f"the body is not JSON: {first['ctx']['error']}")
    param = ".".join(part for part in place[1:] if part not in _TAGS and "[" not in part)
    if place[0] == "body" and not param:
        return BadRequest(f"the body must be a JSON object, as application/json: {first['msg']}")
    message = first["msg"].removeprefix(_SAID_BY_US)
    return BadRequest(f"{place[0]} {param}: {message}", param)


def _refused(error: HTTPException) -> LarimarError:
    if error.status_code == 404:
        return NotFound("nothing is here: see /openapi.json for what there is", "UNKNOWN_PATH")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "other methods")
        return InvalidArgument(f"this path takes {allowed}", "METHOD_NOT_ALLOWED")
    return BadRequest(str(error.detail))
