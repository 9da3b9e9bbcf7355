"""The command line: `larimar up`, `larimar write`, `larimar ask` and the rest."""

from larimar.cli.app import app, main

__all__ = ["app", "main"]
