"""e: text -> z. A bidirectional language model whose states are averaged in ordered parts.

Shapes: B rows, T tokens, D encoder width (the size of a prompt latent of parts), P parts,
p part size, C = P * p value size.
Source: Das et al., arXiv 2403.11901, section 3. There z is one pooled vector, which
`PooledEncoderNetwork` makes; here it is several ordered parts, with prompt and answer kept
apart (docs/decisions/0003).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from larimar.config import LatentLayout
from larimar.errors import InvalidArgument
from larimar.passages import stated

BUCKET_TOKENS = (16, 32, 64, 128, 256)
"""Lengths that texts are padded to: a text's shape, and so its bits, depend on the text alone."""
BUCKET_ROWS = 8
"""Most rows of a pass: 1.6x slower than 32 rows in bulk, 2x faster alone."""
FEWER_ROWS = (1, 2, 4)
"""Rows of smaller passes, taken where a row's bits are the same in them; else copies fill up."""
FEWER_ROWS_TOKENS = BUCKET_TOKENS[:2]
"""Lengths at which that is looked for, once a process; longer passes have BUCKET_ROWS rows."""


@dataclasses.dataclass(frozen=True)
class Text:
    """A prompt with its answer; the answer is empty for a query or a chunk."""

    prompt: str
    answer: str = ""


class TokenizedTexts:
    """Token ids of B texts with the place where each answer begins."""

    def __init__(self, rows: Sequence[tuple[list[int], int]], pad_id: int, length: int = 0) -> None:
        """Args: rows of (ids with special tokens, index of the first answer token or their end)."""
        length = length or max(len(ids) for ids, _ in rows)
        self.ids_BT = torch.full((len(rows), length), pad_id, dtype=torch.long)
        self.mask_BT = torch.zeros((len(rows), length), dtype=torch.bool)
        self.answer_BT = torch.zeros((len(rows), length), dtype=torch.bool)
        for row, (ids, start) in enumerate(rows):
            self.ids_BT[row, : len(ids)] = torch.tensor(ids)
            self.mask_BT[row, : len(ids)] = True
            self.answer_BT[row, start : len(ids) - 1] = True

    def to(self, device: torch.device | str) -> TokenizedTexts:
        """Moves the tensors; returns itself."""
        self.ids_BT = self.ids_BT.to(device)
        self.mask_BT = self.mask_BT.to(device)
        self.answer_BT = self.answer_BT.to(device)
        return self


