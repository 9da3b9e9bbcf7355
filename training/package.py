"""From a run to a model folder: `python -m training.package RUN OUT --corpus FOLDER`.

Measures the range of the latents on held-out text, chooses the fixed-point scales that
leave 16x headroom over it, and writes the folder with its digests.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from larimar.checkpoint import ModelFolder, save
from larimar.config import FixedPoint
from larimar.encoder import Encoder, Text
from larimar.errors import LarimarError
from larimar.memory import FIXED_LIMIT
from training.data import Sentences, validation_file

HEADROOM = 16
"""How far a latent may leave the measured range before a write is refused."""
MAX_BITS = 18
STORAGE = {"bfloat16": torch.bfloat16, "int8": torch.int8, "float32": torch.float32}
"""What weights may be stored in; int8 has a scale for each row of a matrix."""
MEASURED_SENTENCES = 2000


def bits_for(largest: float) -> int:
    """Bits of the finest scale at which `largest` times HEADROOM is still in range."""
    return min(MAX_BITS, math.floor(math.log2(FIXED_LIMIT / (HEADROOM * largest))))


def measured_range(encoder: Encoder, texts: list[str]) -> tuple[float, float]:
    """Largest magnitudes of prompt latents and of values over texts cut into prompt and answer."""
    facts = []
    for text in texts:
        words = text.split()
        cut = max(1, len(words) - 1 - len(facts) % 3)
        facts.append(Text(" ".join(words[:cut]), " ".join(words[cut:])))
    prompts_ND = encoder.prompt_latents([fact.prompt for fact in facts])
    values_NC = encoder.values(facts)
    return float(np.abs(prompts_ND).max()), float(np.abs(values_NC).max())


def main() -> int:
    """Packages one run."""
    parser = argparse.ArgumentParser(prog="python -m training.package", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the run, with its model folder in it")
    parser.add_argument("out", type=Path, help="model folder to write")
    parser.add_argument("--corpus", type=Path, required=True, help="folder with val.txt")
    parser.add_argument("--threshold", type=float, help="scope threshold, when not the run's")
    parser.add_argument("--storage", choices=sorted(STORAGE), default="bfloat16")
    arguments = parser.parse_args()
    try:
        found = packaged(
            arguments.run / "model",
            arguments.out,
            validation_file(arguments.corpus),
            STORAGE[arguments.storage],
            arguments.threshold,
        )
    except LarimarError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps({**found, "storage": arguments.storage}, indent=1))
    return 0


def packaged(
    model: Path, out: Path, held_out: Path, storage: torch.dtype, threshold: float | None
) -> dict[str, Any]:
    """Writes the folder that is shipped; what it was measured and made of.

    Raises:
        LarimarError: the model, or sentences of the held-out text, are not there.
    """
    folder = ModelFolder.open(model)
    texts = Sentences.read([held_out], MEASURED_SENTENCES).texts
    largest_prompt, largest_value = measured_range(folder.encoder(), texts)
    config = folder.config
    fixed = dataclasses.replace(
        FixedPoint(), prompt_bits=bits_for(largest_prompt), value_bits=bits_for(largest_value)
    )
    scope = config.scope
    if threshold is not None:
        scope = dataclasses.replace(scope, threshold=threshold)
    networks = folder.networks()
    networks.config = dataclasses.replace(config, fixed_point=fixed, scope=scope)
    save(
        networks,
        folder.encoder_tokenizer(),
        out,
        storage,
        decoder_tokenizer=folder.decoder_tokenizer(),
    )
    written = ModelFolder.open(out)
    return {
        "largest_prompt_latent": largest_prompt,
        "largest_value": largest_value,
        "fixed_point": dataclasses.asdict(fixed),
        "threshold": scope.threshold,
        "bytes": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
        "model_digest": written.model_digest,
        "encoder_digest": written.encoder_digest,
    }


if __name__ == "__main__":
    sys.exit(main())
