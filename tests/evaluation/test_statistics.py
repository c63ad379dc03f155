"""Statistics with known answers."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation import statistics

FLOATS = st.lists(st.floats(-100, 100), min_size=2, max_size=8)


@given(FLOATS)
def test_an_interval_holds_its_mean_and_stays_within_the_data(values):
    found = statistics.mean_interval(values, 0.95, 200, 1)
    assert found.mean == pytest.approx(np.mean(values))
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
    assert found == statistics.mean_interval(values, 0.95, 200, 1)


def test_intervals_cover_as_often_as_they_say():
    """400 samples of 10: coverage of a 90 % percentile interval is known to lie a little below 0.90."""
    random = np.random.default_rng(0)
    covered = 0
    for seed in range(400):
        found = statistics.mean_interval(random.normal(size=10), 0.9, 400, seed)
        covered += found.low <= 0 <= found.high
    assert 0.78 < covered / 400 < 0.95


def test_small_samples():
    assert statistics.mean_interval([], 0.9, 100, 1) == statistics.Interval(None, None, None, 0)
    assert statistics.mean_interval([3.0], 0.9, 100, 1) == statistics.Interval(3.0, None, None, 1)
    assert statistics.mean_interval([3.0, 3.0], 0.9, 100, 1) == statistics.Interval(3.0, 3.0, 3.0, 2)


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=8))
def test_the_sign_flip_test_is_the_enumeration(differences):
    data = np.array(differences, dtype=float)
    observed = abs(data.mean())
    signs = itertools.product((1, -1), repeat=len(data))
    means = [abs((data * np.array(s)).mean()) for s in signs]
    expected = np.mean([m >= observed - 1e-12 for m in means])
    assert statistics.sign_flip_p_value(data) == pytest.approx(expected)


def test_its_smallest_p_value_is_known():
    assert statistics.sign_flip_p_value(np.arange(1, 11)) == pytest.approx(2 / 1024)
    assert statistics.sign_flip_p_value([1.0, 2.0, 3.0]) == 0.25
    assert statistics.sign_flip_p_value([1.0]) is None
    assert statistics.sign_flip_p_value([0.0, 0.0]) == 1.0


def test_holm_keeps_places_and_known_values():
    assert statistics.holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06], nan_ok=True)
    assert statistics.holm([None]) == [None]


def curve(*values):
    return np.array(values, dtype=float)


def test_speed_ups_place_first_late_and_never():
    baseline = [curve(9, 4, 3, 2, 1)] * 3  # R = 4: the loss to reach is 1
    losses = [curve(9, 1, 5, 5, 5, 5, 5), curve(9, 8, 7, 6, 5, 4, 1), curve(9, 8, 7, 6, 5, 4, 3)]
    found = statistics.speed_up(losses, baseline, 4, 6)
    assert found.percent.tolist() == [75.0, -50.0, -math.inf]
    assert found.bound == -50.0
    assert found.censored == 1
    assert found.median == -50.0
    assert found.text() == "-50 %"
    worse = statistics.speed_up(losses[2:] * 2 + losses[:1], baseline, 4, 6)
    assert worse.median == -math.inf
    assert worse.text() == "< -50 %"
    assert statistics.speed_up([curve(9, 4, 3, 2, 1, 1, 1)], baseline[:1], 4, 6).percent.tolist() == [0.0]


def test_epoch_zero_is_no_epoch_and_a_failed_baseline_gives_nothing():
    assert statistics.speed_up([curve(0, 5, 5)], [curve(9, 2, 1)], 2, 2).percent.tolist() == [-math.inf]
    assert len(statistics.speed_up([curve(1, 1, 1)], [curve(9, 2)], 2, 2).percent) == 0


@given(st.lists(st.integers(-50, 90), min_size=2, max_size=9), st.integers(0, 9))
def test_a_medians_interval_holds_what_is_placed_and_what_is_censored(percent, censored):
    values = np.array(percent, dtype=float)
    values[: min(censored, len(values))] = -np.inf
    found = statistics.SpeedUp(values, -50.0)
    low, high = found.median_interval(0.95, 300, 1)
    assert values.min() <= low <= high <= values.max()
    assert (low, high) == found.median_interval(0.95, 300, 1)
    if found.censored == len(values):
        assert (low, high) == (-math.inf, -math.inf)
    # Where a bare majority is censored, the interval says so at its lower end.
    if found.median == -math.inf:
        assert low == -math.inf


def test_a_single_speed_up_has_no_interval():
    assert statistics.SpeedUp(np.array([10.0]), -50.0).median_interval(0.95, 100, 1) is None
