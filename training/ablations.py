"""`python -m training.ablations`: the training choices side by side, at a size for one machine.

Each recipe is trained from one base model on the same text with the same seed, its rows a share of
the shipped recipe's, and edits CounterFact records at the end. What a run has done is kept: the
same command again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

from larimar.errors import InvalidArgument
from training.recipes import Episodic, find_recipe, to_json
from training.stopping import status_of

CHOICES = {
    "small": "the default",
    "small_generic": "generic text only: prompts unchanged",
    "small_varied": "numbers, dates, long answers and questions too",
    "small_shared_kv": "key = value in a slot",
    "small_embedding_add": "latent added to each token embedding",
    "small_one_slot": "one slot a layer, a latent of one part",
    "small_one_slot_add": "one slot a layer, and added to each token embedding",
    "small_frozen_encoder": "encoder as it starts",
    "small_frozen_decoder": "decoder as it starts",
}
"""Recipes, and how each differs."""
COLUMNS = {
    "held_read": "held-out nats, read",
    "held_plain": "held-out nats, no latent",
    "edit_S": "edit S",
    "edit_generated": "edit generated",
    "paraphrase_S": "paraphrase S",
    "paraphrase_generated": "paraphrase generated",
}
"""Last numbers of a run that are compared, and their headings."""


def reduced(name: str, share: float, steps: int) -> Episodic:
    """A recipe with a share of its rows and blocks a step, and so many steps.

    Raises:
        InvalidArgument: not a recipe of episodic training, or no whole episode is left.
    """
    recipe = find_recipe(name)
    if not isinstance(recipe, Episodic):
        raise InvalidArgument(f"{name} is not a recipe of episodic training")
    rows_read = int(share * recipe.rows_read) // recipe.episode * recipe.episode
    if not rows_read:
        raise InvalidArgument(f"--share {share} leaves no whole episode of {recipe.episode} rows")
    return dataclasses.replace(
        recipe,
        steps=steps,
        rows_read=rows_read,
        rows_direct=int(share * recipe.rows_direct),
        plain_blocks=int(share * recipe.plain_blocks),
        warmup_steps=min(recipe.warmup_steps, max(1, steps // 10)),
    )


def last_numbers(run: Path) -> dict[str, float]:
    """The last value of each compared number in a run's metrics.jsonl; those it has."""
    found: dict[str, float] = {}
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        numbers = json.loads(line)
        found |= {name: numbers[name] for name in COLUMNS if name in numbers}
    return found


def table(results: Iterable[tuple[str, dict[str, float]]]) -> str:
    """The results as a Markdown table, shares as percentages."""
    lines = [
        f"| recipe | differs by | {' | '.join(COLUMNS.values())} |",
        "|---" * (2 + len(COLUMNS)) + "|",
    ]
    for name, numbers in results:
        cells = [_cell(column, numbers.get(column)) for column in COLUMNS]
        lines.append(f"| `{name}` | {CHOICES.get(name, '')} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if column.startswith("held_") else f"{100 * value:.0f}"


def main() -> int:
    """Trains what is not trained yet and writes ablations.json and ablations.md."""
    parser = argparse.ArgumentParser(prog="python -m training.ablations", description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--start", type=Path, required=True, help="model folder of small_base")
    parser.add_argument("--prepared", type=Path, help="folder of `larimar prepare`")
    parser.add_argument("--eval-data", type=Path, required=True, help="CounterFact records")
    parser.add_argument("--eval-records", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--share", type=float, default=0.5, help="of each recipe's rows [0.5]")
    parser.add_argument("--recipes", default=",".join(CHOICES), help="some of them")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    return status_of(lambda: _compare(given))


def _compare(given: argparse.Namespace) -> None:
    results = [(name, _run(name, given)) for name in given.recipes.split(",")]
    document = {"steps": given.steps, "share": given.share, "rows": dict(results)}
    (given.out / "ablations.json").write_text(json.dumps(document, indent=1) + "\n")
    (given.out / "ablations.md").write_text(table(results))
    print(table(results), end="")


def _run(name: str, given: argparse.Namespace) -> dict[str, float]:
    """One recipe, trained to its end; its last numbers."""
    from training.__main__ import train

    run = given.out / name
    run.mkdir(parents=True, exist_ok=True)
    wanted = given.out / f"{name}.json"
    wanted.write_text(to_json(reduced(name, given.share, given.steps)))
    prepared = ["--prepared", str(given.prepared)] if given.prepared else []
    print(f"{name}: {CHOICES.get(name, '')}", flush=True)
    train(
        [
            str(wanted),
            *("--corpus", str(given.corpus), "--out", str(run), "--start", str(given.start)),
            *("--eval-data", str(given.eval_data), "--eval-records", str(given.eval_records)),
            *("--eval-every", str(given.steps), "--save-every", str(given.steps)),
            *("--threads", str(given.threads)),
            *prepared,
        ]
    )
    return last_numbers(run)


if __name__ == "__main__":
    sys.exit(main())
