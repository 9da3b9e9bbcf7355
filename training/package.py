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

import numpy as np
import torch

from larimar.checkpoint import ModelFolder, save
from larimar.config import FixedPoint
from larimar.encoder import Encoder, Text
from larimar.memory import FIXED_LIMIT
from training.data import read_lines, sentences

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
    folder = ModelFolder.open(arguments.run / "model")
    texts = []
    for sentence in sentences(read_lines([arguments.corpus / "val.txt"])):
        texts.append(sentence)
        if len(texts) == MEASURED_SENTENCES:
            break
    largest_prompt, largest_value = measured_range(folder.encoder(), texts)
    config = folder.config
    fixed = dataclasses.replace(
        FixedPoint(), prompt_bits=bits_for(largest_prompt), value_bits=bits_for(largest_value)
    )
    scope = config.scope
    if arguments.threshold is not None:
        scope = dataclasses.replace(scope, threshold=arguments.threshold)
    networks = folder.networks()
    networks.config = dataclasses.replace(config, fixed_point=fixed, scope=scope)
    save(
        networks,
        folder.encoder_tokenizer(),
        arguments.out,
        STORAGE[arguments.storage],
        decoder_tokenizer=folder.decoder_tokenizer(),
    )
    packaged = ModelFolder.open(arguments.out)
    found = {
        "largest_prompt_latent": largest_prompt,
        "largest_value": largest_value,
        "fixed_point": dataclasses.asdict(fixed),
        "threshold": scope.threshold,
        "storage": arguments.storage,
        "bytes": sum(path.stat().st_size for path in arguments.out.rglob("*") if path.is_file()),
        "model_digest": packaged.model_digest,
        "encoder_digest": packaged.encoder_digest,
    }
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
