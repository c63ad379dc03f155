"""Statistics with known answers; scipy and statsmodels are the oracles."""

import itertools
import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from pipeline.common import seeds
from pipeline.evaluation import statistics
from pipeline.evaluation.statistics import Bootstrap, Interval
from tests.conftest import refused

FLOATS = st.lists(st.floats(-100, 100), min_size=2, max_size=8)
COUNTS = st.lists(st.integers(-50, 50), min_size=2, max_size=8)
BOOTSTRAP = Bootstrap(0.9, 300, 1)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(FLOATS, st.sampled_from([0.5, 0.9, 0.95, 0.99]), st.sampled_from([101, 400, 1000]), st.integers(0, 9))
def test_an_interval_is_that_of_scipys_bootstrap(values, confidence, resamples, seed):
    result = Bootstrap(confidence, resamples, seed).mean(values)
    assert result.mean == pytest.approx(np.mean(values))
    assert result == Bootstrap(confidence, resamples, seed).mean(values)
    if np.ptp(values) == 0:
        assert result.low == result.high == values[0]
        return
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=resamples, confidence_level=confidence, method="percentile",
        rng=seeds.numpy_generator(seed, "bootstrap", len(values)),
    ).confidence_interval  # fmt: skip
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high), rel=1e-12, abs=1e-12)


def test_intervals_cover_as_often_as_they_say():
    """That of a mean is scipy's; coverage of a 90 % percentile interval is known to lie a little below 0.90."""
    random = np.random.default_rng(0)
    gaps = [Bootstrap(0.9, 400, k).difference(random.normal(size=12), random.normal(1, size=12)) for k in range(300)]
    assert 0.80 < np.mean([interval.low <= -1 <= interval.high for interval in gaps]) < 0.96


def test_small_samples():
    nothing, empty, zeros = Interval(None, None, None, 0), np.ones(0), np.zeros(3)
    assert [BOOTSTRAP.mean(empty), BOOTSTRAP.difference(empty, zeros), BOOTSTRAP.median(empty)] == [nothing] * 3
    assert BOOTSTRAP.mean([3.0, math.nan]) == Interval(3.0, None, None, 1)
    assert BOOTSTRAP.mean([3.0, 3.0]) == Interval(3.0, 3.0, 3.0, 2)
    assert BOOTSTRAP.difference(np.array([1, math.nan]), zeros) == Interval(1.0, None, None, 1)
    assert BOOTSTRAP.median(np.array([10.0])) == Interval(10.0, None, None, 1)
    assert [statistics.sign_flip_p_value(values) for values in ([1, 2, 3], [1], [0, 0])] == [0.25, None, 1]
    assert statistics.holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert [statistics.holm(values) for values in ([None], [])] == [[None], []]


FINITE = r"expected .* finite differences, found .*; leave failed repetitions out"
P_VALUE = r"expected p-values in .0, 1., found .*; use None where there was no test"


def test_what_is_out_of_range_is_refused():
    for bad in ([1.0, math.nan], [math.inf], [[1.0, 2.0]], 1.0):
        refused(ValueError, FINITE, statistics.sign_flip_p_value, bad)
    for bad in (-0.1, 1.1, math.nan):
        refused(ValueError, P_VALUE, statistics.holm, [0.5, None, bad])
    refused(ValueError, FINITE, statistics.step_down, np.array([[1.0, math.nan]]))


@given(COUNTS, st.sampled_from([1, 3, 10, 52, 195]))
def test_the_sign_flip_test_is_the_enumeration(counts, clips):
    """Also where differences are those of accuracies, whose ties round-off would break."""
    sums = [sum(np.multiply(counts, signs)) for signs in itertools.product((1, -1), repeat=len(counts))]
    expected = np.mean([abs(value) >= abs(sum(counts)) for value in sums])
    assert statistics.sign_flip_p_value([(100 + value) / clips - 100 / clips for value in counts]) == expected


@given(FLOATS, st.floats(1e-200, 1e200), st.randoms(use_true_random=False))
def test_a_p_value_knows_neither_order_nor_direction_nor_unit(values, unit, random):
    values = [round(value, 3) for value in values]
    result = statistics.sign_flip_p_value(values)
    assert 2 / 2 ** len(values) <= result <= 1
    assert statistics.sign_flip_p_value(random.sample(values, len(values))) == result
    assert statistics.sign_flip_p_value([-unit * value for value in values]) == result


def test_beyond_the_exact_test_patterns_are_drawn():
    assert statistics.EXACT_PAIRS < 60
    data = np.where(np.arange(60) < 23, -0.1, 0.1)
    expected = stats.binomtest(23, 60).pvalue
    error = math.sqrt(expected * (1 - expected) / statistics.DRAWS)
    assert statistics.sign_flip_p_value(data) == pytest.approx(expected, abs=4 * error)
    assert statistics.sign_flip_p_value(data) == statistics.sign_flip_p_value(data)
    assert statistics.sign_flip_p_value(np.ones(60)) == 1 / (statistics.DRAWS + 1)


@given(P_VALUES)
def test_holm_is_that_of_statsmodels(p_values):
    with mock.patch("gc.collect"):  # which the oracle calls every time
        assert statistics.holm(p_values) == multipletests(p_values, method="holm")[1].tolist()


