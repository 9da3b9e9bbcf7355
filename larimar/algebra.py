"""The paper's algebra, readable, and the exact sums that the banks use instead.

Pure functions on tensors; imports torch, math and typing only.

Shapes: N facts, K slots, C value size, D prompt-latent size, R rows. Any leading batch
dimensions are carried along. [L] is the Larimar paper (arXiv 2403.11901); equation numbers are
its own.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

FIXED_LIMIT = 1 << 20
"""Largest magnitude of a fixed-point integer."""
EXACT_ROWS = 1 << 13
"""Rows a float64 GEMM may add up: 2^13 products of 2^40 reach 2^53, past which float64 rounds."""
NEWTON_START = 5e-4
"""The reference starts its pseudo-inverse at X_0 = 5e-4 A^T."""


# The paper's memory, as a readable reference.


def pseudo_inverse(a: Tensor, rtol: float = 1e-6) -> Tensor:
    """The Moore-Penrose pseudo-inverse; singular values under rtol times the largest count as 0.

    The default of most libraries inverts rounding noise on a rank-deficient float32 matrix, so
    rtol is always given here.
    """
    return torch.linalg.pinv(a, rtol=rtol)


def newton_pinv_closed_form(a: Tensor, steps: int) -> Tensor:
    """The reference's Newton pseudo-inverse after `steps` steps, in closed form.

    Newton's iteration X <- 2 X - X A X from X_0 = 5e-4 A^T keeps A's singular vectors and sends
    each singular value s to (1 - (1 - 5e-4 s^2)^(2^steps)) / s. Computed in float64.

    Raises:
        ValueError: a singular value is past sqrt(2 / 5e-4) = 63.2, where the iteration diverges.

    Source: Ben-Israel and Cohen (1966); Newton's iteration of [L]'s reference code.
    """
    u, s, vh = torch.linalg.svd(a.double(), full_matrices=False)
    shrink = NEWTON_START * s * s
    if bool((shrink >= 2).any()):
        raise ValueError(
            f"Newton's iteration diverges: singular value {float(s.max()):.1f} >= 63.2"
        )
    power = torch.exp(2.0**steps * torch.log((1 - shrink).abs()))
    start = 2.0**steps * NEWTON_START * s
    inverse_s = torch.where(shrink < 1e-12, start, (1 - power) / s.clamp_min(1e-300))
    return (vh.mT @ (inverse_s.unsqueeze(-1) * u.mT)).to(a.dtype)


def episode_write(
    z_NC: Tensor, m_prior_KC: Tensor, rtol: float = 1e-6, newton_steps: int | None = None
) -> tuple[Tensor, Tensor]:
    """Writes an episode in one shot: W_0 = Z M_0^+, M = W_0^+ Z. Gives (M, W_0).

    Differentiable. `newton_steps` puts the reference's truncated pseudo-inverse in place of the
    exact one. With N <= K independent latents, M reads the orthogonal projection of a query on
    the span of Z, whatever M_0 is.

    Source: [L] Algorithm 1, "write".
    """
    w_NK = z_NC @ _inverse(m_prior_KC, rtol, newton_steps)
    return _inverse(w_NK, rtol, newton_steps) @ z_NC, w_NK


def episode_read(
    z_NC: Tensor, m_KC: Tensor, rtol: float = 1e-6, newton_steps: int | None = None
) -> tuple[Tensor, Tensor]:
    """Reads an episode: W = Z M^+, Z_read = W M. Gives (Z_read, W).

    Source: [L] Algorithm 1, "read".
    """
    w_NK = z_NC @ _inverse(m_KC, rtol, newton_steps)
    return w_NK @ m_KC, w_NK


def _inverse(a: Tensor, rtol: float, newton_steps: int | None) -> Tensor:
    if newton_steps is None:
        return pseudo_inverse(a, rtol)
    return newton_pinv_closed_form(a, newton_steps)


def sequential_write(
    m_KC: Tensor, c_KK: Tensor, w_NK: Tensor, z_NC: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    """Writes (alpha = 1) or forgets (alpha = -1) one batch after another. Gives (M_i, C_i).

    C_i = C_{i-1} + alpha W^T W,  M_i = M_{i-1} + alpha C_i^{-1} W^T (Z - W M_{i-1}).

    Right from C_0 = lam I, M_0 = 0, up to rounding that depends on order and batching. From
    C_0 = 0 the inverse does not exist below K rows, and where memory interpolates (Z = W M) a
    forget changes nothing: the banks use `exact_sums` instead.

    Source: [L] equations 2-4.
    """
    c_new_KK = c_KK + alpha * w_NK.mT @ w_NK
    residual_NC = z_NC - w_NK @ m_KC
    return m_KC + alpha * torch.linalg.solve(c_new_KK, w_NK.mT @ residual_NC), c_new_KK


def ridge_address(z_NC: Tensor, m_KC: Tensor, noise: float) -> Tensor:
    """The mean of w given z, z = w M plus noise: W = Z M^T (M M^T + noise^2 I)^{-1} (... x N x K).

    What the reference's sequential path addresses with; `sequential_write` from C_0 = noise^2 times
    the prior precision then reproduces it.
    """
    gram_KK = m_KC @ m_KC.mT
    eye_KK = torch.eye(gram_KK.shape[-1], dtype=m_KC.dtype, device=m_KC.device)
    return torch.linalg.solve(gram_KK + noise**2 * eye_KK, m_KC @ z_NC.mT).mT


def kl_address(w: Tensor, logvar: Tensor | float = 0.0) -> Tensor:
    """KL(q(w) || N(0, I)) element by element, q(w) normal with mean w and log-variance `logvar`.

    Source: [L] equation 1, the term weighted by beta.
    """
    logvar = torch.as_tensor(logvar, dtype=w.dtype, device=w.device)
    return 0.5 * (logvar.exp() + w * w - 1 - logvar)


def kl_memory(
    m_KC: Tensor, variance_K: Tensor, m_prior_KC: Tensor, prior_variance_K: Tensor
) -> Tensor:
    """Twice KL(p(M | Z) || p(M)), matrix normals with diagonal row covariance: the reference's.

    Equal variances leave |M - M_0|^2 weighted by the prior precision.
    """
    values = m_KC.shape[-1]
    ratio_K = variance_K / prior_variance_K
    moved = ((m_KC - m_prior_KC) ** 2 / prior_variance_K.unsqueeze(-1)).sum((-2, -1))
    return moved + values * (ratio_K - 1 - ratio_K.log()).sum(-1)


# Addresses over a fixed reference memory.


def reference_memory(seed: int, slots: int, size: int) -> Tensor:
    """M_ref (K x D): standard normal, float64, from the seed alone, on any device's host."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randn(slots, size, generator=generator, dtype=torch.float64)


