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
from larimar.errors import InvalidArgument, LarimarError

ADDED = "decoder.connector.to_embedding.weight"
"""The map that one of two models may have and the other not."""


def mix_decoders(before: Networks, after: Networks, share: float) -> None:
    """Moves the decoder of `after`, in place, to `share` of its way from `before`.

    Token embeddings move too, those that an encoder shares with them as well; the connector
    and the encoder's layers stay those of `after`.

    Args:
        share: from 0, the decoder of `before`, to 1.

    Raises:
        InvalidArgument: the share is not from 0 to 1, or the decoders are not of one shape.
    """
    _check_share(share)
    old, new = before.decoder.lm.state_dict(), after.decoder.lm.state_dict()
    if {k: v.shape for k, v in old.items()} != {k: v.shape for k, v in new.items()}:
        raise InvalidArgument("the two decoders are not of one shape: mix a model with its own run")
    mixed = {name: torch.lerp(old[name], weight, share) for name, weight in new.items()}
    after.decoder.lm.load_state_dict(mixed)


def mix_all(before: Networks, after: Networks, share: float) -> None:
    """Moves all weights of `after`, in place, to `share` of their way from `before`.

    A map that `before` has not, as the one that adds the latent to token embeddings, counts as
    zeros there, which is what its absence does.

    Args:
        share: from 0, the weights of `before`, to 1.

    Raises:
        InvalidArgument: the share is not from 0 to 1, or what both have is not of one shape.
    """
    _check_share(share)
    old, new = before.modules().state_dict(), after.modules().state_dict()
    extra = new.keys() - old.keys()
    if old.keys() - new.keys() or extra - {ADDED} or any(old[k].shape != new[k].shape for k in old):
        raise InvalidArgument("the two models are not of one shape: mix a model with its own run")
    old |= {name: torch.zeros_like(new[name]) for name in extra}
    mixed = {name: torch.lerp(old[name], weight, share) for name, weight in new.items()}
    after.modules().load_state_dict(mixed)


def _check_share(share: float) -> None:
    if not 0.0 <= share <= 1.0:
        raise InvalidArgument(f"share is {share}, it must be from 0 to 1")


def main() -> int:
    """Mixes two model folders into a third."""
    parser = argparse.ArgumentParser(prog="python -m training.mix", description=__doc__)
    parser.add_argument("before", type=Path, help="model folder that the run started from")
    parser.add_argument("after", type=Path, help="model folder of the run")
    parser.add_argument("out", type=Path, help="model folder to write, in float32")
    parser.add_argument("--share", type=float, default=0.5, help="how far on the way [0.5]")
    parser.add_argument("--whole", action="store_true", help="encoder and connector move too")
    arguments = parser.parse_args()
    try:
        before, after = ModelFolder.open(arguments.before), ModelFolder.open(arguments.after)
        networks = after.networks()
        mixing = mix_all if arguments.whole else mix_decoders
        mixing(before.networks(), networks, arguments.share)
    except LarimarError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
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
