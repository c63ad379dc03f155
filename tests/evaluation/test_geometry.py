"""Figures 1(a), 4, 5, 6: what they show, and that equal seeds give equal bytes."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.evaluation import geometry
from tests.nem.theory.test_geometry_conditions import EXAMPLES

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
