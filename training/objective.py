"""Equation 1: decode from memory, decode from the latent, KL of addresses, decoder alone.

Shapes: B rows, N facts of an episode, K slots, C value size, D prompt-latent size.
The two decoding terms are estimated on different rows of one batch, which costs one
decoder pass instead of two.
Source: Das et al., arXiv 2403.11901, equation 1 and Algorithm 1.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from larimar.checkpoint import Networks
from larimar.encoder import TokenizedTexts
from training.data import Row

_IGNORE = -100
_PINV_RTOL = 1e-6


class TrainingMemory(nn.Module):
    """M_0, the trained prior of the episode memory, and the noise of its addresses."""

    def __init__(self, slots: int, prompt_size: int) -> None:
        super().__init__()
        self.prior_KD = nn.Parameter(torch.randn(slots, prompt_size) * 0.05)
        self.logvar = nn.Parameter(torch.tensor(-7.0))

    def read(
        self, prompts_ND: torch.Tensor, z_NC: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes an episode, reads it with noisy addresses: (z_r of (N, C), KL of (N, K)).

        Algorithm 1 with prompt latents as keys: W_0 = P M_0^+, M = W_0^+ Z, z_r = (W_0 + noise) M.
        """
        w_NK = prompts_ND.double() @ torch.linalg.pinv(self.prior_KD.double(), rtol=_PINV_RTOL)
        memory_KC = torch.linalg.pinv(w_NK, rtol=_PINV_RTOL) @ z_NC.double()
        noise_NK = torch.randn(w_NK.shape, generator=generator, dtype=torch.float64)
        deviation = (0.5 * self.logvar.double()).exp()
        read_NC = (w_NK + deviation * noise_NK.to(w_NK.device)) @ memory_KC
        kl_NK = 0.5 * (w_NK**2 + self.logvar.double().exp() - 1 - self.logvar.double())
        return read_NC.float(), kl_NK.float()


@dataclasses.dataclass
class Losses:
    """The terms of one step; `total` is what is minimised."""

    total: torch.Tensor
    read: torch.Tensor
    direct: torch.Tensor
    kl: torch.Tensor
    plain: torch.Tensor
    teacher: torch.Tensor
    tokens: int

    def numbers(self) -> dict[str, float]:
        """The terms as plain numbers."""
        names = ("total", "read", "direct", "kl", "plain", "teacher")
        return {name: float(getattr(self, name).detach()) for name in names}


