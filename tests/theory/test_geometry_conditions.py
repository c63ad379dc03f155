"""The exact geometry of the NEM regions for the figures' examples, and how much noise they let through."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from pipeline import theory
from pipeline.theory import regions
from tests.theory.networks import draw

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


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_noise_lies_on_the_boundary(name):
    region, mean, gain = EXAMPLES[name]
    assert gain(mean).item() == 0
    inward = region.normal if isinstance(region, regions.HalfSpace) else region.centre - mean
    assert region.contains(mean + 1e-6 * inward)
    assert not region.contains(mean - 1e-6 * inward)


def test_classifier_additive_plane():
    """Normal log a; every n < 0 passes (all log a < 0), every n > 0 fails; the plane halves all centred noise."""
    region = EXAMPLES["figure 1a"][0]
    torch.testing.assert_close(region.normal, torch.tensor([-0.5108256, -1.2039728, -2.3025851]).double())
    assert region.offset == 0
    assert region.contains(-draw(2, 50, 3).abs()).all()
    assert not region.contains(draw(2, 50, 3).abs()).any()
    for sigma in (0.01, 1.0, 100.0):
        assert region.acceptance(ZERO, sigma) == 0.5


def test_classifier_multiplicative_plane_is_n1_at_most_one():
    region = EXAMPLES["figure 4"][0]
    noise = 1 + draw(3, 1000, 3)
    assert torch.equal(region.contains(noise), noise[:, 0] <= 1)
    assert region.acceptance(ONE, 1.0) == 0.5
    assert region.acceptance(ZERO, 1.0) == pytest.approx(norm.cdf(1.0))


def test_regressor_additive_ball():
    """Centre a - y = (-1, -1, -1), radius √3; acceptance of N(0, I) is P(χ'²_3(3) <= 3)."""
    region = EXAMPLES["figure 5"][0]
    assert region.centre.tolist() == [-1, -1, -1]
    torch.testing.assert_close(region.axes, torch.full((3,), math.sqrt(3)).double())
    for sigma in (0.2, 1.0, 4.0):
        closed = theory.ball_acceptance((Y_REAL - A_REAL)[None], sigma).item()
        assert region.acceptance(ZERO, sigma) == pytest.approx(closed, abs=1e-7)
        assert closed < 0.5


def test_regressor_multiplicative_ellipsoid():
    """Centre a/y = (1/2, 2/3, 1/2), half-axes √3/y; checked by Cartesian quadrature, slice by slice."""
    region = EXAMPLES["figure 6"][0]
    torch.testing.assert_close(region.centre, torch.tensor([1 / 2, 2 / 3, 1 / 2]).double())
    torch.testing.assert_close(region.axes, math.sqrt(3) / Y_REAL)
    c, axes = region.centre.tolist(), region.axes.tolist()

    def last(n0, n1):
        rest = 1 - ((n0 - c[0]) / axes[0]) ** 2 - ((n1 - c[1]) / axes[1]) ** 2
        half = axes[2] * math.sqrt(max(rest, 0))
        return norm.cdf(c[2] + half, 1) - norm.cdf(c[2] - half, 1)

    def density(n):
        return math.exp(-0.5 * (n - 1) ** 2) / math.sqrt(2 * math.pi)

    nodes, weights = np.polynomial.legendre.leggauss(60)
    angle = (nodes + 1) * math.pi / 4
    # Polar coordinates n = c + axis·ρ(cos φ, sin φ), ρ = sin angle, take the edge off the inner integral's square root.
    total = 0.0
    for rho, w in zip(np.sin(angle), weights * np.cos(angle) * math.pi / 4, strict=True):
        for phi in np.arange(64) * 2 * math.pi / 64:
            n0, n1 = c[0] + axes[0] * rho * math.cos(phi), c[1] + axes[1] * rho * math.sin(phi)
            total += w * rho * axes[0] * axes[1] * density(n0) * density(n1) * last(n0, n1) * 2 * math.pi / 64
    assert region.acceptance(ONE, 1.0) == pytest.approx(total, abs=1e-6)


@given(st.integers(0, 10**6), st.integers(1, 6), st.floats(0.05, 5))
def test_imhof_agrees_with_the_noncentral_chi_square(seed, K, sigma):
    residual = draw(seed, K)
    region = regions.regressor_additive_region(residual, torch.zeros(K).double())
    closed = theory.ball_acceptance(residual[None], sigma).item()
    assert region.acceptance(torch.zeros(K).double(), sigma) == pytest.approx(closed, abs=1e-6)


def test_condition_49_as_printed_is_another_region():
    """A ball through 0 that misses n = 1, where Figure 6 draws an ellipsoid; nearly all N(1, I) noise would fail it."""
    printed, right = regions.printed_multiplicative_region(Y_REAL, A_REAL), EXAMPLES["figure 6"][0]
    noise = draw(4, 20_000, 3)
    value = ((2 * Y_REAL + 2 * noise - A_REAL) * noise).sum(-1)
    assert torch.equal(printed.contains(noise), value <= 0)
    assert printed.axes.unique().numel() == 1, "a ball, not an ellipsoid"
    assert not printed.contains(ONE)
    assert right.contains(ONE - 1e-9)
    assert printed.acceptance(ONE, 1.0) < 0.02
    assert right.acceptance(ONE, 1.0) > 0.07


def test_zero_targets_have_no_ellipsoid():
    with pytest.raises(ValueError, match="expected targets that are not 0"):
        regions.regressor_multiplicative_region(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]))
