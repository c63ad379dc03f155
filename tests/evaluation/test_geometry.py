"""Figures 1(a), 4, 5, 6: what they show, and that equal seeds give equal bytes."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.evaluation import geometry
from pipeline.theory.regions import HalfSpace

EXAMPLES = {example.name: example for example in geometry.examples()}
PAGE = "figures_geometry.html"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    return geometry.draw_geometry(folder, 5)


def test_all_figures_are_there(drawn):
    names = [path.name for path in drawn]
    assert names == [f"figure_{n}{kind}.png" for n in ("1a", "4", "5", "6") for kind in ("", "_paper")] + [PAGE]
    for path in drawn[:-1]:
        assert Image.open(path).size == (832, 736)


def test_figures_are_in_their_colours(drawn):
    """Points are translucent: hues count. Orange has more green than blue, the paper's red has equally much."""
    for path in drawn[:-1]:
        red, green, blue = np.moveaxis(np.asarray(Image.open(path).convert("RGB")).astype(int), -1, 0)
        warm = red - blue > 60
        orange = (warm & (green - blue > 25)).mean()
        pure_red = (warm & (abs(green - blue) < 10)).mean()
        assert ((blue - red) > 60).mean() > 5e-4, f"{path.name}: no NEM noise"
        wanted, other = (pure_red, orange) if path.stem.endswith("_paper") else (orange, pure_red)
        assert wanted > 1e-3 > 20 * other, path.name


def test_equal_seeds_give_equal_bytes_and_others_do_not(drawn, tmp_path):
    again = geometry.draw_geometry(tmp_path / "again", 5)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in drawn]
    other = geometry.draw_geometry(tmp_path / "other", 6)
    assert all(a.read_bytes() != b.read_bytes() for a, b in zip(other, drawn, strict=True))


@pytest.mark.parametrize("name", EXAMPLES)
def test_points_of_the_surface_gain_nothing(name):
    """The drawn surface is where the gain that training uses is 0."""
    example = EXAMPLES[name]
    points = torch.as_tensor(np.stack(geometry.surface(example.region, -2, 2), -1))
    torch.testing.assert_close(example.gain(points), torch.zeros(points.shape[:-1]).double(), rtol=0, atol=1e-12)
    if isinstance(example.region, HalfSpace):
        assert points.reshape(-1, 3).std(0).gt(0.1).sum() >= 2, "a plane, not a line"


@pytest.mark.parametrize("name", EXAMPLES)
def test_share_of_kept_points_is_the_exact_acceptance(name):
    """Within 6 standard errors of 600 draws."""
    example = EXAMPLES[name]
    share, exact = (example.gain(example.noise(5)) >= 0).double().mean().item(), example.acceptance()
    assert abs(share - exact) < 6 * (exact * (1 - exact) / geometry.SAMPLES) ** 0.5


def test_the_page_needs_no_network_and_names_its_plots(drawn):
    text = drawn[-1].read_text()
    assert not re.findall(r"<(?:script|link)[^>]+(?:src|href)=", text)
    assert re.findall(r'<div id="([^"]+)" class="plotly-graph-div"', text) == list(EXAMPLES)
