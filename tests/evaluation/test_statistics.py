"""Statistics with known answers; scipy and statsmodels are the oracles."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from pipeline import seeds
from pipeline.evaluation import statistics

FLOATS = st.lists(st.floats(-100, 100), min_size=2, max_size=8)
COUNTS = st.lists(st.integers(-50, 50), min_size=2, max_size=8)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(FLOATS)
def test_an_interval_holds_its_mean_and_stays_within_the_data(values):
    found = statistics.mean_interval(values, 0.95, 200, 1)
    assert found.mean == pytest.approx(np.mean(values))
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
    assert found == statistics.mean_interval(values, 0.95, 200, 1)


@given(FLOATS, st.sampled_from([0.5, 0.9, 0.95, 0.99]), st.sampled_from([101, 400, 1000]), st.integers(0, 9))
def test_an_interval_is_that_of_scipys_bootstrap(values, confidence, resamples, seed):
    found = statistics.mean_interval(values, confidence, resamples, seed)
    if np.ptp(values) == 0:
        assert found.low == found.high == values[0]
        return
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=resamples, confidence_level=confidence, method="percentile",
        rng=seeds.numpy_generator(seed, "bootstrap", len(values)),
    ).confidence_interval  # fmt: skip
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12, abs=1e-12)


@given(FLOATS, st.floats(-100, 100), st.floats(-10, 10))
def test_an_interval_moves_and_stretches_with_its_values(values, shift, scale):
    before = statistics.mean_interval(values, 0.9, 200, 1)
    after = statistics.mean_interval(np.array(values) * scale + shift, 0.9, 200, 1)
    ends = sorted((before.low * scale + shift, before.high * scale + shift))
    assert (after.mean, after.low, after.high) == pytest.approx((before.mean * scale + shift, *ends), abs=1e-9)


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


@pytest.mark.parametrize("values", [[1.0, math.nan], [math.inf], [[1.0, 2.0]], 1.0])
def test_values_that_are_no_row_of_finite_numbers_are_refused(values):
    for refuses in (statistics.sign_flip_p_value, lambda each: statistics.mean_interval(each, 0.9, 100, 1)):
        with pytest.raises(ValueError, match=r"expected .* finite values, found .*; leave failed repetitions out"):
            refuses(values)


@pytest.mark.parametrize(("confidence", "resamples"), [(0.0, 100), (1.0, 100), (math.nan, 100), (0.9, 0)])
def test_levels_and_resamples_out_of_range_are_refused(confidence, resamples):
    with pytest.raises(ValueError, match=r"expected a confidence level in .* found .* params.yaml"):
        statistics.mean_interval([1.0, 2.0], confidence, resamples, 1)


@given(COUNTS, st.sampled_from([1, 3, 10, 52, 195]))
def test_the_sign_flip_test_is_the_enumeration(counts, clips):
    """Also where differences are those of accuracies, whose ties round-off would break."""
    sums = [sum(np.multiply(counts, signs)) for signs in itertools.product((1, -1), repeat=len(counts))]
    expected = np.mean([abs(each) >= abs(sum(counts)) for each in sums])
    assert statistics.sign_flip_p_value([(100 + each) / clips - 100 / clips for each in counts]) == expected


@given(COUNTS)
def test_the_sign_flip_test_is_scipys(counts):
    data = np.array(counts, dtype=float)
    expected = stats.permutation_test(
        (data,), lambda x, axis: x.sum(axis), permutation_type="samples", vectorized=True, n_resamples=np.inf
    )
    assert statistics.sign_flip_p_value(data) == expected.pvalue


@given(FLOATS, st.floats(1e-200, 1e200), st.randoms(use_true_random=False))
def test_a_p_value_knows_neither_order_nor_direction_nor_unit(values, unit, random):
    values = [round(each, 3) for each in values]
    found = statistics.sign_flip_p_value(values)
    assert 2 / 2 ** len(values) <= found <= 1
    assert statistics.sign_flip_p_value(random.sample(values, len(values))) == found
    assert statistics.sign_flip_p_value([-unit * each for each in values]) == found


@given(st.integers(2, 40), st.integers(0, 40))
@settings(max_examples=30)
def test_for_equal_sizes_it_is_the_sign_test(pairs, negative):
    data = np.where(np.arange(pairs) < negative, -0.1, 0.1)
    expected = stats.binomtest(min(negative, pairs), pairs).pvalue
    assert statistics.sign_flip_p_value(data) == pytest.approx(expected, rel=1e-9)


def test_beyond_the_exact_test_patterns_are_drawn():
    assert statistics.EXACT_PAIRS < 60
    data = np.where(np.arange(60) < 23, -0.1, 0.1)
    expected = stats.binomtest(23, 60).pvalue
    error = math.sqrt(expected * (1 - expected) / statistics.DRAWS)
    assert statistics.sign_flip_p_value(data) == pytest.approx(expected, abs=4 * error)
    assert statistics.sign_flip_p_value(data) == statistics.sign_flip_p_value(data)
    assert statistics.sign_flip_p_value(np.ones(60)) == 1 / (statistics.DRAWS + 1)


def test_its_smallest_p_value_is_known():
    assert statistics.sign_flip_p_value(np.arange(1, 11)) == pytest.approx(2 / 1024)
    assert statistics.sign_flip_p_value([1.0, 2.0, 3.0]) == 0.25
    assert statistics.sign_flip_p_value([1.0]) is None
    assert statistics.sign_flip_p_value([0.0, 0.0]) == 1.0


def test_holm_keeps_places_and_known_values():
    assert statistics.holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06], nan_ok=True)
    assert statistics.holm([None]) == [None]
    assert statistics.holm([]) == []


@settings(max_examples=10)  # the oracle collects garbage at every call
@given(P_VALUES)
def test_holm_is_that_of_statsmodels(p_values):
    assert statistics.holm(p_values) == multipletests(p_values, method="holm")[1].tolist()


@given(P_VALUES, st.randoms(use_true_random=False))
def test_holm_does_not_depend_on_order_and_keeps_it(p_values, random):
    adjusted = statistics.holm(p_values)
    mixed = random.sample(range(len(p_values)), len(p_values))
    assert statistics.holm([p_values[k] for k in mixed]) == [adjusted[k] for k in mixed]
    assert all(p <= q <= min(1, len(p_values) * p) for p, q in zip(p_values, adjusted, strict=True))
    ordered = sorted(zip(p_values, adjusted, strict=True))
    assert [q for _, q in ordered] == sorted(adjusted)


@given(P_VALUES, st.integers(0, 11), st.floats(0, 1))
def test_a_larger_p_value_lowers_none(p_values, place, more):
    k = place % len(p_values)
    larger = [*p_values[:k], max(p_values[k], more), *p_values[k + 1 :]]
    assert all(a <= b for a, b in zip(statistics.holm(p_values), statistics.holm(larger), strict=True))


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_what_is_no_p_value_is_refused(p):
    with pytest.raises(ValueError, match=r"expected p-values in .0, 1., found .*; use None where there was no test"):
        statistics.holm([0.5, None, p])


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
