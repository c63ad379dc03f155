"""The exact geometry of the NEM regions, how much noise they let through, and the figures that show them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ncx2, norm

from nem import theory
from nem.theory import regions
from pipeline.evaluation import geometry
from tests.nem.theory.networks import draw

A_CLASS, Y_CLASS, A_REAL, Y_REAL = torch.tensor([[0.6, 0.3, 0.1], [1, 0, 0], [1, 2, 1], [2, 3, 2]], dtype=torch.float64)
EXAMPLES = {
    "figure 1a": (regions.classifier_additive_region(A_CLASS), 0,
                  lambda n: theory.classifier_additive_gain(n, A_CLASS)),
    "figure 4": (regions.classifier_multiplicative_region(Y_CLASS, A_CLASS), 1,
                 lambda n: theory.classifier_multiplicative_gain(n, Y_CLASS, A_CLASS)),
    "figure 5": (regions.regressor_additive_region(Y_REAL, A_REAL), 0,
                 lambda n: theory.regressor_additive_gain(n, Y_REAL, A_REAL)),
    "figure 6": (regions.regressor_multiplicative_region(Y_REAL, A_REAL), 1,
                 lambda n: theory.regressor_multiplicative_gain(n, Y_REAL, A_REAL)),
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("sigma", [0.1, 1.0, 3.0])
def test_regions_are_where_the_gain_is_not_negative_and_acceptance_is_exact(name, sigma):
    """Point by point; and the share of 200,000 samples within 6 standard errors (α of 2e-9)."""
    region, none, gain = EXAMPLES[name]
    mean = torch.full((3,), none).double()
    noise = mean + sigma * draw(1, 200_000, 3)
    inside = region.contains(noise)
    away = gain(noise).abs() > 1e-9
    assert ((gain(noise) >= 0) == inside)[away].all()
    assert abs(inside.double().mean().item() - region.acceptance(mean, sigma)) < 6 * 0.5 / math.sqrt(200_000)


def test_the_shapes_of_the_figures():
    """Normals log a and y∘log a; a ball around a - y with radius √3; an ellipsoid around a/y with half-axes √3/y."""
    additive, multiplicative, ball, ellipsoid = (region for region, *_ in EXAMPLES.values())
    torch.testing.assert_close(additive.normal, torch.tensor([-0.5108256, -1.2039728, -2.3025851]).double())
    torch.testing.assert_close(multiplicative.normal, torch.tensor([-0.5108256, 0, 0]).double())
    assert multiplicative.acceptance(torch.zeros(3).double(), 1.0) == pytest.approx(norm.cdf(1.0))
    assert ball.centre.tolist() == [-1, -1, -1]
    assert ball.axes.tolist() == pytest.approx([math.sqrt(3)] * 3)
    assert ellipsoid.centre.tolist() == pytest.approx([1 / 2, 2 / 3, 1 / 2])
    torch.testing.assert_close(ellipsoid.axes, math.sqrt(3) / Y_REAL)
    with pytest.raises(ValueError, match="expected targets that are not 0"):
        regions.regressor_multiplicative_region(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]))


@given(st.integers(0, 10**6), st.integers(1, 6), st.floats(0.05, 5))
def test_imhof_agrees_with_the_noncentral_chi_square(seed, K, sigma):
    residual = draw(seed, K)
    region = regions.regressor_additive_region(residual, torch.zeros(K).double())
    at = (residual.norm() / sigma).square().item()
    closed = ncx2.cdf(at, K, at)
    assert region.acceptance(torch.zeros(K).double(), sigma) == pytest.approx(closed, abs=1e-6)
    assert closed < 0.5 + 1e-12


GAINS = {name.replace(" ", "_"): gain for name, (_, _, gain) in EXAMPLES.items()}


def test_figures_show_both_kinds_of_noise_and_equal_seeds_give_equal_bytes(tmp_path):
    drawn, again, other = (
        geometry.draw_geometry(tmp_path / to, seed) for to, seed in zip("abc", (5, 5, 6), strict=True)
    )
    assert [picture.file.name for picture in drawn] == [f"{name}.png" for name in GAINS]
    assert [picture.data for picture in drawn] == [picture.data for picture in again]
    for picture, another in zip(drawn, other, strict=True):
        assert picture.data != another.data
        red, blue = np.asarray(Image.open(picture.file).convert("RGB")).astype(int)[..., [0, 2]].transpose(2, 0, 1)
        assert (blue - red > 60).mean() > 5e-4, "NEM noise"
        assert (red - blue > 60).mean() > 5e-4, "noise that fails the test"


@pytest.mark.parametrize("name", GAINS)
def test_points_of_the_surface_gain_nothing(name):
    """The drawn surface, which is none of lines, is where the gain that training uses is 0."""
    _, _, region = geometry.examples()[name]
    points = torch.as_tensor(geometry.surface(region, -2, 2)).reshape(3, -1).T
    torch.testing.assert_close(GAINS[name](points), torch.zeros(len(points)).double(), rtol=0, atol=1e-12)
    assert (points.std(0) > 0.1).sum() >= 2
