"""Whether the decoder without a latent is the stock model, bit for bit, at equal shapes.

B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from larimar.decoder import Decoder

ROWS = 8
"""Prompts of one pass."""
LENGTHS = tuple(16 << bits for bits in range(8))
"""Tokens that prompts are padded to, on the left."""


@torch.inference_mode()
def largest_difference(decoder: Decoder, prompts: Sequence[str]) -> float:
    """max |ours - theirs| over the next-token logits (V) of every prompt; 0 for no prompts.

    Ours are those of `DecoderNetwork` without a latent, theirs those of the `transformers`
    model called by itself, on the same padded batch, in the same dtype, both without a cache.
    """
    groups: dict[int, list[list[int]]] = {}
    for prompt in prompts:
        ids = decoder.tokenize(prompt)
        length = next(size for size in LENGTHS if len(ids) <= size)
        groups.setdefault(length, []).append(ids)
    network, worst = decoder.network, 0.0
    for length, rows in groups.items():
        for low in range(0, len(rows), ROWS):
            batch = rows[low : low + ROWS]
            ids_BT = torch.tensor([[decoder.pad_id] * (length - len(ids)) + ids for ids in batch])
            real_BT = [[False] * (length - len(ids)) + [True] * len(ids) for ids in batch]
            mask_BT = torch.tensor(real_BT)
            ids_BT, mask_BT = ids_BT.to(decoder.device), mask_BT.to(decoder.device)
            ours_BV = network.logits(network.hidden(ids_BT, mask_BT)[:, -1:])[:, -1]
            theirs_BV = network.lm(
                input_ids=ids_BT,
                attention_mask=mask_BT.long(),
                position_ids=(mask_BT.long().cumsum(1) - 1).clamp(min=0),
                use_cache=False,
                logits_to_keep=1,
            ).logits[:, -1]
            worst = max(worst, float((ours_BV.float() - theirs_BV.float()).abs().max()))
    return worst
