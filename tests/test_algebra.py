"""The algebra against the reference implementation's numbers and an independent oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from larimar import algebra
from tests.golden import golden_arrays

PRIOR_VARIANCE = 1 + 1e-6
"""The reference's prior variance of each slot: exp(0) plus its epsilon."""


@pytest.fixture(scope="module")
def small() -> dict[str, torch.Tensor]:
    """The reference on K=8, C=12, N=5, two episodes B, in float64; its layout is (N, B, C)."""
    arrays = golden_arrays("memory_small.npz")
    return {name: torch.from_numpy(array).double() for name, array in arrays.items()}


@pytest.fixture(scope="module")
def oracle() -> dict[str, torch.Tensor]:
    """Direct ridge solves and weights of equations 7-8, in float64."""
    arrays = golden_arrays("oracle_eq3_8.npz")
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, rtol: float = 1e-5) -> None:
    """Equal shapes, and equal within `rtol` of the largest entry."""
    assert ours.shape == theirs.shape
    largest = float(theirs.abs().max())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=rtol * largest)


def episodes(array: torch.Tensor) -> torch.Tensor:
    """(N, B, C) of the reference as (B, N, C)."""
    return array.transpose(0, 1)


# Algorithm 1 with the reference's truncated pseudo-inverse.


@pytest.mark.parametrize("steps", [3, 7, 15])
def test_newton_closed_form_is_the_reference_s_pseudo_inverse(small, steps):
    inverse = algebra.newton_pinv_closed_form(small["small_M0"], steps)
    assert_close(inverse, small[f"small_s{steps}_pinvM0"])


@pytest.mark.parametrize("steps", [3, 7, 15])
def test_algorithm_1_writes_and_reads_as_the_reference(small, steps):
    z, query = episodes(small["small_Z"]), episodes(small["small_Q"])
    memory, w0 = algebra.episode_write(z, small["small_M0"], newton_steps=steps)
    assert_close(w0, episodes(small[f"small_s{steps}_W0"]))
    assert_close(memory, small[f"small_s{steps}_M"])
    z_read, w_read = algebra.episode_read(query, memory, newton_steps=steps)
    assert_close(z_read, episodes(small[f"small_s{steps}_zread"]))
    assert_close(w_read, episodes(small[f"small_s{steps}_wread"]))


@pytest.mark.parametrize("steps", [3, 7, 15])
def test_kl_terms_are_the_reference_s(small, steps):
    kl = algebra.kl_address(small[f"small_s{steps}_wread"])
    torch.testing.assert_close(kl, small[f"small_s{steps}_dklw"], rtol=1e-5, atol=1e-6)
    variance = torch.full((8,), PRIOR_VARIANCE, dtype=torch.float64)
    moved = algebra.kl_memory(small[f"small_s{steps}_M"], variance, small["small_M0"], variance)
    assert_close(moved.mean().reshape(1), small[f"small_s{steps}_dklM"])
    covariance = small[f"small_s{steps}_cov"]
    assert_close(covariance, torch.diag(variance).expand(2, 8, 8))


def test_kl_of_every_log_variance_setting_is_the_reference_s(small):
    for setting, shape in enumerate([(1,), (8,), (3, 2, 8), (2, 8), (3, 2, 8)]):
        logvar = small[f"small_lv{setting}_logvar"].reshape(shape)
        assert_close(
            algebra.kl_address(small["small_s15_wread"], logvar), small[f"small_lv{setting}_dklw"]
        )


def test_kl_of_memory_with_unequal_variances():
    torch.manual_seed(0)
    memory, prior = torch.randn(4, 3).double(), torch.randn(4, 3).double()
    variance, prior_variance = torch.rand(4).double() + 0.5, torch.rand(4).double() + 0.5

    def normal(mean: torch.Tensor, var: torch.Tensor) -> torch.distributions.Normal:
        return torch.distributions.Normal(mean, var.sqrt().unsqueeze(-1).expand_as(mean))

    expected = torch.distributions.kl_divergence(
        normal(memory, variance), normal(prior, prior_variance)
    ).sum()
    twice = algebra.kl_memory(memory, variance, prior, prior_variance)
    torch.testing.assert_close(twice, 2 * expected)


