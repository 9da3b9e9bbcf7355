"""The command that serves a pipeline's memory to an assistant, by the Model Context Protocol."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import typer

from larimar.calls import DEFAULT_TIMEOUT_S
from larimar.cli.console import (
    CONNECT_TIMEOUT_S,
    DEFAULT_TARGET,
    AsJson,
    Bank,
    Target,
    Timeout,
    misused,
    security,
)
from larimar.errors import FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from larimar.transport import AsyncConnection


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: larimar mcp --bank demo")(mcp)


def mcp(
    target: Target = DEFAULT_TARGET,
    bank: Bank = "default",
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Serves tools to write, ask, forget and list facts, on standard input and output.

    An assistant starts it; see docs/mcp.md. It speaks to a running pipeline.
    """
    try:
        from larimar import mcp_server  # noqa: F401
    except ModuleNotFoundError as error:
        raise FailedPrecondition(
            f"this command needs the package {error.name}: pip install '.[mcp]' in the checkout",
            "NO_MCP",
        ) from None
    from larimar.transport import AsyncConnection

    try:
        connection = AsyncConnection(target, timeout, min(CONNECT_TIMEOUT_S, timeout), security())
    except InvalidArgument as error:
        raise misused(error) from None
    asyncio.run(_serve(connection, bank))


async def _serve(connection: AsyncConnection, bank: str) -> None:
    from larimar.mcp_server import build_server

    try:
        await build_server(connection, bank).run_stdio_async()
    finally:
        await connection.close()