@given(st.lists(st.lists(st.integers(-20, 20), min_size=3, max_size=3), min_size=2, max_size=7))
def test_the_step_down_test_is_the_enumeration(rows):
    """Single-step p-values of what is left, column after column, never below the one before."""
    data = np.array(rows, float)
    norms = np.sqrt((data**2).sum(0))
    patterns = np.array(list(itertools.product((1, -1), repeat=len(data)))) @ (data / np.where(norms > 0, norms, 1))
    observed, expected, least = np.abs(patterns[0]), np.zeros(3), 0.0
    order = sorted(range(3), key=lambda k: -observed[k])
    for place, k in enumerate(order):
        least = max(least, (np.abs(patterns[:, order[place:]]).max(1) >= observed[k] - 1e-9).mean())
        expected[k] = least
    assert statistics.step_down(data) == pytest.approx(expected)


def test_step_down_is_the_sign_flip_test_of_one_column_and_copies_cost_nothing():
    data = np.random.default_rng(0).normal(0.4, 1, (12, 6)) + np.random.default_rng(1).normal(0, 1, (12, 1))
    alone = np.array([statistics.sign_flip_p_value(column) for column in data.T])
    assert (alone <= statistics.step_down(data)).all()
    assert statistics.step_down(np.repeat(data[:, :1], 5, axis=1)) == pytest.approx([alone[0]] * 5)
    many = np.random.default_rng(2).normal(0.3, 1, (30, 1))
    assert statistics.step_down(many) == pytest.approx([statistics.sign_flip_p_value(many[:, 0])], abs=0.005)


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=12), st.floats(0.05, 2))
def test_equivalence_is_the_test_of_statsmodels(values, margin):
    data = np.array(values) + np.linspace(0, 0.1, len(values))
    expected = DescrStatsW(data).ttost_mean(-margin, margin)[0]
    assert statistics.equivalence(data, margin) == pytest.approx(expected, rel=1e-6)
    assert [statistics.equivalence(np.full(3, value * margin), margin) for value in (0, 0.5, -1, 2)] == [0, 0, 1, 1]


def test_what_can_be_detected_is_detected_as_often_as_asked_for():
    random = np.random.default_rng(0)
    size = statistics.detectable(np.array([-1.0, 1.0] * 15), 0.05)
    found = [stats.ttest_1samp(random.normal(size, np.std([-1, 1] * 15, ddof=1), 30), 0).pvalue for _ in range(2000)]
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.8, abs=0.03)


def test_studentised_intervals_of_few_skewed_values_cover_better_than_percentiles():
    random = np.random.default_rng(0)
    samples = random.lognormal(0, 0.5, (400, 10))
    both = [(Bootstrap(0.95, 999, k).mean(s), Bootstrap(0.95, 999, k).studentised(s)) for k, s in enumerate(samples)]
    percentile, studentised = ([i.low <= np.exp(0.125) <= i.high for i in own] for own in zip(*both, strict=True))
    assert np.mean(percentile) < 0.91
    assert 0.92 < np.mean(studentised) < 0.98
    assert BOOTSTRAP.studentised([1.0, 2.0]).high == math.inf
    assert BOOTSTRAP.studentised([3.0, 3.0]) == Interval(3.0, 3.0, 3.0, 2)


def test_verdicts():
    differing = [statistics.verdict(gain, p, 0.9) for gain, p in ((0.3, 0.01), (-0.3, 0.01), (0.3, 0.2))]
    assert differing == ["supported", "opposite", "undecided"]
    assert [statistics.verdict(0.01, p, 0.01) for p in (0.01, 0.6)] == ["practically none"] * 2


def curve(*values):
    return np.array(values, dtype=float)


def test_speed_ups_place_first_late_and_never():
    baseline = [curve(9, 4, 3, 2, 1)] * 3  # R = 4: the loss to reach is 1
    losses = [curve(9, 1, 5, 5, 5, 5, 5), curve(9, 8, 7, 6, 5, 4, 1), curve(9, 8, 7, 6, 5, 4, 3)]
    result = statistics.speed_up(losses, baseline, 4, 6)
    assert result.percent.tolist() == [75.0, -50.0, -math.inf]
    summary = result.summary(BOOTSTRAP)
    assert [summary[name] for name in ("mean", "n", "median", "censored", "censored_below")] == [None, 3, -50, 1, -50]
    assert statistics.speed_up(losses[2:] * 2 + losses[:1], baseline, 4, 6).summary(BOOTSTRAP)["median"] is None
    assert statistics.speed_up([curve(9, 4, 3, 2, 1, 1, 1)], baseline[:1], 4, 6).percent.tolist() == [0.0]
    # Epoch 0 is no epoch, and a failed baseline gives nothing.
    assert statistics.speed_up([curve(0, 5, 5)], [curve(9, 2, 1)], 2, 2).percent.tolist() == [-math.inf]
    assert len(statistics.speed_up([curve(1, 1, 1)], [curve(9, 2)], 2, 2).percent) == 0


@given(st.lists(st.integers(-50, 90), min_size=2, max_size=9), st.integers(0, 9))
def test_a_medians_interval_holds_what_is_placed_and_what_is_censored(percent, censored):
    values = np.array(percent, dtype=float)
    values[: min(censored, len(values))] = -np.inf
    result = BOOTSTRAP.median(values)
    assert values.min() <= result.low <= result.high <= values.max()
    assert result == BOOTSTRAP.median(values)
    # Where a bare majority is censored, the interval says so at its lower end.
    if result.mean == -math.inf:
        assert result.low == -math.inf