def test_newton_refuses_to_diverge_and_keeps_zero_at_zero():
    with pytest.raises(ValueError, match="diverges"):
        algebra.newton_pinv_closed_form(torch.eye(3) * 64, 15)
    inverse = algebra.newton_pinv_closed_form(torch.diag(torch.tensor([2.0, 0.0])), 15)
    torch.testing.assert_close(inverse, torch.diag(torch.tensor([0.5, 0.0])))


def test_newton_closed_form_is_newton_s_iteration():
    torch.manual_seed(1)
    a = torch.randn(4, 6, dtype=torch.float64)
    x = algebra.NEWTON_START * a.T
    for steps in range(1, 11):
        x = 2 * x - x @ a @ x
        assert_close(algebra.newton_pinv_closed_form(a, steps), x, rtol=1e-12)


def test_an_episode_within_k_reads_the_projection_on_its_span():
    torch.manual_seed(2)
    z, query = torch.randn(5, 12).double(), torch.randn(3, 12).double()
    projected = query @ torch.linalg.pinv(z) @ z
    for prior in (torch.randn(8, 12).double(), torch.randn(8, 12).double() * 3):
        memory, _ = algebra.episode_write(z, prior)
        assert_close(algebra.episode_read(query, memory)[0], projected, rtol=1e-9)
        assert_close(algebra.episode_read(z, memory)[0], z, rtol=1e-9)


