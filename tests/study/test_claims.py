"""Verdicts: laws of the rules, and claims whose truth is fabricated."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nem.conditions import CONDITIONS
from pipeline.evaluation import statistics
from pipeline.evaluation.statistics import Bootstrap
from pipeline.study import claims, effects
from pipeline.study.claims import expand, status, together, verdict
from pipeline.study.effects import Effect
from tests.study.conftest import regime_rows, row_of

KINDS = ["against", "none", "open", "for"]
MANY = st.lists(st.sampled_from(KINDS), min_size=1, max_size=12)
NUMBERS = st.floats(-100, 100, allow_nan=False)
BOOTSTRAP = Bootstrap(0.95, 200, 1)


@given(MANY, MANY, st.integers(0, 11))
def test_verdicts_are_of_five_kinds_whatever_the_order_and_support_never_worsens_them(statuses, after, place):
    order = [claims.OPPOSITE, claims.NONE, claims.UNDECIDED, claims.ONLY_IF, claims.SUPPORTED]
    assert verdict(statuses) == verdict(sorted(statuses)) == verdict(statuses[::-1])
    assert (verdict(statuses) == claims.SUPPORTED) == (set(statuses) == {"for"})
    assert (verdict(statuses) == claims.NONE) == (set(statuses) == {"none"})
    assert (verdict(statuses) == claims.ONLY_IF) == ("for" in statuses and set(statuses) != {"for"})
    k = place % len(statuses)
    better = [*statuses[:k], KINDS[min(KINDS.index(statuses[k]) + 1, 3)], *statuses[k + 1 :]]
    assert order.index(verdict(better)) >= order.index(verdict(statuses))
    assert verdict([]) == claims.UNDECIDED
    assert together([*statuses, "against"]) == "against", "one counterexample outweighs all support"
    assert (together(statuses) == "for") == (set(statuses) == {"for"})
    # Other regimes can only qualify what holds in the paper's, and stand alone where there is none of it.
    assert verdict([], after) == verdict(after)
    known = verdict(statuses, after)
    assert known == verdict(statuses) or (verdict(statuses), known) == (claims.SUPPORTED, claims.ONLY_IF)


@given(NUMBERS, st.floats(0, 10), st.floats(0, 1), st.none() | st.floats(0, 100))
def test_a_status_turns_round_with_the_effect(value, half, p, amount):
    gain = Effect(value, value - half, value + half, p, 10)
    back = Effect(-value, -value - half, -value + half, p, 10)
    turned = {"for": "against", "against": "for", "open": "open"}
    assert status(back, p) == turned[status(gain, p)]
    if status(gain, p, half=amount) == "for":
        assert status(gain, p) == "for", "an amount asks for more than a direction"
        assert gain.low >= amount if amount is not None else True
    if p >= claims.LEVEL:
        assert status(gain, p, half=amount) == "open"
    # What is equivalent to nothing is neither, however significant; harm is not hidden by half of a large amount.
    assert status(gain, p, 0.01) == status(back, p, 0.01) == "none"
    assert status(gain, p, 1.0, 0.01, amount) == ("against" if p < claims.LEVEL and value < 0 else "none")


@given(st.floats(0.1, 100), st.floats(0, 10), st.floats(0.1, 10), st.floats(0, 0.04), st.integers(1, 9))
def test_smallness_must_be_shown_and_a_side_that_failed_alone_never_speaks_for_a_claim(value, half, margin, p, failed):
    gain = Effect(value, value - half, value + half, p, 10)
    assert claims.small(gain, 0.01, margin) == ("against" if gain.low > margin else "for")
    assert claims.small(gain, 0.06, margin) == ("against" if gain.low > margin else "open")
    alive, lost = Effect(value, value, value, p, 10), Effect(value, value, value, p, 10 - failed, failed)
    assert (status(alive, p), status(lost, p), status(lost, p, 0.01)) == ("for", "open", "open")
    assert claims.small(lost, 0.01, 200) == "open"
    assert status(Effect(-value, -value, -value, p, 10 - failed, failed), p) == "against"


def test_patterns_stand_for_pairs_in_order_and_claims_speak_of_conditions_that_exist():
    assert expand("nem-* > blind-*") == tuple((name, name.replace("nem", "blind")) for name in CONDITIONS[7:])
    assert expand("none > blind-additive-*") == tuple(("none", name) for name in CONDITIONS[1:4])
    assert len(expand("nem-additive-both > *")) == 12
    assert expand("none > lstm:none") == (("none", "lstm:none"),)
    for wrong in ("nem-* > blind-additive-*", "noise > none", "none > typo"):
        with pytest.raises(ValueError, match="expected patterns"):
            expand(wrong)
    listed = claims.load()
    assert len({claim.claim for claim in listed}) == len(listed) == 50
    for claim in listed:
        assert set(claim.cells.split()) <= {"lstm", "gru"}
        assert claim.source
        assert (claim.about in claims.HEADS, claim.measure in ("score", "speed")) == (True, True)
        assert expand(claim.comparisons)


def test_an_effect_leaves_failed_networks_out_and_counts_them():
    def side(*losses):
        return {"error": -np.log(losses)}

    whole = effects.effect(side(1.0, 2.0, 3.0), side(2.0, 2.0, 4.0), "error", BOOTSTRAP)
    lost = effects.effect(side(1.0, 2.0, np.nan, 3.0, 9.0), side(2.0, 2.0, 1.0, 4.0, np.nan), "error", BOOTSTRAP)
    assert (lost.value, lost.low, lost.high, lost.p, lost.n) == (whole.value, whole.low, whole.high, whole.p, 3)
    assert (whole.failed, lost.failed, whole.p) == (0, 1, 0.5)
    assert whole.value == pytest.approx(100 * (1 - (1 / 2 * 3 / 4) ** (1 / 3)))
    assert effects.effect(side(np.nan), side(1.0), "error", BOOTSTRAP) == Effect(None, None, None, None, 0, 1)


def test_failed_repetitions_are_no_speed_up_of_zero():
    def rows(condition, *curves):
        own = [{"curve": curve, "failed": bool(np.isnan(curve[20])), "test_loss": curve[20]} for curve in curves]
        return pd.DataFrame([row_of("slow", "fx", "days", "lstm", condition, r, **o) for r, o in enumerate(own)])

    slow, fast = np.linspace(2, 0.5, 31), np.linspace(2, 0.1, 31)
    lost = np.where(np.arange(31) < 5, slow, np.nan)
    noiseless, noisy = rows("none", slow, slow, lost), rows("nem-additive-both", fast, lost, fast)
    first, second = effects.side(noisy, noiseless), effects.side(noiseless, noiseless)
    assert np.isfinite(first["speed"]).tolist() == [True, False, False]
    gain = effects.effect(first, second, "speed", BOOTSTRAP)
    assert (gain.n, gain.failed) == (1, 1)
    assert gain.value == first["speed"][0] > 0
    never = effects.side(rows("nem-additive-both", slow + 9, slow, slow), noiseless)
    assert never["speed"][0] == -100 * 11 / 20, "one epoch after the last"
    with pytest.raises(ValueError, match="equal repetitions"):
        effects.side(noisy[:2], noiseless)


IMPROVES = "The noise boost improves accuracy (additive NEM in outputs and gates)"
BEATS = "NEM noise outperforms blind noise, in every mode and layer"
AMOUNT = "Best regressor: NEM noise reduces the squared error by 49.3 %"


def judged(loss, repetitions=30, first=()):
    about = {"fx": "fabricated rates", "video": "fabricated clips"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "DRAWS", 2_000)
        table = claims.judge(regime_rows(loss, repetitions), BOOTSTRAP, about, dict(first))
    assert tuple(table.columns) == claims.COLUMNS
    assert [int(text.split(".")[0]) for text in table.claim] == list(range(1, 52))
    return table.set_index(table.claim.str.replace(r"^\d+\. ", "", regex=True))


CELLS = "GRU regressors converge faster and more accurately than LSTM regressors (noiseless)"
SMALL = [claim.claim for claim in claims.load() if "within 4 points" in claim.claim]
WEAK = "nem-multiplicative-hidden"
ONLY_SLOW = f"{claims.ONLY_IF} fx, lstm, days, slow; fx, gru, days, slow"


def better(condition, yes=True, loss=0.1):
    """The loss of a condition where NEM noise helps."""
    return loss if yes and condition.startswith("nem") else 0.2


@pytest.mark.parametrize(
    ("loss", "verdicts"),
    [
        (lambda *p: better(p[-1]), dict.fromkeys((IMPROVES, BEATS, AMOUNT), claims.SUPPORTED)),
        (lambda *p: better(p[-1], loss=0.4), dict.fromkeys((IMPROVES, BEATS), claims.OPPOSITE)),
        (lambda *p: better(p[-1], p[-1] == "nem-additive-both", 0.16), {AMOUNT: claims.NONE}),
        (lambda *p: better(p[-1], p[-1] == "nem-additive-both", 0.14), {AMOUNT: claims.SUPPORTED}),
        (lambda *p: better(p[-1], (p[0], p[2]) == ("fx", "slow")), {IMPROVES: ONLY_SLOW}),
        (lambda *p: 0.3 if p[-1] == WEAK else better(p[-1]), {BEATS: claims.OPPOSITE, IMPROVES: claims.SUPPORTED}),
        (lambda *p: 0.1 if p[3] == "gru" else 0.2, {CELLS: claims.SUPPORTED}),
        (lambda *_: 0.2, dict.fromkeys((IMPROVES, BEATS), claims.NONE) | dict.fromkeys(SMALL, claims.SUPPORTED)),
        (lambda *p: better(p[-1], loss=0.195), dict.fromkeys((IMPROVES, BEATS), claims.NONE)),
    ],
    ids=["helps", "harms", "too little", "half", "in one regime", "one weak place", "one cell", "nothing", "hardly"],
)
def test_the_verdict_is_what_was_fabricated(loss, verdicts):
    table = judged(loss)
    assert table.verdict[list(verdicts)].to_dict() == verdicts


def test_few_repetitions_show_no_absence():
    table = judged(lambda *_: 0.2, repetitions=29)
    assert set(table.verdict[:-1]) == {claims.UNDECIDED}


def paper_regime(loss, repetitions=5):
    """What the paper's own regime gives, as :func:`pipeline.why.results.sides` has it."""
    nothing, grid = np.full(repetitions, np.nan), np.arange(repetitions)
    return {
        effects.Context("the paper's regime", "fx", "days", "identity", cell): {
            name: {"error": -np.log(loss(name) * (1 + 0.001 * grid)), "speed": grid * 1.0, "accuracy": nothing}
            for name in CONDITIONS
        }
        for cell in ("lstm", "gru")
    }


