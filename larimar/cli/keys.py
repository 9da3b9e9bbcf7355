"""Commands about API keys, for the operator: they work on the store itself and need no key."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from larimar.cli.admin import perform
from larimar.cli.console import AsJson, emit, note, print_table, say

ADMIN_MODULE = "services.keys_admin"
SCOPES = "read,edit,admin"

key_app = typer.Typer(
    no_args_is_help=True,
    help="API keys: make, list and revoke them. For the operator of the machine.",
    epilog="Example: larimar key create --tenant acme --scopes read,edit --name billing",
)

DataDir = Annotated[Path, typer.Option("--data-dir", file_okay=False, help="Of the pipeline.")]
RedisUrl = Annotated[
    str | None, typer.Option("--redis-url", help="The pipeline's store, when not the embedded one.")
]


@key_app.command(epilog="Example: larimar key create --tenant acme --scopes read --name dashboard")
def create(
    tenant: Annotated[str, typer.Option("--tenant", help="Whose banks it opens.")] = "default",
    scopes: Annotated[
        str, typer.Option("--scopes", help=f"Some of {SCOPES}, with commas between.")
    ] = "read,edit",
    name: Annotated[str, typer.Option("--name", help="A name, for people.")] = "",
    data_dir: DataDir = Path(".larimar"),
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Makes a key and shows it, this once: only a digest of it is kept."""
    wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    made = _perform(data_dir, redis_url, action="create", tenant=tenant, scopes=wanted, name=name)
    if as_json:
        emit(made)
        return
    say(made["key"])
    note(
        f"key {made['id']} of tenant {made['tenant']}, scopes {', '.join(made['scopes'])}; it is "
        "not shown again"
    )


@key_app.command(name="list", epilog="Example: larimar key list --json")
def list_keys(
    data_dir: DataDir = Path(".larimar"), redis_url: RedisUrl = None, as_json: AsJson = False
) -> None:
    """Lists all keys, revoked ones too, without their secrets."""
    found = _perform(data_dir, redis_url, action="list")
    if as_json:
        emit(found)
        return
    print_table(
        ("id", "tenant", "scopes", "name", "made", "revoked"),
        [
            (
                key["id"],
                key["tenant"],
                ", ".join(key["scopes"]),
                key["name"],
                _time(key["created_ms"]),
                _time(key["revoked_ms"]),
            )
            for key in found["keys"]
        ],
    )


@key_app.command(epilog="Example: larimar key revoke 3f2a9c0d41b7e655")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, without its secret.")],
    data_dir: DataDir = Path(".larimar"),
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Ends a key; a gateway takes notice within 5 seconds."""
    ended = _perform(data_dir, redis_url, action="revoke", id=key_id)
    emit(ended) if as_json else say(f"key {ended['id']} is revoked")


def _time(time_ms: int) -> str:
    if not time_ms:
        return "-"
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _perform(data_dir: Path, redis_url: str | None, **job: Any) -> dict[str, Any]:
    """What the store's own program answers. Raises: LarimarError, as it said."""
    where = {"data_dir": str(data_dir.resolve()), "redis_url": redis_url or ""}
    return perform(ADMIN_MODULE, {**job, **where})