def pinv_address(z_RD: Tensor, m_ref_KD: Tensor, rtol: float) -> Tensor:
    """w = z M_ref^+ (R x K).

    Source: [L] Algorithm 1, with the reference memory in place of M_0.
    """
    return z_RD @ pseudo_inverse(m_ref_KD, rtol)


def gaussian_address(z_RD: Tensor, m_ref_KD: Tensor, alpha: float) -> Tensor:
    """w_k proportional to exp(-|z - M_ref,k|^2 / (2 alpha s^2)), s^2 the least of the K (R x K).

    Each row adds up to 1. Where z is a row of M_ref, w is 1 there (shared by equal rows).

    Source: [L] equations 7-8.
    """
    square_RK = ((z_RD.unsqueeze(-2) - m_ref_KD) ** 2).sum(-1)
    least_R1 = square_RK.amin(-1, keepdim=True)
    excess_RK = (square_RK - least_R1) / least_R1
    excess_RK = torch.where(square_RK == least_R1, torch.zeros_like(square_RK), excess_RK)
    return torch.softmax(-excess_RK / (2 * alpha), dim=-1)


# Exact sums: the write that has a true inverse.


def to_fixed(x: Any, bits: int) -> Tensor:
    """round(x 2^bits) as int64, each at most 2^20 in magnitude; never clipped.

    Raises:
        ValueError: a number is not finite, or past the range.
    """
    scaled = torch.as_tensor(x).double() * math.ldexp(1.0, bits)
    if not bool(torch.isfinite(scaled).all()):
        raise ValueError("fixed point needs finite numbers")
    if scaled.numel() and float(scaled.abs().max()) > FIXED_LIMIT:
        limit = math.ldexp(FIXED_LIMIT, -bits)
        raise ValueError(f"fixed point at {bits} bits holds at most {limit} in magnitude")
    return scaled.round().long()


def exact_sums(a_NK: Tensor, v_NC: Tensor) -> tuple[Tensor, Tensor]:
    """C = sum_f a_f^T a_f (K x K) and B = sum_f a_f^T v_f (K x C) as int64, without rounding.

    Takes whole numbers of at most 2^20 in magnitude, so that a float64 GEMM over 2^13 rows is
    exact on any device; integer addition then makes order, batching and sharding irrelevant, and
    subtracting a true inverse. The sums hold 2^23 - 1 rows in the worst case.

    Cost: O(N K (K + C)); about 20 us a fact at K = 512, C = 768 in large batches.
    """
    k, c = a_NK.shape[1], v_NC.shape[1]
    c_KK = torch.zeros(k, k, dtype=torch.int64, device=a_NK.device)
    b_KC = torch.zeros(k, c, dtype=torch.int64, device=a_NK.device)
    for start in range(0, len(a_NK), EXACT_ROWS):
        a, v = a_NK[start : start + EXACT_ROWS].double(), v_NC[start : start + EXACT_ROWS].double()
        c_KK += (a.mT @ a).long()
        b_KC += (a.mT @ v).long()
    return c_KK, b_KC


def solve_memory(
    c_KK: Tensor, b_KC: Tensor, address_bits: int, value_bits: int, ridge: float
) -> Tensor:
    """M = (C + lam I)^{-1} B from the exact sums, in float64 (K x C); lam = ridge trace(C) / K.

    Empty sums give M = 0.

    Raises:
        torch.linalg.LinAlgError: the ridge is too small for C's rank.

    Cost: O(K^3 + K^2 C); 25 ms at K = 512, C = 1,920 on 2 cores.
    """
    c = c_KK.double() * math.ldexp(1.0, -2 * address_bits)
    b = b_KC.double() * math.ldexp(1.0, -address_bits - value_bits)
    lam = ridge * float(c.trace()) / len(c) or 1.0
    factor = torch.linalg.cholesky(c + lam * torch.eye(len(c), dtype=c.dtype, device=c.device))
    return torch.cholesky_solve(b, factor)
