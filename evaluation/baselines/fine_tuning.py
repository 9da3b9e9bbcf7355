"""FT and FT+L: the decoder's own weights trained on the edit, and put back exactly afterwards.

Adam on the output projection of one MLP layer until the new target's loss is small; FT+L keeps
every weight within a distance of what it was. Source: Zhu et al. 2020, arXiv 2012.00363, in the
form of Meng et al. 2022, arXiv 2202.05262. Their code takes all tokens of a target from
the last position of the prompt; here each is predicted from those before it, and a full stop
is learned after the target, so that a generated answer ends there.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from evaluation.baselines.plain import seen_by
from evaluation.systems import NewFact, Query, Seen
from larimar.decoder import Decoder
from larimar.errors import InvalidArgument

STEPS = 25
"""Passes over the facts at most."""
LEARNING_RATE = 5e-4
SMALL_LOSS = 1e-2
"""Mean NLL of a target's tokens at which training stops."""
FACTS_TOGETHER = 16
"""Facts of one step."""
NORM = 5e-3
"""Of FT+L: largest change of a weight. A tenth of it hardly lowers the small decoder's loss."""
_PROJECTION = re.compile(
    r"\.(?:mlp\.c_proj|mlp\.fc_out|mlp\.down_proj|(?<!attention\.)output\.dense)$"
)


class FineTuned:
    """The plain decoder, trained on the facts that are written.

    Its weights are changed only while facts are written and while queries are answered.

    Args:
        decoder: of `trainable_decoder`; several of these may share one.
        norm: largest change of a weight; None for FT without a bound.
    """

    def __init__(self, decoder: Decoder, norm: float | None = None) -> None:
        self._decoder = decoder
        self._norm = norm
        self._weights = projection_of(decoder.network.lm)
        self._own = [weight.detach().clone() for weight in self._weights]
        self._tuned: list[torch.Tensor] | None = None
        self._live: set[str] = set()

    def write(self, facts: Sequence[NewFact]) -> None:
        """Trains on facts, from where facts written before have led."""
        with self._in_place():
            self._train(facts)
            self._tuned = [weight.detach().clone() for weight in self._weights]
        self._live |= {fact.fact_id for fact in facts}

    def forget(self, fact_ids: Sequence[str]) -> None:
        """Drops the training.

        Raises:
            InvalidArgument: other facts are left, whose training cannot be told apart from theirs.
        """
        left = self._live - set(fact_ids)
        if left:
            raise InvalidArgument("fine-tuning forgets all facts at once, or none")
        self._live, self._tuned = set(), None

    def read(self, queries: Sequence[Query]) -> list[Seen]:
        """What the trained decoder says; decoded at once, for the weights change later."""
        with self._in_place():
            return seen_by(self._decoder, queries)

    def decode(self, held: Sequence[Seen]) -> list[Seen]:
        """Nothing is left to do."""
        return list(held)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """The trained weights in the decoder; its own ones again at the end, to the bit."""
        try:
            if self._tuned is not None:
                self._put(self._tuned)
            yield
        finally:
            self._put(self._own)

    @torch.no_grad()
    def _put(self, values: Sequence[torch.Tensor]) -> None:
        for weight, value in zip(self._weights, values, strict=True):
            weight.copy_(value)

    def _train(self, facts: Sequence[NewFact]) -> None:
        network = self._decoder.network
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        for weight in self._weights:
            weight.requires_grad_(True)
        batches = [
            AnswerBatch(self._decoder, facts[low : low + FACTS_TOGETHER])
            for low in range(0, len(facts), FACTS_TOGETHER)
        ]
        optimizer = torch.optim.Adam(self._weights, lr=LEARNING_RATE)
        for _ in range(STEPS):
            losses = []
            for batch in batches:
                loss = batch.loss(self._decoder)
                value = loss.item()
                losses.append(value * batch.facts)
                if value >= SMALL_LOSS:
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    self._keep_near()
            if sum(losses) / len(facts) < SMALL_LOSS:
                break
        for weight in self._weights:
            weight.requires_grad_(False)
            weight.grad = None

    @torch.no_grad()
    def _keep_near(self) -> None:
        if self._norm is not None:
            for weight, own in zip(self._weights, self._own, strict=True):
                weight.clamp_(own - self._norm, own + self._norm)


class AnswerBatch:
    """Facts as rows of tokens, padded at the end; the answers and a full stop are the targets."""

    def __init__(self, decoder: Decoder, facts: Sequence[NewFact]) -> None:
        self.facts = len(facts)
        rows = []
        for fact in facts:
            prompt = decoder.tokenize(fact.prompt)
            said = f" {fact.answer.rstrip('.')}."
            answer = decoder.tokenizer(said, add_special_tokens=False)["input_ids"]
            rows.append((prompt, answer))
        shape = (len(rows), max(len(prompt) + len(answer) for prompt, answer in rows))
        self.ids_BT = torch.full(shape, decoder.pad_id)
        self.mask_BT = torch.zeros(shape, dtype=torch.bool)
        self.targets_BT = torch.full(shape, -100)
        self.shares_BT = torch.zeros(shape)
        for place, (prompt, answer) in enumerate(rows):
            ids = torch.tensor(prompt + answer)
            self.ids_BT[place, : len(ids)] = ids
            self.mask_BT[place, : len(ids)] = True
            asked = slice(len(prompt) - 1, len(ids) - 1)
            self.targets_BT[place, asked] = torch.tensor(answer)
            self.shares_BT[place, asked] = 1 / (len(answer) * len(rows))

    def loss(self, decoder: Decoder) -> torch.Tensor:
        """The mean over facts of the mean NLL of a target's tokens."""
        network, device = decoder.network, decoder.device
        hidden_BTE = network.hidden(self.ids_BT.to(device), self.mask_BT.to(device))
        wanted_BT = self.targets_BT >= 0
        logits_NV = network.logits(hidden_BTE[wanted_BT.to(device)][None])[0].float()
        losses_N = cross_entropy(logits_NV, self.targets_BT[wanted_BT].to(device), reduction="none")
        return (losses_N * self.shares_BT[wanted_BT].to(device)).sum()


def projection_of(lm: nn.Module) -> list[nn.Parameter]:
    """Weight and, where there is one, bias of the MLP's output projection in the middle layer.

    Raises:
        InvalidArgument: the model's MLP layers have other names than the known ones.
    """
    found = [module for name, module in lm.named_modules() if _PROJECTION.search(name)]
    if not found:
        raise InvalidArgument(
            f"no MLP output projection is known by name in a {type(lm).__name__}: leave out the "
            "baselines ft and ft_l"
        )
    return list(found[len(found) // 2].parameters())
