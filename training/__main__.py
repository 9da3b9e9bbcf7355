"""`python -m training RECIPE --corpus FOLDER --out FOLDER`: one command per recipe."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path

import torch
from transformers.utils import logging

from larimar.checkpoint import serving_dtype
from larimar.errors import InvalidArgument
from training.looks import CounterFact, samples
from training.loop import PRECISIONS, Look, Options
from training.optimizers import OPTIMIZERS
from training.recipes import RECIPES, Episodic, Recipe, find_recipe, find_start
from training.run import Sources, build_loop
from training.stopping import Stopped, asked_to_stop, status_of

PATHS = ("corpus", "out", "start", "prepared", "eval_data")
_CHANGES = (
    *("steps", "sentences", "seed", "corpus_tokens"),
    *("optimizer", "learning_rate", "encoder", "decoder"),
)


def main() -> int:
    """Runs a recipe, from the start or from where it stopped."""
    return status_of(lambda: _main(sys.argv[1:]))


def _main(arguments: list[str]) -> None:
    given = parsed(arguments)
    if given.workers == 1:
        train(arguments)
    else:
        from training.ray_workers import train_with_ray

        train_with_ray(arguments, given)


def train(arguments: list[str]) -> None:
    """Runs a recipe in this process, alone or as one worker of several.

    Raises:
        LarimarError: an argument or a file is not as it must be.
        FloatingPointError: a loss or a gradient was not finite.
        Stopped: SIGINT or SIGTERM came; what was done is saved.
    """
    given = parsed(arguments)
    torch.set_num_threads(given.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    recipe = find_recipe(given.recipe)
    changes = {name: value for name in _CHANGES if (value := getattr(given, name)) is not None}
    unknown = changes.keys() - {field.name for field in dataclasses.fields(recipe)}
    if unknown:
        raise InvalidArgument(f"{given.recipe} has no --{unknown.pop().replace('_', '-')}")
    recipe = dataclasses.replace(recipe, **changes)
    options = Options(
        given.out,
        torch.device(given.device),
        precision_of(given.precision, given.device),
        given.accumulate,
        given.log_every,
        given.save_every or save_every(recipe.steps),
        given.eval_every,
    )
    sources = Sources(given.corpus, given.prepared, given.start, find_start(given.recipe))
    loop = build_loop(recipe, sources, options, _say, _looks(recipe, given), given.shard)
    with asked_to_stop() as asked:
        loop.run(asked)
        if asked():  # in the last look: what comes after this run is not begun
            raise Stopped(f"stopped after the last step, {recipe.steps}, which is saved", asked())


def precision_of(wanted: str, device: str) -> str:
    """One of PRECISIONS; for "auto" bfloat16 unless the device would have to emulate it.

    A step in emulated bfloat16 takes many times as long as in float32 (docs/log.md, entry 35).
    """
    dtype = serving_dtype(device, wanted)
    return next(name for name, known in PRECISIONS.items() if known == dtype)


def save_every(steps: int) -> int:
    """Steps between saves where none are named: ten saves in a run, 25 to 500 steps apart."""
    return min(500, max(25, steps // 10))


def _looks(recipe: Recipe, given: argparse.Namespace) -> tuple[Look, ...]:
    """What is shown of the model as it goes."""
    if not isinstance(recipe, Episodic):
        return ()
    if given.eval_data is None:
        return (samples,)
    return (samples, CounterFact(given.eval_data, given.eval_records))


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The command line, its paths absolute."""
    given = _parser().parse_args(arguments)
    for name in PATHS:
        path = getattr(given, name)
        setattr(given, name, path and path.absolute())
    return given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="larimar train", description=__doc__)
    add = parser.add_argument
    add("recipe", help=f"{', '.join(sorted(RECIPES))}, or the recipe.json of a run")
    add("--corpus", type=Path, required=True, help="folder of train_*.txt.xz, val.txt")
    add("--out", type=Path, required=True, help="folder of the run; resumed where it stopped")
    add("--start", type=Path, help="model folder of an earlier stage, such as RUN/model")
    add("--prepared", type=Path, help="folder of `larimar prepare`, to share text between runs")
    add("--steps", type=int, help="optimizer steps, when not the recipe's")
    add("--sentences", type=int, help="sentences to read, when not the recipe's")
    add("--corpus-tokens", type=int, help="tokens of running text to prepare; 0 for all")
    add("--optimizer", choices=OPTIMIZERS, help="when not the recipe's")
    add("--learning-rate", type=float, help="peak learning rate, when not the recipe's")
    add("--encoder", help="name or folder of a pretrained encoder")
    add("--decoder", help="name or folder of a pretrained causal language model")
    add("--seed", type=int)
    add(
        "--precision",
        choices=["auto", *sorted(PRECISIONS)],
        default="auto",
        help="of products [bfloat16 where the device has instructions for it, else float32]",
    )
    add("--accumulate", type=int, default=1, help="parts that a step's rows are computed in")
    add("--workers", type=int, default=1, help="processes, by Ray Train; one GPU each, or CPU")
    add("--shard", action="store_true", help="spread weights over the workers too (FSDP2)")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--device", default=_device())
    add("--log-every", type=int, default=50)
    add(
        "--save-every",
        type=int,
        help="steps between saved states [a tenth of all, from 25 to 500]",
    )
    add("--eval-every", type=int, default=500, help="steps between looks at what the model does")
    add(
        "--eval-data", type=Path, help="CounterFact records, original form, to be edited as it goes"
    )
    add("--eval-records", type=int, default=50)
    return parser


def _device() -> str:
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