def test_the_papers_regime_is_judged_before_all_others():
    """Claims of rates follow it whatever other regimes say; what is said of classes knows nothing of it."""
    beats, both = "NEM noise beats no noise in an LSTM regressor, in every mode and layer", IMPROVES
    harms = judged(lambda *p: better(p[-1]), first=paper_regime(lambda name: better(name, loss=0.4), 6))
    assert harms.verdict[[beats, AMOUNT]].tolist() == [claims.OPPOSITE] * 2
    assert "for in 2 of 3" in harms.condition_of_verdict[beats]
    assert "numbers: fx, lstm, days, the paper's regime" in harms.condition_of_verdict[beats]
    assert harms.verdict[both].startswith(claims.ONLY_IF), "the classes' contexts are as many others"
    helps = judged(lambda *p: better(p[-1], loss=0.4), first=paper_regime(better, 6))
    assert helps.verdict[beats] == f"{claims.ONLY_IF} fx, lstm, days, the paper's regime"
    assert helps.ours[beats].startswith("+50")
    assert not helps.condition_of_verdict[SMALL].str.contains("paper's").any()
    assert (
        judged(better_everywhere, first=paper_regime(better, 6)).verdict[[beats, both]].tolist()
        == [claims.SUPPORTED] * 2
    )


def better_everywhere(*place):
    return better(place[-1])


def test_a_verdict_says_where_its_number_is_from_and_names_the_weakest_comparison():
    table = judged(lambda *p: 0.3 if p[-1] == WEAK else better(p[-1]))
    assert WEAK in table.condition_of_verdict[BEATS]
    assert "for in 12 of 12" in table.condition_of_verdict[IMPROVES]
    assert "fabricated clips; " not in table.condition_of_verdict[AMOUNT]
    assert table.ours[AMOUNT].startswith("+50")
