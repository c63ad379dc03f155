"""Importance-sampled Q and Q_N (63)-(70) against the enumeration."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nem import theory
from nem.theory import gem, montecarlo, recursions
from tests.nem.theory.networks import draw, parameters


def slice_of(cell, seed=5, J=2, B=3, head="softmax"):
    """The last slice of a small recurrent network: what Q needs, for the prior's samples or all states."""
    p, x = parameters(cell, seed, J=J), draw(seed + 1, 3, B, 2)
    y = torch.softmax(draw(seed + 2, 3, B, 2), -1)
    steps = recursions.forward(x, p)
    logit = gem.gate_logits(steps[2])

    def likelihood(z):
        return gem.log_likelihood(y[2], gem.gated_score(p, steps[1], x[2], z), head)

    return logit, likelihood, gem.gate_table(p, x, y, head, 3)


def sample(logit, count, generator):
    """z ~ p(z | x): (count, *logit.shape)."""
    uniform = torch.rand(count, *logit.shape, generator=generator, dtype=logit.dtype)
    return (uniform < torch.sigmoid(logit)).to(logit.dtype)


def estimate(logit, likelihood, z):
    actual = likelihood(z)
    return montecarlo.surrogate(actual, z, logit, actual)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_error_falls_with_the_root_of_the_number_of_samples(cell):
    """Root mean squared error of Q against the enumeration, over 6 octaves: slope -1/2 in log-log."""
    logit, likelihood, joint = slice_of(cell)
    exact = gem.surrogate(joint, joint)
    generator = torch.Generator().manual_seed(1)
    counts, repeats = [2**k for k in range(5, 12)], 300
    errors = []
    for count in counts:
        z = sample(logit.expand(repeats, *logit.shape), count, generator)
        errors.append((estimate(logit, likelihood, z) - exact).square().mean().sqrt().log().item())
    at = torch.tensor(counts, dtype=torch.float64).log()
    at, errors = at - at.mean(), torch.tensor(errors, dtype=torch.float64)
    slope = (at * errors).sum() / at.square().sum()
    assert abs(slope + 0.5) < 0.05, f"slope {slope:.3f}"


@pytest.mark.parametrize("head", ["softmax", "identity"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_many_samples_find_q_log_p_and_the_posterior_mean(cell, head):
    logit, likelihood, joint = slice_of(cell, head=head)
    z = sample(logit, 200_000, torch.Generator().manual_seed(2))
    actual = likelihood(z)
    torch.testing.assert_close(estimate(logit, likelihood, z), gem.surrogate(joint, joint), rtol=0, atol=0.03)
    torch.testing.assert_close(montecarlo.log_evidence(actual), gem.log_evidence(joint), rtol=0, atol=0.02)
    weight = montecarlo.log_weights(actual).exp()
    mean = (weight[..., None] * z).sum(0)
    exact = (gem.log_posterior(joint).exp()[..., None] * gem.states(logit.shape[-1])[:, None]).sum(0)
    torch.testing.assert_close(mean, exact, rtol=0, atol=0.02)


@given(seed=st.integers(0, 10**6))
def test_enumerated_states_weighted_by_their_prior_are_exact(seed):
    """With all states as samples and the prior in the weights, (68) is no estimate at all."""
    logit, likelihood, joint = slice_of("gru", seed)
    z = gem.states(logit.shape[-1])[:, None].expand(-1, len(logit), -1)
    actual = montecarlo.surrogate(likelihood(z) + gem.log_prior(z, logit), z, logit, likelihood(z))
    torch.testing.assert_close(actual, gem.surrogate(joint, joint))


@given(seed=st.integers(0, 10**6), M=st.integers(1, 20))
def test_noise_benefit_is_the_difference_of_the_two_surrogates(seed, M):
    logit, likelihood, _ = slice_of("lstm", seed % 7)
    z = sample(logit, M, torch.Generator().manual_seed(seed))
    actual, n = likelihood(z), 0.3 * draw(seed, 1, *logit.shape)
    for increment in (n.expand_as(z), z * n):
        difference = montecarlo.noisy_surrogate(actual, z + increment, logit, actual) - montecarlo.surrogate(
            actual, z, logit, actual
        )
        torch.testing.assert_close(montecarlo.noise_benefit(actual, z, logit, increment), difference)


@given(seed=st.integers(0, 10**6))
def test_noise_benefit_is_the_gain_of_the_theorems(seed):
    """Additive: Theorems 4, 5 whatever the samples. Multiplicative: Corollaries 3, 4 with the posterior mean of z."""
    logit, likelihood, _ = slice_of("gru", seed % 7)
    z = sample(logit, 9, torch.Generator().manual_seed(seed))
    actual, n, g = likelihood(z), draw(seed, 1, *logit.shape), torch.sigmoid(logit)
    torch.testing.assert_close(montecarlo.noise_benefit(actual, z, logit, n), theory.gate_additive_gain(n[0], g))
    mean = (montecarlo.log_weights(actual).exp()[..., None] * z).sum(0)
    torch.testing.assert_close(
        montecarlo.noise_benefit(actual, z, logit, z * n), theory.gate_multiplicative_gain(n[0] + 1, mean, g)
    )


def test_extreme_likelihoods_stay_finite():
    likelihood = torch.tensor([[-1e5, 3e4], [-1e5 - 1, -1e6]], dtype=torch.float64)
    logit, z = torch.tensor([[300.0], [-300.0]]).double(), torch.tensor([[[1.0], [1.0]], [[0.0], [0.0]]]).double()
    for value in (
        montecarlo.surrogate(likelihood, z, logit, likelihood),
        montecarlo.log_evidence(likelihood),
        montecarlo.effective_sample_size(likelihood),
    ):
        assert value.isfinite().all()
    assert montecarlo.log_weights(likelihood).exp().sum(0).tolist() == pytest.approx([1.0, 1.0])


@given(st.integers(0, 10**6), st.integers(1, 50))
def test_effective_sample_size_lies_between_one_and_all(seed, M):
    actual = montecarlo.effective_sample_size(3 * draw(seed, M, 4))
    assert ((actual > 1 - 1e-9) & (actual < M + 1e-9)).all()
    torch.testing.assert_close(montecarlo.effective_sample_size(torch.full((M, 2), -7.0)), torch.full((2,), float(M)))


def test_no_samples_and_misfit_increments_are_errors():
    with pytest.raises(ValueError, match="expected at least one sample"):
        montecarlo.log_weights(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="expected increments"):
        montecarlo.noise_benefit(torch.zeros(2, 3), torch.zeros(2, 3, 4), torch.zeros(3, 4), torch.zeros(4))
