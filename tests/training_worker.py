"""One worker of several: runs each case for three steps, saving and resuming after two."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from training.loop import Options
from training.recipes import find_recipe
from training.run import Sources, build_loop


def run(corpus: Path, out: Path, shard: bool) -> None:
    """The losses of out/recipe.json, in out/losses.json."""
    options = Options(out, torch.device("cpu"), "float32")

    def build():
        recipe = find_recipe(str(out / "given.json"))
        return build_loop(recipe, Sources(corpus), options, lambda line: None, shard=shard)

    loop = build()
    losses = [loop.train_step() for _ in range(2)]
    loop.save()
    loop = build()
    losses.append(loop.train_step())
    loop.save()
    if loop.workers.first:
        (out / "losses.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in sys.argv[2:]:
        run(Path(sys.argv[1]), Path(case), "shard" in case)