def test_algorithm_1_has_a_gradient():
    torch.manual_seed(3)
    z = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    prior = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)

    def read_back(z: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
        return algebra.episode_read(z * 0.5, algebra.episode_write(z, prior)[0])[1]

    assert torch.autograd.gradcheck(read_back, (z, prior))


def test_a_pseudo_inverse_without_rtol_inverts_rounding_noise():
    torch.manual_seed(4)
    low_rank = torch.randn(40, 6) @ torch.randn(6, 30)
    assert float(torch.linalg.pinv(low_rank, rtol=1e-9).abs().max()) > 1e3
    assert float(algebra.pseudo_inverse(low_rank, rtol=1e-5).abs().max()) < 10


# Equations 2-4: the sequential path.


@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_equations_2_to_4_are_the_reference_s_kalman_path(small, noise):
    """Its covariance U is noise^2 C^{-1}, from C_0 = noise^2 times the prior precision."""
    z = episodes(small["small_Z"])
    memory = small["small_M0"].expand(2, 8, 12)
    precision = (noise**2 / PRIOR_VARIANCE * torch.eye(8).double()).expand(2, 8, 8)
    for step in range(z.shape[1]):
        item = z[:, step : step + 1]
        w = algebra.ridge_address(item, memory, noise)
        memory, precision = algebra.sequential_write(memory, precision, w, item, alpha=1)
        name = f"seq_n{noise}"
        assert_close(w[:, 0], small[f"{name}_W_steps"][step])
        assert_close(memory, small[f"{name}_M_steps"][step])
        covariance = noise**2 * torch.linalg.inv(precision)
        assert_close(covariance, small[f"{name}_U_steps"][step])


def recursion(rows, w, z, lam, dtype=torch.float64):
    """M and C after rows (index, alpha) one at a time, from C_0 = lam I and M_0 = 0."""
    memory = torch.zeros(w.shape[1], z.shape[1], dtype=dtype)
    c = lam * torch.eye(w.shape[1], dtype=dtype)
    for row, alpha in rows:
        one = slice(row, row + 1)
        memory, c = algebra.sequential_write(memory, c, w[one].to(dtype), z[one].to(dtype), alpha)
    return memory, c


@pytest.mark.parametrize("rows", [1, 8, 16, 40])
def test_the_recursion_from_lam_i_solves_the_oracle_s_problem(oracle, rows):
    written = [(row, 1.0) for row in range(rows)]
    w, z, lam = oracle["W"], oracle["Z"], float(oracle["lam"])
    assert_close(recursion(written, w, z, lam)[0], oracle[f"M_after_{rows}"])
    if rows > 1:
        forgotten = recursion([*written, (3, -1.0)], w, z, lam)[0]
        assert_close(forgotten, oracle[f"M_after_{rows}_forget_3"])


def test_in_float32_the_recursion_drifts_and_exact_sums_do_not():
    """Write 60 and forget all but 20 again and again: float32 wanders off, integers come back."""
    torch.manual_seed(5)
    w = torch.randn(60, 16, dtype=torch.float64) / 4
    z = torch.randn(60, 24, dtype=torch.float64) / 4
    start = [(row, 1.0) for row in range(20)]
    churn = [(row, alpha) for alpha in (1.0, -1.0) for row in range(20, 60)] * 3
    drift = []
    for dtype in (torch.float32, torch.float64):
        kept, _ = recursion(start, w, z, 1e-3, dtype)
        back, _ = recursion([*start, *churn], w, z, 1e-3, dtype)
        drift.append(float((back - kept).abs().max() / kept.abs().max()))
    assert drift[0] > 1e-6
    assert 0 < drift[1] < 1e-12

    a, v = algebra.to_fixed(w, 16), algebra.to_fixed(z, 16)
    kept_sums = algebra.exact_sums(a[:20], v[:20])
    c, b = (total.clone() for total in kept_sums)
    for row, alpha in churn:
        one = algebra.exact_sums(a[row : row + 1], v[row : row + 1])
        c, b = c + int(alpha) * one[0], b + int(alpha) * one[1]
    assert torch.equal(c, kept_sums[0]) and torch.equal(b, kept_sums[1])


def test_where_memory_interpolates_equation_4_forgets_nothing():
    """N <= K and no ridge: Z - W M is 0, so a = -1 changes nothing; exact sums do forget."""
    torch.manual_seed(6)
    w = torch.randn(8, 16, dtype=torch.float64)
    z = torch.randn(8, 24, dtype=torch.float64)
    memory = torch.linalg.pinv(w) @ z
    c = w.T @ w + 1e-3 * torch.eye(16)
    after, _ = algebra.sequential_write(memory, c, w[3:4], z[3:4], alpha=-1)
    torch.testing.assert_close(w[3:4] @ after, z[3:4], rtol=0, atol=1e-10)

    keep = [0, 1, 2, 4, 5, 6, 7]
    a, v = algebra.to_fixed(w, 16), algebra.to_fixed(z, 16)
    sums = [x - y for x, y in zip(algebra.exact_sums(a, v), algebra.exact_sums(a[3:4], v[3:4]))]
    forgotten = algebra.solve_memory(*sums, 16, 16, ridge=1e-6)
    assert float((w[3:4] @ forgotten - z[3:4]).norm() / z[3:4].norm()) > 0.3
    torch.testing.assert_close(w[keep] @ forgotten, z[keep], rtol=0, atol=1e-2)


def test_from_nothing_equation_3_has_no_inverse():
    w, z = torch.eye(3, 8).double(), torch.randn(3, 5).double()
    with pytest.raises(torch.linalg.LinAlgError):
        algebra.sequential_write(torch.zeros(8, 5).double(), torch.zeros(8, 8).double(), w, z, 1)
    memory, _ = algebra.sequential_write(
        torch.zeros(8, 5).double(), 1e-6 * torch.eye(8).double(), w, z, 1
    )
    assert_close(w @ memory, z)


# Exact sums.


@pytest.mark.parametrize("rows", [1, 8, 16, 40])
def test_exact_sums_and_one_solve_give_the_oracle_s_memory(oracle, rows):
    """Within 1e-5 of the oracle although W and Z are rounded to 2^-18 first."""
    w, z, lam = oracle["W"], oracle["Z"], float(oracle["lam"])
    bits = 18
    a, v = algebra.to_fixed(w, bits), algebra.to_fixed(z, bits)

    def solved(kept: list[int], sums: tuple[torch.Tensor, torch.Tensor]) -> None:
        ridge = lam * 16 / (float(sums[0].trace()) / 4**bits)
        name = f"M_after_{rows}" if len(kept) == rows else f"M_after_{rows}_forget_3"
        assert_close(algebra.solve_memory(*sums, bits, bits, ridge), oracle[name])

    sums = algebra.exact_sums(a[:rows], v[:rows])
    solved(list(range(rows)), sums)
    if rows > 1:
        gone = algebra.exact_sums(a[3:4], v[3:4])
        left = (sums[0] - gone[0], sums[1] - gone[1])
        kept = [row for row in range(rows) if row != 3]
        never = algebra.exact_sums(a[kept], v[kept])
        assert torch.equal(left[0], never[0]) and torch.equal(left[1], never[1])
        solved(kept, left)


def whole(shape: tuple[int, ...], limit: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-limit, limit + 1, shape, generator=generator)


def test_exact_sums_are_integer_sums_at_the_extremes():
    """Odd sums past 2^53, which no float64 holds: chunks of rows must be added as integers."""
    limit = algebra.FIXED_LIMIT - 1
    rows = 24_577
    a = torch.full((rows, 2), limit)
    a[:, 1] *= -1
    v = torch.full((rows, 1), limit)
    c, b = algebra.exact_sums(a, v)
    total = rows * limit * limit
    assert total % 2 == 1 and total > 2**54
    assert c.tolist() == [[total, -total], [-total, total]]
    assert b.tolist() == [[total], [-total]]
    a, v = whole((500, 5), limit, 7), whole((500, 3), limit, 8)
    expected = [
        [sum(x[i] * y[j] for x, y in zip(a.tolist(), v.tolist())) for j in range(3)]
        for i in range(5)
    ]
    assert algebra.exact_sums(a, v)[1].tolist() == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_exact_sums_are_the_same_on_a_gpu():
    a, v = whole((20_000, 96), algebra.FIXED_LIMIT, 9), whole((20_000, 64), algebra.FIXED_LIMIT, 10)
    on_host = algebra.exact_sums(a, v)
    on_device = algebra.exact_sums(a.cuda(), v.cuda())
    assert all(torch.equal(x, y.cpu()) for x, y in zip(on_host, on_device))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 16.1, -17.0])
