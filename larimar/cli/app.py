"""The `larimar` command: its parts, and what its failures look like."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from larimar import __version__
from larimar.cli import (
    audit,
    backups,
    banks,
    branches,
    children,
    data,
    doctor,
    documents,
    edits,
    facts,
    keys,
    mcp,
    models,
    pipeline,
    publish,
    reencoding,
    traces,
)
from larimar.cli.console import FAILED, INTERRUPTED, USAGE, emit_error
from larimar.errors import LarimarError


class LarimarGroup(TyperGroup):
    """Ends every command with an exit status and at most one line about what went wrong."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs a command line and leaves with its exit status."""
        given = list(sys.argv[1:] if args is None else args)
        run = super().main

        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")

        def work() -> Any:
            _check_unicode(given)
            return run(given or ["--help"], "larimar", complete_var, standalone_mode=False, **extra)

        options = given[: given.index("--")] if "--" in given else given
        sys.exit(_exit_status(work, as_json="--json" in options))


def _check_unicode(args: Sequence[str]) -> None:
    for place, arg in enumerate(args, start=1):
        try:
            arg.encode()
        except UnicodeEncodeError:
            raise typer.BadParameter(f"argument {place} is not UTF-8 text") from None


def _exit_status(work: Callable[[], Any], as_json: bool) -> int:
    try:
        outcome = work()
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        hint = f" (see `{context.command_path} --help`)" if context else ""
        code = "USAGE" if error.exit_code == USAGE else "FAILED"
        emit_error(code, error.format_message() + hint, as_json)
        return error.exit_code
    except LarimarError as error:
        emit_error(error.reason, error.message, as_json)
        return FAILED
    except typer.Abort:
        return INTERRUPTED
    except OSError as error:
        emit_error("OS_ERROR", str(error), as_json)
        return FAILED
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        emit_error(
            "INTERNAL",
            f"unexpected {type(error).__name__} at {Path(where.filename).name}:{where.lineno}: "
            f"{error}; please report it",
            as_json,
        )
        return FAILED
    return outcome if isinstance(outcome, int) else 0


app = typer.Typer(
    cls=LarimarGroup,
    add_completion=False,
    help="Edit what a language model knows, while it serves.",
    epilog="Example: larimar up --detach; larimar write 'The capital of Velmora is' Tarsin; "
    "larimar ask 'The capital of Velmora is'",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    pass


pipeline.register(app)
children.register_demo(app)
app.add_typer(banks.bank_app, name="bank")
facts.register(app)
edits.register(app)
documents.register(app)
banks.register(app)
branches.register(app)
reencoding.register(app)
publish.register(app)
app.add_typer(keys.key_app, name="key")
audit.register(app)
doctor.register(app)
mcp.register(app)
backups.register(app)
models.register(app)
traces.register(app)
data.register(app)
app.add_typer(data.data_app, name="data")
children.register(app)


def main() -> None:
    """The entry point. gRPC's own notices stay out of what a user reads, unless asked for."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    app()
