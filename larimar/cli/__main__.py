"""``python -m larimar.cli`` is `larimar`."""

from larimar.cli import main

main()
