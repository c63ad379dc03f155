"""The exact geometry of the NEM regions for the figures' examples, and how much noise they let through."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate
from scipy.stats import norm

from nem import theory
from nem.theory import regions
from tests.nem.theory.networks import draw

A_CLASS, Y_CLASS = torch.tensor([0.6, 0.3, 0.1]).double(), torch.tensor([1.0, 0.0, 0.0]).double()
A_REAL, Y_REAL = torch.tensor([1.0, 2.0, 1.0]).double(), torch.tensor([2.0, 3.0, 2.0]).double()
ZERO, ONE = torch.zeros(3).double(), torch.ones(3).double()
EXAMPLES = {
    "figure 1a": (regions.classifier_additive_region(A_CLASS), ZERO,
                  lambda n: theory.classifier_additive_gain(n, A_CLASS)),
    "figure 4": (regions.classifier_multiplicative_region(Y_CLASS, A_CLASS), ONE,
                 lambda n: theory.classifier_multiplicative_gain(n, Y_CLASS, A_CLASS)),
    "figure 5": (regions.regressor_additive_region(Y_REAL, A_REAL), ZERO,
                 lambda n: theory.regressor_additive_gain(n, Y_REAL, A_REAL)),
    "figure 6": (regions.regressor_multiplicative_region(Y_REAL, A_REAL), ONE,
                 lambda n: theory.regressor_multiplicative_gain(n, Y_REAL, A_REAL)),
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 3.0])
def test_regions_are_where_the_gain_is_not_negative_and_acceptance_is_exact(name, sigma):
    """Point by point; and the share of 200,000 samples within 6 standard errors (α of 2e-9)."""
    region, mean, gain = EXAMPLES[name]
    noise = mean + sigma * draw(1, 200_000, 3)
    inside = region.contains(noise)
    away = gain(noise).abs() > 1e-9
    assert ((gain(noise) >= 0) == inside)[away].all()
    assert abs(inside.double().mean().item() - region.acceptance(mean, sigma)) < 6 * 0.5 / math.sqrt(200_000)


def test_the_planes_of_figures_1a_and_4():
    """Normal log a, which halves all centred noise; and n_1 <= 1 whatever the other neurons receive."""
    additive, multiplicative = EXAMPLES["figure 1a"][0], EXAMPLES["figure 4"][0]
    torch.testing.assert_close(additive.normal, torch.tensor([-0.5108256, -1.2039728, -2.3025851]).double())
    assert [additive.acceptance(ZERO, sigma) for sigma in (0.01, 1.0, 100.0)] == [0.5, 0.5, 0.5]
    noise = 1 + draw(3, 1000, 3)
    assert torch.equal(multiplicative.contains(noise), noise[:, 0] <= 1)
    assert multiplicative.acceptance(ZERO, 1.0) == pytest.approx(norm.cdf(1.0))


def test_the_ellipsoid_of_figure_6_and_one_by_quadrature():
    """Centre a/y = (1/2, 2/3, 1/2), half-axes √3/y."""
    region = EXAMPLES["figure 6"][0]
    torch.testing.assert_close(region.centre, torch.tensor([1 / 2, 2 / 3, 1 / 2]).double())
    torch.testing.assert_close(region.axes, math.sqrt(3) / Y_REAL)
    (c, d), (a, b) = centre, axes = (0.5, 2 / 3), (0.9, 2.0)

    def column(x):
        half = b * math.sqrt(max(1 - ((x - c) / a) ** 2, 0))
        return norm.pdf(x, 1) * (norm.cdf(d + half, 1) - norm.cdf(d - half, 1))

    flat = regions.Ellipsoid(torch.tensor(centre).double(), torch.tensor(axes).double())
    inside, _ = integrate.quad(column, c - a, c + a, epsabs=1e-10)
    assert flat.acceptance(torch.ones(2).double(), 1.0) == pytest.approx(inside, abs=1e-6)


def test_regressor_additive_ball():
    """Centre a - y = (-1, -1, -1), radius √3; acceptance of N(0, I) is P(χ'²_3(3) <= 3)."""
    region = EXAMPLES["figure 5"][0]
    assert region.centre.tolist() == [-1, -1, -1]
    torch.testing.assert_close(region.axes, torch.full((3,), math.sqrt(3)).double())
    for sigma in (0.2, 1.0, 4.0):
        closed = theory.ball_acceptance((Y_REAL - A_REAL)[None], sigma).item()
        assert region.acceptance(ZERO, sigma) == pytest.approx(closed, abs=1e-7)
        assert closed < 0.5


@given(st.integers(0, 10**6), st.integers(1, 6), st.floats(0.05, 5))
def test_imhof_agrees_with_the_noncentral_chi_square(seed, K, sigma):
    residual = draw(seed, K)
    region = regions.regressor_additive_region(residual, torch.zeros(K).double())
    closed = theory.ball_acceptance(residual[None], sigma).item()
    assert region.acceptance(torch.zeros(K).double(), sigma) == pytest.approx(closed, abs=1e-6)


def test_zero_targets_have_no_ellipsoid():
    with pytest.raises(ValueError, match="expected targets that are not 0"):
        regions.regressor_multiplicative_region(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]))
