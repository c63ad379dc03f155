"""Importance-sampled Q and Q_N (63)-(70) against the enumeration."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nem import theory
from nem.theory import gem, montecarlo, recursions
from tests.nem.theory.networks import CELLS, draw, parameters

SEEDS = st.integers(0, 10**6)


def slice_of(cell, seed=5, J=2, B=3):
    """The last slice of a small recurrent network: logit g, log p(y | z) as a function of z, the table."""
    p, x, y = parameters(cell, seed, J=J), draw(seed + 1, 3, B, 2), torch.softmax(draw(seed + 2, 3, B, 2), -1)
    steps = recursions.forward(x, p)

    def likelihood(z):
        return gem.log_likelihood(y[2], gem.gated_score(p, steps[1], x[2], z), "softmax")

    return gem.gate_logits(steps[2]), likelihood, gem.gate_table(p, x, y, "softmax", 3)


def sample(logit, count, generator):
    """z ~ p(z | x): (count, *logit.shape)."""
    uniform = torch.rand(count, *logit.shape, generator=generator, dtype=logit.dtype)
    return (uniform < torch.sigmoid(logit)).to(logit.dtype)


def every_state(logit):
    return gem.states(logit.shape[-1])[:, None].expand(-1, len(logit), -1)


@pytest.mark.parametrize("noise", [0.0, 0.5], ids=["Q", "Q_N"])
@pytest.mark.parametrize("cell", CELLS)
def test_error_falls_with_the_root_of_the_number_of_samples(cell, noise):
    """Root mean squared error of Q, Q_N against the enumeration, over 6 octaves: slope -1/2 in log-log."""
    logit, likelihood, joint = slice_of(cell)
    n, z = noise * draw(3, *logit.shape), every_state(logit)
    exact = (gem.log_posterior(joint).exp() * (gem.log_prior(z + n, logit) + likelihood(z))).sum(0)
    generator, repeats, errors = torch.Generator().manual_seed(1), 300, []
    for octave in range(5, 12):
        z = sample(logit.expand(repeats, *logit.shape), 2**octave, generator)
        estimate = montecarlo.surrogate(likelihood(z), z + n, logit, likelihood(z))
        errors.append((estimate - exact).square().mean().sqrt().log2().item())
    slope = np.polyfit(range(5, 12), errors, 1)[0]
    assert abs(slope + 0.5) < 0.05, f"slope {slope:.3f}"


@pytest.mark.parametrize("cell", CELLS)
@given(seed=SEEDS, M=st.integers(1, 20))
def test_noise_benefit_is_the_gain_of_the_theorems(cell, seed, M):
    """Q_N - Q. Additive: Theorems 4, 5 whatever z is. Multiplicative: Corollaries 3, 4 with z's posterior mean."""
    logit, likelihood, _ = slice_of(cell, seed % 7)
    z = sample(logit, M, torch.Generator().manual_seed(seed))
    actual, n, g = likelihood(z), draw(seed, 1, *logit.shape), torch.sigmoid(logit)
    mean = (montecarlo.log_weights(actual).exp()[..., None] * z).sum(0)
    gains = theory.gate_additive_gain(n[0], g), theory.gate_multiplicative_gain(n[0] + 1, mean, g)
    for increment, gain in zip((n, z * n), gains, strict=True):
        benefit = montecarlo.noise_benefit(actual, z, logit, increment)
        torch.testing.assert_close(benefit, gain)
        q_n, q = (montecarlo.surrogate(actual, latent, logit, actual) for latent in (z + increment, z))
        torch.testing.assert_close(benefit, q_n - q)


def test_extreme_likelihoods_stay_finite():
    likelihood = torch.tensor([[-1e5, 3e4], [-1e5 - 1, -1e6]], dtype=torch.float64)
    logit, z = torch.tensor([[300.0], [-300.0]]).double(), torch.tensor([[[1.0], [1.0]], [[0.0], [0.0]]]).double()
    assert montecarlo.surrogate(likelihood, z, logit, likelihood).isfinite().all()
    torch.testing.assert_close(montecarlo.log_weights(likelihood).exp().sum(0), torch.ones(2).double())


def test_no_samples_and_misfit_increments_are_errors():
    with pytest.raises(ValueError, match="expected at least one sample"):
        montecarlo.log_weights(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="expected increments"):
        montecarlo.noise_benefit(torch.zeros(2, 3), torch.zeros(2, 3, 4), torch.zeros(3, 4), torch.zeros(4))