def ordered_parts(mask_BT: torch.Tensor, parts: int) -> torch.Tensor:
    """Weights that average the marked tokens of each row in ordered parts, (B, parts, T).

    Part j covers marked tokens floor(n j / parts) up to floor(n (j + 1) / parts), at least
    one of them; parts of a row with fewer tokens than parts overlap. Rows sum to 1, or to 0
    where nothing is marked.
    """
    if not parts:
        return torch.zeros((mask_BT.shape[0], 0, mask_BT.shape[1]), device=mask_BT.device)
    rank_BT = mask_BT.long().cumsum(1) - 1
    count_B1 = mask_BT.sum(1, keepdim=True)
    weights = []
    for part in range(parts):
        low_B1 = torch.minimum(count_B1 * part // parts, (count_B1 - 1).clamp(min=0))
        high_B1 = torch.maximum(count_B1 * (part + 1) // parts, low_B1 + 1)
        inside_BT = mask_BT & (rank_BT >= low_B1) & (rank_BT < high_B1)
        weights.append(inside_BT / inside_BT.sum(1, keepdim=True).clamp(min=1))
    return torch.stack(weights, 1)


class EncoderNetwork(nn.Module):
    """The trainable network: backbone and the linear map of each kind of part."""

    backbone: Any
    prompt_size: int
    """Size of a prompt latent."""

    def __init__(self, backbone: Any, layout: LatentLayout) -> None:
        super().__init__()
        self.backbone = backbone
        self.layout = layout
        width = backbone.config.hidden_size
        self.prompt_size = width
        self.to_part = nn.Parameter(torch.empty(layout.slots, width, layout.part_size))
        for part in self.to_part:
            nn.init.orthogonal_(part)

    def states(self, texts: TokenizedTexts) -> torch.Tensor:
        """Last hidden states, (B, T, D). Answer tokens carry the second token type."""
        kinds = {}
        if getattr(self.backbone.config, "type_vocab_size", 1) > 1:
            kinds["token_type_ids"] = texts.answer_BT.long()
        return self.backbone(
            input_ids=texts.ids_BT, attention_mask=texts.mask_BT.long(), **kinds
        ).last_hidden_state

    def prompt_latent(self, states_BTD: torch.Tensor, texts: TokenizedTexts) -> torch.Tensor:
        """Mean of the states, (B, D): what a text is addressed by. Texts here have no answer."""
        weight_B1T = ordered_parts(texts.mask_BT, 1)
        return torch.einsum("bpt,btd->bpd", weight_B1T.to(states_BTD.dtype), states_BTD)[:, 0]

    def value(self, states_BTD: torch.Tensor, texts: TokenizedTexts) -> torch.Tensor:
        """z, the latent of prompt and answer, (B, C)."""
        inner_BT = texts.mask_BT.clone()
        inner_BT[:, 0] = False
        inner_BT = inner_BT & inner_BT.roll(-1, 1)  # neither the first nor the last real token
        prompt_BT = inner_BT & ~texts.answer_BT
        prompt_BT = torch.where(prompt_BT.any(1, keepdim=True), prompt_BT, texts.mask_BT)
        answer_BT = torch.where(texts.answer_BT.any(1, keepdim=True), texts.answer_BT, prompt_BT)
        weights_BPT = torch.cat(
            [
                ordered_parts(texts.mask_BT, 1),
                ordered_parts(prompt_BT, self.layout.prompt_parts),
                ordered_parts(answer_BT, self.layout.answer_parts),
            ],
            dim=1,
        )
        means_BPD = torch.einsum("bpt,btd->bpd", weights_BPT.to(states_BTD.dtype), states_BTD)
        parts_BPp = torch.einsum("bpd,pdc->bpc", means_BPD, self.to_part.to(states_BTD.dtype))
        return parts_BPp.flatten(1)


class PooledEncoderNetwork(EncoderNetwork):
    """The reference's encoder: z is the first half of a linear map of the pooled first position.

    A prompt is addressed by the z of the prompt alone, so that D = C. The second half, a log
    variance while the reference's encoder was pretrained, is kept and unused.
    """

    def __init__(self, backbone: Any, layout: LatentLayout) -> None:
        nn.Module.__init__(self)
        self.backbone = backbone
        self.layout = layout
        width = backbone.config.hidden_size
        self.prompt_size = layout.value_size
        self.pooler = nn.Linear(width, width)
        self.to_latent = nn.Linear(width, 2 * layout.value_size, bias=False)
        for linear in (self.pooler, self.to_latent):
            nn.init.normal_(linear.weight, std=0.02)
        nn.init.zeros_(self.pooler.bias)

    def states(self, texts: TokenizedTexts) -> torch.Tensor:
        """Last hidden states, (B, T, D). All tokens are of the first type."""
        return self.backbone(
            input_ids=texts.ids_BT, attention_mask=texts.mask_BT.long()
        ).last_hidden_state

    def pooled(self, states_BTD: torch.Tensor) -> torch.Tensor:
        """tanh of a linear map of the first position's state, (B, D)."""
        return self.pooler(states_BTD[:, 0]).tanh()

    def prompt_latent(self, states_BTD: torch.Tensor, texts: TokenizedTexts) -> torch.Tensor:
        """z of texts without an answer, (B, C): what they are addressed by."""
        return self.value(states_BTD, texts)

    def value(self, states_BTD: torch.Tensor, texts: TokenizedTexts) -> torch.Tensor:
        """z, the latent of prompt and answer, (B, C)."""
        return self.to_latent(self.pooled(states_BTD))[:, : self.layout.value_size]


def encoder_network(backbone: Any, layout: LatentLayout) -> EncoderNetwork:
    """The network that makes latents of this layout from a backbone's states."""
    kinds = {"parts": EncoderNetwork, "pooled": PooledEncoderNetwork}
    return kinds[layout.kind](backbone, layout)


class Encoder:
    """Encodes texts in fixed shapes, so that a text's bits do not depend on its neighbours.

    Cost of up to 16 tokens, MiniLM's size: 7.7 ms for one text and 1 ms a text in a batch
    (bfloat16 with matrix instructions); 20 and 6 ms (float32, one core).
    """

    def __init__(self, network: EncoderNetwork, tokenizer, max_text_tokens: int) -> None:
        self.network = network.eval()
        self.tokenizer = tokenizer
        self.max_text_tokens = max_text_tokens
        self.prompt_size = network.prompt_size
        self.value_size = network.layout.value_size
        self.device = next(network.parameters()).device
        self._row_counts: dict[int, tuple[int, ...]] = {}

    def tokenize(self, text: Text) -> tuple[list[int], int]:
        """Ids with special tokens, and the index of the first answer token (the end without one).

        Raises:
            InvalidArgument: the prompt is empty, or the text is past `max_text_tokens`.
        """
        prompt = self.tokenizer(text.prompt, add_special_tokens=False)["input_ids"]
        answer = []
        if text.answer:
            answer = self.tokenizer(" " + text.answer, add_special_tokens=False)["input_ids"]
        if not prompt:
            raise InvalidArgument("the prompt is empty: give it a text", "EMPTY_TEXT")
        ids = [self.tokenizer.cls_token_id, *prompt, *answer, self.tokenizer.sep_token_id]
        if len(ids) > self.max_text_tokens:
            raise InvalidArgument(
                f"the text has {len(ids) - 2} tokens, the limit is {self.max_text_tokens - 2}: "
                "shorten it, or split it over several facts",
                "TEXT_TOO_LONG",
            )
        return ids, 1 + len(prompt) if answer else len(ids) - 1

    def tokenize_passage(self, text: str) -> tuple[tuple[list[int], int], tuple[list[int], int]]:
        """`tokenize` of a passage whole, and of what it states, which its value is of.

        Where what it is about has no tokens, a bullet's character say, it states the whole.

        Raises:
            InvalidArgument: as `tokenize`, of the whole passage or of what it states.
        """
        whole = self.tokenize(Text(text))
        try:
            return whole, self.tokenize(Text(*stated(text)))
        except InvalidArgument as error:
            if error.reason != "EMPTY_TEXT":
                raise
            return whole, whole

    def encode(self, texts: Sequence[Text], with_value: Sequence[bool]) -> list[np.ndarray]:
        """Latents of texts, float32: the value (C,) where wanted, else the prompt latent (D,).

        Raises:
            InvalidArgument: as `tokenize`.
        """
        return self.encode_tokens([self.tokenize(text) for text in texts], with_value)

    def encode_tokens(
        self, rows: Sequence[tuple[list[int], int]], with_value: Sequence[bool]
    ) -> list[np.ndarray]:
        """`encode` of texts that `tokenize` has taken apart."""
        out: list[np.ndarray] = [np.empty(0, np.float32)] * len(rows)
        for length, members in bucketed([len(ids) for ids, _ in rows]):
            taken = [rows[i] for i in members]
            batch = TokenizedTexts(padded_rows(taken), self.tokenizer.pad_token_id, length)
            batch.to(self.device)
            with torch.inference_mode():
                states_BTD = padded_states(self._states(taken, length))
                prompts_BD = self.network.prompt_latent(states_BTD, batch).float().cpu().numpy()
                values_BC = self.network.value(states_BTD, batch).float().cpu().numpy()
            for place, index in enumerate(members):
                out[index] = (values_BC if with_value[index] else prompts_BD)[place].copy()
        return out

    def _states(self, rows: Sequence[tuple[list[int], int]], length: int) -> torch.Tensor:
        """Hidden states of at most BUCKET_ROWS texts, (B, T, D): as few rows as give the bits."""
        if length not in self._row_counts:
            self._row_counts[length] = row_counts(
                lambda found: self._pass([(ids, len(ids) - 1) for ids in found], length),
                length,
                self.network.backbone.config.vocab_size,
                self.device,
            )
        return self._pass(padded_rows(rows, self._row_counts[length]), length)

    def _pass(self, rows: Sequence[tuple[list[int], int]], length: int) -> torch.Tensor:
        texts = TokenizedTexts(rows, self.tokenizer.pad_token_id, length).to(self.device)
        return self.network.states(texts)

    def prompt_latents(self, prompts: Sequence[str]) -> np.ndarray:
        """Prompt latents, float32 (N, D). Raises: InvalidArgument, as `tokenize`."""
        return np.stack(self.encode([Text(p) for p in prompts], [False] * len(prompts)))

    def values(self, texts: Sequence[Text]) -> np.ndarray:
        """Latents of prompt and answer, float32 (N, C). Raises: InvalidArgument, as `tokenize`."""
        return np.stack(self.encode(texts, [True] * len(texts)))


def bucketed(lengths: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Groups of at most BUCKET_ROWS texts of one padded length: (length, indices)."""
    groups: dict[int, list[int]] = {}
    for index, tokens in enumerate(lengths):
        length = next(size for size in BUCKET_TOKENS if tokens <= size)
        groups.setdefault(length, []).append(index)
    return [
        (length, members[start : start + BUCKET_ROWS])
        for length, members in sorted(groups.items())
        for start in range(0, len(members), BUCKET_ROWS)
    ]


def padded_rows(rows: Sequence, counts: Sequence[int] = (BUCKET_ROWS,)) -> list:
    """The rows, filled up with copies of the first to the least of these counts, which rise."""
    count = next(count for count in counts if count >= len(rows))
    return [*rows, *[rows[0]] * (count - len(rows))]


def padded_states(states_BTD: torch.Tensor) -> torch.Tensor:
    """The same of tensors, up to BUCKET_ROWS: what is made of states has one shape."""
    filled = states_BTD[:1].expand(BUCKET_ROWS - len(states_BTD), -1, -1)
    return torch.cat([states_BTD, filled])


@torch.inference_mode()
def row_counts(
    run: Callable[[list[list[int]]], torch.Tensor],
    length: int,
    vocabulary: int,
    device: torch.device | str,
) -> tuple[int, ...]:
    """Numbers of rows, rising, at which a pass gives each row the bits of one of BUCKET_ROWS.

    Looked for by passes of random rows in other places and other company: what a kernel adds up
    in which order depends on shapes, not on the numbers. Cost: four passes.

    Args:
        run: a pass over token ids, at most `length` of each row; (B, ...).
        length: what rows are padded to.
        vocabulary: ids are below it.
    """
    if length not in FEWER_ROWS_TOKENS or torch.device(device).type != "cpu":
        return (BUCKET_ROWS,)
    drawn = torch.Generator().manual_seed(length)
    sizes = range(length, length - BUCKET_ROWS, -1)
    rows = [torch.randint(vocabulary, (size,), generator=drawn).tolist() for size in sizes]
    wanted = run(rows).flip(0)
    backwards = rows[::-1]
    found = [count for count in FEWER_ROWS if torch.equal(run(backwards[:count]), wanted[:count])]
    return (*found, BUCKET_ROWS)