def test_fixed_point_refuses_and_never_clips(bad):
    with pytest.raises(ValueError, match=r"finite|at most 16\.0"):
        algebra.to_fixed(torch.tensor([0.5, bad]), 16)


def test_fixed_point_rounds_once():
    assert algebra.to_fixed([16.0, -16.0, 0.0, 2**-17 * 3], 16).tolist() == [2**20, -(2**20), 0, 2]
    assert algebra.to_fixed(torch.empty(0, 3), 16).shape == (0, 3)


def test_empty_sums_solve_to_an_empty_memory():
    empty = torch.zeros(3, 3, dtype=torch.int64), torch.zeros(3, 2, dtype=torch.int64)
    assert algebra.solve_memory(*empty, 16, 16, 1e-3).tolist() == [[0.0, 0.0]] * 3


# Addresses.


@pytest.mark.parametrize("alpha", [0.001, 1.0])
def test_gaussian_addresses_are_equations_7_and_8(oracle, alpha):
    w = algebra.gaussian_address(oracle["gauss_z"], oracle["Mref"], alpha)
    assert_close(w, oracle[f"gauss_w_alpha{alpha}"])
    torch.testing.assert_close(w.sum(1), torch.ones(5, dtype=torch.float64))


def test_gaussian_address_of_a_reference_row_is_one_there():
    reference = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]]).double()
    w = algebra.gaussian_address(reference[:2], reference, 1e-3)
    assert w.tolist() == [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]


def test_pinv_addresses_reproduce_latents_within_the_span():
    reference = algebra.reference_memory(0, 32, 12)
    z = torch.randn(4, 12).double()
    w = algebra.pinv_address(z, reference, rtol=1e-9)
    assert_close(w @ reference, z, rtol=1e-12)
    assert_close(w, z @ torch.linalg.pinv(reference), rtol=1e-12)


def test_the_reference_memory_depends_on_its_seed_alone():
    torch.manual_seed(11)
    first = algebra.reference_memory(5, 64, 32)
    torch.manual_seed(12)
    assert torch.equal(first, algebra.reference_memory(5, 64, 32))
    assert not torch.equal(first, algebra.reference_memory(6, 64, 32))
    assert first.dtype == torch.float64 and first.shape == (64, 32)
    assert abs(float(first.mean())) < 0.1 and abs(float(first.std()) - 1) < 0.1


def test_gaussian_weights_without_torch_are_the_same(oracle):
    from larimar.rows import gaussian_weights

    for z in oracle["gauss_z"]:
        squares = ((oracle["Mref"] - z) ** 2).sum(1).numpy()
        expected = algebra.gaussian_address(z.reshape(1, -1), oracle["Mref"], 0.3)[0].numpy()
        np.testing.assert_allclose(gaussian_weights(squares, 0.3), expected, rtol=1e-9, atol=1e-300)
