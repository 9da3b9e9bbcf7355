"""Between two models: `python -m training.mix BEFORE AFTER OUT --share 0.5`.

Episodic training makes the decoder read latents and costs it some of its English. Weights
between those before and those after keep most of both; a few more steps at a low rate from
there bring the rest back (docs/decisions/0027). The idea is that of averaging a model with
its fine-tuned copy (arXiv 2109.01903).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from larimar.checkpoint import ModelFolder, Networks, save
from larimar.errors import InvalidArgument


def mix_decoders(before: Networks, after: Networks, share: float) -> None:
    """Moves the decoder of `after`, in place, to `share` of its way from `before`.

    Token embeddings move too, those that an encoder shares with them as well; the connector
    and the encoder's layers stay those of `after`.

    Args:
        share: from 0, the decoder of `before`, to 1.

    Raises:
        InvalidArgument: the share is not from 0 to 1, or the decoders are not of one shape.
    """
    if not 0.0 <= share <= 1.0:
        raise InvalidArgument(f"share is {share}, it must be from 0 to 1")
    old, new = before.decoder.lm.state_dict(), after.decoder.lm.state_dict()
    if {k: v.shape for k, v in old.items()} != {k: v.shape for k, v in new.items()}:
        raise InvalidArgument("the two decoders are not of one shape: mix a model with its own run")
    mixed = {name: torch.lerp(old[name], weight, share) for name, weight in new.items()}
    after.decoder.lm.load_state_dict(mixed)


def main() -> int:
    """Mixes two model folders into a third."""
    parser = argparse.ArgumentParser(prog="python -m training.mix", description=__doc__)
    parser.add_argument("before", type=Path, help="model folder that the run started from")
    parser.add_argument("after", type=Path, help="model folder of the run")
    parser.add_argument("out", type=Path, help="model folder to write, in float32")
    parser.add_argument("--share", type=float, default=0.5, help="how far on the way [0.5]")
    arguments = parser.parse_args()
    before, after = ModelFolder.open(arguments.before), ModelFolder.open(arguments.after)
    networks = after.networks()
    mix_decoders(before.networks(), networks, arguments.share)
    save(
        networks,
        after.encoder_tokenizer(),
        arguments.out,
        torch.float32,
        decoder_tokenizer=after.decoder_tokenizer(),
    )
    print(f"wrote {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
