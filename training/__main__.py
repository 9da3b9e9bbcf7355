"""`python -m training RECIPE --corpus FOLDER --out FOLDER`: one command per recipe."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import torch

from training.loop import Trainer, load_data
from training.recipes import RECIPES
from training.warm import warm_tokenizer


def main() -> int:
    """Runs a recipe, from the start or from where it stopped."""
    parser = argparse.ArgumentParser(prog="larimar train", description=__doc__)
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument(
        "--corpus", type=Path, required=True, help="folder of train_*.txt.xz, val.txt"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--steps", type=int, help="optimizer steps, when not the recipe's")
    parser.add_argument("--sentences", type=int, help="sentences to read, when not the recipe's")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--save-every", type=int, default=500)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = RECIPES[arguments.recipe]()
    overrides = {
        name: getattr(arguments, name)
        for name in ("steps", "sentences", "seed")
        if getattr(arguments, name) is not None
    }
    recipe = dataclasses.replace(recipe, **overrides)

    def say(line: str) -> None:
        print(line, flush=True)

    try:
        data, validation = load_data(
            arguments.corpus, warm_tokenizer(recipe.warm_start), recipe.sentences, say
        )
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    trainer = Trainer(recipe, data, validation, arguments.out, arguments.device, say)
    if trainer.resume():
        say(f"resumed at step {trainer.step}")
    trainer.run(arguments.log_every, arguments.save_every)
    return 0


if __name__ == "__main__":
    sys.exit(main())