class Objective(nn.Module):
    """Computes the loss of one batch of rows."""

    def __init__(self, networks: Networks, memory: TrainingMemory, tokenizer, episode: int) -> None:
        super().__init__()
        self.encoder = networks.encoder
        self.decoder = networks.decoder
        self.memory = memory
        self.episode = episode
        self.start_id = tokenizer.cls_token_id
        self.stop_id = tokenizer.sep_token_id
        self.pad_id = tokenizer.pad_token_id

    def forward(
        self,
        read_rows: list[Row],
        direct_rows: list[Row],
        plain_rows: list[list[int]],
        teacher: nn.Module | None,
        beta: float,
        teacher_weight: float,
        generator: torch.Generator,
    ) -> Losses:
        """The four terms and the teacher term. `read_rows` fill whole episodes."""
        rows = read_rows + direct_rows
        device = self.memory.prior_KD.device
        stored = self._texts([(row.prompt, row.answer) for row in rows], device)
        z_BC = self.encoder.value(self.encoder.states(stored), stored).float()
        prompts = self._texts([(row.prompt, []) for row in read_rows], device)
        prompts_BD = self.encoder.prompt_latent(self.encoder.states(prompts), prompts).float()
        with torch.autocast(device.type, enabled=False):
            reads, kls = [], []
            for low in range(0, len(read_rows), self.episode):
                part = slice(low, low + self.episode)
                read_NC, kl_NK = self.memory.read(prompts_BD[part], z_BC[part], generator)
                reads.append(read_NC)
                kls.append(kl_NK.mean())
            z_BC = torch.cat([*reads, z_BC[len(read_rows) :]])
            kl = torch.stack(kls).mean()
        loss_B2, count_B2 = self._conditioned(rows, z_BC, device)
        cut = len(read_rows)
        read = _balanced(loss_B2[:cut], count_B2[:cut])
        direct = _balanced(loss_B2[cut:], count_B2[cut:])
        plain, plain_tokens = self._plain(plain_rows, device)
        kept = self._teacher_term(teacher, prompts, prompts_BD)
        total = read + direct + beta * kl + plain + teacher_weight * kept
        tokens = int(count_B2.sum()) + plain_tokens
        return Losses(total, read, direct, kl, plain, kept, tokens)

    def _texts(self, rows, device) -> TokenizedTexts:
        packed = []
        for prompt, answer in rows:
            ids = [self.start_id, *prompt, *answer, self.stop_id]
            packed.append((ids, 1 + len(prompt) if answer else len(ids) - 1))
        return TokenizedTexts(packed, self.pad_id).to(device)

    def _conditioned(self, rows: list[Row], z_BC: torch.Tensor, device):
        inputs, labels = [], []
        for row in rows:
            if row.learn_query:
                inputs.append([self.start_id, *row.query])
                labels.append([*row.target, self.stop_id])
            else:
                inputs.append([self.start_id, *row.query, *row.target])
                labels.append([_IGNORE] * len(row.query) + [*row.target, self.stop_id])
        token_loss_BT, labels_BT = self._token_losses(inputs, labels, device, z_BC)
        copied_B1 = torch.tensor([[row.learn_query] for row in rows], device=device)
        sums_B1 = token_loss_BT.sum(1, keepdim=True)
        counts_B1 = (labels_BT != _IGNORE).sum(1, keepdim=True)
        loss_B2 = torch.cat([sums_B1 * copied_B1, sums_B1 * ~copied_B1], dim=1)
        count_B2 = torch.cat([counts_B1 * copied_B1, counts_B1 * ~copied_B1], dim=1)
        return loss_B2, count_B2

    def _plain(self, rows: list[list[int]], device) -> tuple[torch.Tensor, int]:
        inputs = [[self.start_id, *ids] for ids in rows]
        labels = [[*ids, self.stop_id] for ids in rows]
        token_loss_BT, labels_BT = self._token_losses(inputs, labels, device, None)
        count = int((labels_BT != _IGNORE).sum())
        return token_loss_BT.sum() / max(1, count), count

    def _token_losses(self, inputs, labels, device, z_BC):
        length = max(map(len, inputs))
        ids_BT = torch.full((len(inputs), length), self.pad_id)
        labels_BT = torch.full((len(inputs), length), _IGNORE)
        mask_BT = torch.zeros((len(inputs), length), dtype=torch.bool)
        for row, (ids, targets) in enumerate(zip(inputs, labels, strict=True)):
            ids_BT[row, : len(ids)] = torch.tensor(ids)
            labels_BT[row, : len(targets)] = torch.tensor(targets)
            mask_BT[row, : len(ids)] = True
        ids_BT, labels_BT, mask_BT = ids_BT.to(device), labels_BT.to(device), mask_BT.to(device)
        hidden_BTE = self.decoder.hidden(ids_BT, mask_BT, z_BC)
        wanted_BT = labels_BT != _IGNORE
        logits = self.decoder.logits(hidden_BTE[wanted_BT])
        losses = F.cross_entropy(logits.float(), labels_BT[wanted_BT], reduction="none")
        token_loss_BT = torch.zeros(ids_BT.shape, device=device).masked_scatter(wanted_BT, losses)
        return token_loss_BT, labels_BT

    def _teacher_term(self, teacher, prompts: TokenizedTexts, prompts_BD) -> torch.Tensor:
        if teacher is None:
            return prompts_BD.new_zeros(())
        with torch.no_grad():
            states = teacher(
                input_ids=prompts.ids_BT, attention_mask=prompts.mask_BT.long()
            ).last_hidden_state
            mask_BT1 = prompts.mask_BT[..., None]
            wanted_BD = (states * mask_BT1).sum(1) / mask_BT1.sum(1)
        return 1 - F.cosine_similarity(prompts_BD, wanted_BD.float(), dim=1).mean()


def _balanced(loss_B2: torch.Tensor, count_B2: torch.Tensor) -> torch.Tensor:
    """Mean token loss of copy rows and of answer rows, each half of the term."""
    return (loss_B2.sum(0) / count_B2.sum(0).clamp(min=1)).sum() / 2
