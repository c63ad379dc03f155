"""Verdicts: laws of the rules, and claims whose truth is fabricated."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.conditions import CONDITIONS
from pipeline.study import claims, plan, runs, summary
from pipeline.study.claims import CLAIMS, Comparison, status, together, verdict
from pipeline.study.summary import Effect
from tests.conftest import ROOT

STATUS = st.sampled_from(["for", "against", "open"])
MANY = st.lists(STATUS, min_size=1, max_size=12)
NUMBERS = st.floats(-100, 100, allow_nan=False)


@pytest.fixture(scope="module")
def study():
    return plan.load("quick", ROOT / "study" / "params.yaml")


@given(MANY)
def test_a_verdict_does_not_depend_on_order_and_is_one_of_four(found):
    assert verdict(found) == verdict(sorted(found)) == verdict(found[::-1])
    assert verdict(found) in {claims.REPRODUCED, claims.ONLY_IF, claims.NOT, claims.CONTRADICTED}


@given(MANY)
def test_a_verdict_is_reproduced_or_contradicted_only_without_exception(found):
    assert (verdict(found) == claims.REPRODUCED) == (set(found) == {"for"})
    assert (verdict(found) == claims.CONTRADICTED) == (set(found) == {"against"})
    assert (verdict(found) == claims.ONLY_IF) == ("for" in found and set(found) != {"for"})


@given(MANY, st.integers(0, 11))
def test_more_support_never_worsens_a_verdict(found, place):
    order = [claims.CONTRADICTED, claims.NOT, claims.ONLY_IF, claims.REPRODUCED]
    k = place % len(found)
    better = [*found[:k], {"against": "open", "open": "for", "for": "for"}[found[k]], *found[k + 1 :]]
    assert order.index(verdict(better)) >= order.index(verdict(found))


@given(MANY)
def test_one_counterexample_outweighs_all_support(found):
    assert together([*found, "against"]) == "against"
    assert (together(found) == "for") == (set(found) == {"for"})


@given(NUMBERS, st.floats(0, 10), st.floats(0, 1), st.none() | st.floats(0, 100))
def test_a_status_turns_round_with_the_effect(value, half, p, amount):
    gain = Effect(value, value - half, value + half, p, 10)
    back = Effect(-value, -value - half, -value + half, p, 10)
    turned = {"for": "against", "against": "for", "open": "open"}
    assert status(back, p) == turned[status(gain, p)]
    if status(gain, p, amount) == "for":
        assert status(gain, p) == "for", "an amount asks for more than a direction"
        assert gain.high >= amount if amount is not None else True
    if p >= claims.LEVEL:
        assert status(gain, p, amount) == "open"


@given(NUMBERS, st.floats(0, 10), st.floats(0.1, 10))
def test_smallness_is_shown_by_the_whole_interval(value, half, margin):
    gain = Effect(value, value - half, value + half, 0.001, 10)
    found = status(gain, 0.001, margin=margin)
    assert (found == "for") == (abs(value) + half <= margin or (gain.low >= -margin and gain.high <= margin))
    if found == "against":
        assert abs(value) > margin


def test_an_effect_leaves_failed_networks_out(study):
    def side(*losses):
        unknown = np.full(len(losses), np.nan)
        return summary.Side(np.array(losses), unknown, unknown, unknown, 30)

    whole = summary.effect(side(1.0, 2.0, 3.0), side(2.0, 2.0, 4.0), "error", study)
    failed = summary.effect(side(1.0, 2.0, np.nan, 3.0, 9.0), side(2.0, 2.0, 1.0, 4.0, np.nan), "error", study)
    assert failed == whole
    assert (whole.n, whole.p) == (3, 0.5)
    assert whole.value == pytest.approx(100 * (1 - (1 / 2 * 3 / 4) ** (1 / 3)))
    assert summary.effect(side(np.nan), side(1.0), "error", study) == Effect(None, None, None, None, 0)
    assert summary.interval(np.array([np.nan, 2.0]), study).low is None


def test_claims_speak_of_conditions_that_exist():
    for claim in CLAIMS:
        assert claim.comparisons
        assert claim.text
        assert claim.source
        for each in claim.comparisons:
            for name in (each.better, each.worse):
                cell, _, condition = name.rpartition(":")
                assert condition in CONDITIONS
                assert bool(cell) == (claim.cells == ()), "a claim names its cells in one place"
    texts = [claim.text for claim in CLAIMS]
    assert len(set(texts)) == len(texts)


def rows_of(study, loss):
    """Fabricate finals: ``loss(task, split, regime, cell, condition)`` is the test loss at R of every repetition."""
    found = []
    for task, regime, cell in itertools.product(plan.TASKS, plan.REGIMES, plan.CELLS):
        grid = study.grid(task)
        for split, condition, r in itertools.product(plan.SPLITS[task], plan.EVERY, range(10)):
            value = loss(task, split, regime, cell, condition) * (1 + 0.001 * r)
            curve = np.linspace(10 * value, value, grid.epochs + 1)
            curve = np.append(curve, np.full(grid.max_epochs - grid.epochs, value))
            row = dict.fromkeys(runs.MEASURES, np.nan)
            row |= {"test_loss": value, "train_loss": value, "validation_loss": value}
            if task == "clips":
                # Repetitions differ, or no test could tell a difference from chance.
                row |= {"test_accuracy": 1 - value - 0.0001 * r, "calibration_error": value / 2}
            axes = plan.Setting(task, cell, split, "sgd", 0.1, 0.3, 0.0, ("none",)).axes()
            about = {"purpose": regime, "condition": condition, "repetition": r, "failed": False, "curve": curve}
            found.append({**axes, **row, **about})
    return pd.DataFrame(found)


EVIDENCE = {"fx": "fabricated rates", "clips": "fabricated clips"}


def judged(study, loss):
    table = claims.judge(rows_of(study, loss), study, EVIDENCE, (8, 4, 3, 3))
    assert tuple(table.columns) == claims.COLUMNS
    assert [int(text.split(".")[0]) for text in table.claim] == list(range(1, len(CLAIMS) + 2))
    return table.set_index(table.claim.str.replace(r"^\d+\. ", "", regex=True))


IMPROVES = "The noise boost improves accuracy (additive NEM in outputs and gates)"
BEATS = "NEM noise outperforms blind noise, in every mode and layer"


def test_where_nem_always_helps_it_is_reproduced(study):
    table = judged(study, lambda *place: 0.1 if place[-1].startswith("nem") else 0.2)
    for claim in (IMPROVES, BEATS):
        assert table.verdict[claim] == claims.REPRODUCED
        assert "for in 12 of 12" in table.condition_of_verdict[claim]
    assert table.ours["Best regressor: NEM noise reduces the squared error by 49.3 %"].startswith("+50")


def test_where_nem_always_harms_it_is_contradicted(study):
    table = judged(study, lambda *place: 0.2 if place[-1].startswith("nem") else 0.1)
    assert table.verdict[IMPROVES] == table.verdict[BEATS] == claims.CONTRADICTED


def test_where_it_helps_in_one_regime_the_regime_is_named(study):
    table = judged(study, lambda *p: 0.1 if p[-1].startswith("nem") and p[2] == "slow" and p[0] == "fx" else 0.2)
    assert table.verdict[IMPROVES] == f"{claims.ONLY_IF} fx, lstm, slow; fx, gru, slow"


def test_where_nothing_differs_nothing_is_reproduced(study):
    table = judged(study, lambda *_: 0.2)
    assert table.verdict[IMPROVES] == table.verdict[BEATS] == claims.NOT
    little = [name for name in table.index if "within 4 points" in name]
    assert (table.verdict[little] == claims.REPRODUCED).all()


def test_one_weak_place_spoils_a_claim_about_all(study):
    weak = "nem-multiplicative-hidden"
    table = judged(study, lambda *p: 0.3 if p[-1] == weak else 0.1 if p[-1].startswith("nem") else 0.2)
    assert table.verdict[BEATS] == claims.CONTRADICTED
    assert weak in table.condition_of_verdict[BEATS]
    assert table.verdict[IMPROVES] == claims.REPRODUCED


def test_an_amount_must_be_reached(study):
    claim = "Best regressor: NEM noise reduces the squared error by 49.3 %"
    assert judged(study, lambda *p: 0.15 if p[-1] == "nem-additive-both" else 0.2).verdict[claim] == claims.NOT
    assert judged(study, lambda *p: 0.09 if p[-1] == "nem-additive-both" else 0.2).verdict[claim] == claims.REPRODUCED


def test_cells_are_compared_where_a_claim_says_so(study):
    claim = "GRU regressors converge faster and more accurately than LSTM regressors (noiseless)"
    assert judged(study, lambda *p: 0.1 if p[3] == "gru" else 0.2).verdict[claim] == claims.REPRODUCED


def test_score_is_accuracy_for_classes_and_error_for_values():
    each = Comparison("none", "blind-additive-output", "score")
    assert (each.of("clips"), each.of("fx")) == ("accuracy", "error")


@given(st.integers(1, 3000), st.integers(1, 300), st.integers(1, 20), st.integers(1, 20))
def test_noise_costs_less_than_the_products(inputs, hidden, outputs, slices):
    plain, extra = claims.operations(inputs, hidden, outputs, slices)
    assert plain > 0
    assert extra > 0
    wider, more = claims.operations(inputs, hidden + 1, outputs, slices)
    assert wider > plain
    assert more > extra
    assert more / wider < extra / plain or outputs > hidden, "products grow faster than noise"
