"""Equation 1: decode from memory, decode from the latent, KL of addresses, decoder alone.

Shapes: B rows, N facts of an episode, K slots, C value size, D prompt-latent size, T tokens,
E decoder width, L labels.
The two decoding terms are estimated on different rows of one batch, which costs one
decoder pass instead of two.
Source: Das et al., arXiv 2403.11901, equation 1 and Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from larimar.checkpoint import Networks
from larimar.decoder import DecoderNetwork
from larimar.encoder import TokenizedTexts
from training.batches import Batch, Decoded, Markers
from training.crossentropy import weighted_cross_entropy

_PINV_RTOL = 1e-6
LossTerms = dict[str, torch.Tensor]
"""Shares of a step's loss: `total`, which is minimised, and its terms, detached."""


class TrainingMemory(nn.Module):
    """M_0, the trained prior of the episode memory, and the noise of its addresses."""

    def __init__(self, slots: int, prompt_size: int) -> None:
        super().__init__()
        self.prior_KD = nn.Parameter(torch.randn(slots, prompt_size) * 0.05)
        self.logvar = nn.Parameter(torch.tensor([-7.0]))

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


class Objective(nn.Module):
    """Computes the loss of one part of a step."""

    def __init__(
        self,
        networks: Networks,
        memory: TrainingMemory,
        markers: tuple[Markers, Markers],
        episode: int,
        dtype: torch.dtype,
    ) -> None:
        """Args: markers: the encoder's and the decoder's. dtype: of the head's products."""
        super().__init__()
        self.encoder = networks.encoder
        self.decoder = networks.decoder
        self.memory = memory
        self.encoder_pad_id, self.decoder_pad_id = (each.pad_id for each in markers)
        self.episode = episode
        self.dtype = dtype

    def forward(
        self,
        batch: Batch,
        wanted_BD: torch.Tensor | None,
        beta: float,
        teacher_weight: float,
        seed: tuple[int, int],
    ) -> LossTerms:
        """The four terms and the teacher term.

        Args:
            wanted_BD: what the prompt latents should be parallel to; None leaves it out.
            seed: run's seed and step, of the noise in the addresses.
        """
        device = self.memory.prior_KD.device
        read_rows = len(batch.prompts)
        stored = TokenizedTexts(batch.stored, self.encoder_pad_id).to(device)
        prompts = TokenizedTexts(batch.prompts, self.encoder_pad_id).to(device)
        z_BC = self.encoder.value(self.encoder.states(stored), stored).float()
        prompts_BD = self.encoder.prompt_latent(self.encoder.states(prompts), prompts).float()
        episodes = read_rows // self.episode
        reads, kl = [], z_BC.new_zeros(())
        with torch.autocast(device.type, enabled=False):
            for number in range(episodes):
                part = slice(number * self.episode, (number + 1) * self.episode)
                noise = _generator(*seed, batch.first_episode + number)
                read_NC, kl_NK = self.memory.read(prompts_BD[part], z_BC[part], noise)
                reads.append(read_NC)
                kl = kl + kl_NK.mean() * (batch.share / episodes)
        z_BC = torch.cat([*reads, z_BC[read_rows:]])
        decoded, losses_L, weights_L, from_memory_L = self._conditioned(batch, z_BC, device)
        weighted_L = losses_L * weights_L
        plain = running_text_loss(self.decoder, batch.blocks, self.dtype) * batch.share
        kept = _apart(prompts_BD, wanted_BD) * batch.share
        return {
            "total": decoded + beta * kl + plain + teacher_weight * kept,
            "read": weighted_L[from_memory_L].sum(),
            "direct": weighted_L[~from_memory_L].sum(),
            "kl": kl.detach(),
            "plain": plain.detach(),
            "teacher": kept.detach(),
        }

    def _conditioned(self, batch: Batch, z_BC: torch.Tensor, device: torch.device):
        ids_BT, mask_BT, labels_BT, weights_BT = _padded(batch.decoded, self.decoder_pad_id)
        ids_BT, mask_BT = ids_BT.to(device), mask_BT.to(device)
        wanted_BT = weights_BT > 0
        from_memory_BT = torch.zeros_like(wanted_BT)
        from_memory_BT[: len(batch.prompts)] = True
        hidden_BTE = self.decoder.hidden(ids_BT, mask_BT, z_BC)
        weights_L = weights_BT[wanted_BT].to(device)
        table_VE, bias_V = self.decoder.head_table()
        loss, losses_L = weighted_cross_entropy(
            self.decoder.head_input(hidden_BTE[wanted_BT.to(device)]),
            table_VE,
            bias_V,
            labels_BT[wanted_BT].to(device),
            weights_L,
            self.dtype,
        )
        return loss, losses_L, weights_L, from_memory_BT[wanted_BT].to(device)


def running_text_loss(decoder: DecoderNetwork, blocks, dtype: torch.dtype) -> torch.Tensor:
    """Nats a token of blocks of running text, without a latent; 0 where there is no block."""
    table_VE, bias_V = decoder.head_table()
    device = table_VE.device
    if not len(blocks):
        return torch.zeros((), device=device)
    block_BT = torch.from_numpy(blocks).to(device)
    ids_BT, labels_N = block_BT[:, :-1], block_BT[:, 1:].flatten()
    hidden_BTE = decoder.hidden(ids_BT, torch.ones_like(ids_BT, dtype=torch.bool))
    weights_N = torch.full((len(labels_N),), 1 / len(labels_N), device=device)
    loss, _ = weighted_cross_entropy(
        decoder.head_input(hidden_BTE.flatten(0, 1)), table_VE, bias_V, labels_N, weights_N, dtype
    )
    return loss


def _apart(found_BD: torch.Tensor, wanted_BD: torch.Tensor | None) -> torch.Tensor:
    """1 - mean cosine of rows; 0 where nothing is wanted."""
    if wanted_BD is None:
        return found_BD.new_zeros(())
    return 1 - F.cosine_similarity(found_BD, wanted_BD, dim=1).mean()


def _generator(seed: int, step: int, episode: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 1009 + episode)


def _padded(rows: Sequence[Decoded], pad_id: int):
    """Rows as tensors (B, T): ids, mask, labels and their weights, 0 where nothing is learned."""
    length = max(len(row.ids) for row in rows)
    ids_BT = torch.full((len(rows), length), pad_id)
    mask_BT = torch.zeros((len(rows), length), dtype=torch.bool)
    labels_BT = torch.zeros((len(rows), length), dtype=torch.long)
    weights_BT = torch.zeros((len(rows), length))
    for index, row in enumerate(rows):
        end = len(row.ids)
        ids_BT[index, :end] = torch.tensor(row.ids)
        mask_BT[index, :end] = True
        labels_BT[index, end - len(row.labels) : end] = torch.tensor(row.labels)
        weights_BT[index, end - len(row.labels) : end] = row.weight
    return ids_BT, mask_BT, labels_BT, weights_BT
