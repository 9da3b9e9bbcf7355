"""Larimar: a language model whose knowledge is edited while it serves.

Two ways in: `connect` talks to a running pipeline over gRPC; `load` holds the
same model in this process. Everything is imported on first use, so that
``import larimar`` loads neither torch nor grpc.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from larimar.aio import AsyncClient, connect_async
    from larimar.client import Client, connect
    from larimar.errors import (
        Cancelled,
        Conflict,
        DataLoss,
        DeadlineExceeded,
        FailedPrecondition,
        InvalidArgument,
        LarimarError,
        NotFound,
        PermissionDenied,
        ResourceExhausted,
        Unauthenticated,
        Unavailable,
    )
    from larimar.model import load
    from larimar.results import (
        Answer,
        Edit,
        EraseReceipt,
        FailedEdit,
        FailedWrite,
        MergeResult,
        Score,
    )

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "AsyncClient",
    "Cancelled",
    "Client",
    "Conflict",
    "DataLoss",
    "DeadlineExceeded",
    "Edit",
    "EraseReceipt",
    "FailedEdit",
    "FailedPrecondition",
    "FailedWrite",
    "InvalidArgument",
    "LarimarError",
    "MergeResult",
    "NotFound",
    "PermissionDenied",
    "ResourceExhausted",
    "Score",
    "Unauthenticated",
    "Unavailable",
    "__version__",
    "connect",
    "connect_async",
    "load",
]

_HOMES = {
    "AsyncClient": "larimar.aio",
    "Client": "larimar.client",
    "connect": "larimar.client",
    "connect_async": "larimar.aio",
    "load": "larimar.model",
    "Answer": "larimar.results",
    "Edit": "larimar.results",
    "EraseReceipt": "larimar.results",
    "FailedEdit": "larimar.results",
    "FailedWrite": "larimar.results",
    "MergeResult": "larimar.results",
    "Score": "larimar.results",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'larimar' has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "larimar.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
