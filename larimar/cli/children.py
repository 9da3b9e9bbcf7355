"""Commands that hand over to another program of the checkout, and the demo."""

from __future__ import annotations

import os
import sys

import typer

from larimar.cli.processes import checkout_environment, checkout_root

# All that follows the command's name is the other program's, its --help too.
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def register(app: typer.Typer) -> None:
    """Adds train, prepare, eval, bench and asyncapi."""
    add = app.command
    settings = {**PASS_ON, "allow_interspersed_args": False}
    add(context_settings=settings, epilog="Example: larimar train small --help")(train)
    add(
        context_settings=settings,
        epilog="Example: larimar prepare --corpus FOLDER --out FOLDER",
    )(prepare)
    add(
        name="eval",
        context_settings=settings,
        epilog="Example: larimar eval counterfact --data counterfact.json --limit 100",
    )(evaluate)
    add(context_settings=settings, epilog="Example: larimar bench --help")(bench)
    add(context_settings=settings, epilog="Example: larimar asyncapi docs/asyncapi.yaml")(asyncapi)


def register_demo(app: typer.Typer) -> None:
    """Adds the demo, whose options are read when it is wanted."""
    settings = {**PASS_ON, "help_option_names": []}
    app.command(context_settings=settings, epilog="Example: larimar demo")(demo)


def train(context: typer.Context) -> None:
    """Trains a model by a recipe. Needs a checkout; --json and all else go to the recipe."""
    become("training", context)


def prepare(context: typer.Context) -> None:
    """Makes a training corpus into token ids. Needs a checkout; --json and all else go to it."""
    become("training.prepare", context)


def evaluate(context: typer.Context) -> None:
    """Runs an evaluation of the paper. Needs a checkout; --json and all else go to it."""
    become("evaluation", context)


def bench(context: typer.Context) -> None:
    """Runs a benchmark. Needs a checkout; --json and all else go to it."""
    become("benchmarks", context)


def asyncapi(context: typer.Context) -> None:
    """Writes the AsyncAPI document of the events to a file. Needs a checkout; takes --json."""
    become("services.gateway.asyncapi", context)


def demo(context: typer.Context) -> None:
    """A guided tour on real input: write, ask, forget, replay."""
    from larimar.cli.demo import demo as tour

    app = typer.Typer(add_completion=False)
    app.command(name="demo", epilog="Example: larimar demo")(tour)
    command = typer.main.get_command(app)
    status = command.main(context.args, "larimar demo", standalone_mode=False)
    if isinstance(status, int) and status:
        raise typer.Exit(status)


def become(module: str, context: typer.Context) -> None:
    """Replaces this process, so that signals and exit status are the other program's own.

    It keeps the caller's working directory: relative paths mean what the caller meant.
    """
    environment = {**checkout_environment(checkout_root()), "PYTHONSAFEPATH": "1"}
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", module, *context.args], environment)
