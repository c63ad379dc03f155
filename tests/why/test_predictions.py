"""Predicted speed-ups, what they refute, the finding, and the classifier's half, on rows whose answers are known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import cumulative_trapezoid

from nem.cells import GATES
from pipeline.evaluation.predictive import Passage, Predictive
from pipeline.training import train
from pipeline.why import calibrate, clips, page, protocol, results, table
from pipeline.why.calibrate import CLASSES, paper
from pipeline.why.protocol import FIRST, FRESH, Sizes
from pipeline.why.table import EVERY, NEM, REVERSED
from stages import why as stage
from tests.why import fabricate
from tests.why.test_why import truth


@pytest.mark.parametrize(
    ("late", "bound", "mean", "scale", "df"),
    [((0.1, 0.5), 0, 0, 2, 2), ((0.7, 0.9), -30, 50, 30, 4), ((0.05, 0.1), -10, 95, 9, 30), ((0.5, 0.5), 0, 0, 1e6, 1)],
)
def test_a_passage_is_a_distribution_with_a_part_that_nobody_saw(late, bound, mean, scale, df):
    own = Passage(np.array(late), bound, Predictive(np.array([mean, mean + 5.0]), np.full(2, float(scale)), df))
    grid = np.linspace(bound + 1e-9, 100, 1001)
    density = np.exp([own.log_density(value) for value in grid])
    np.testing.assert_allclose(np.trapezoid(density, grid, axis=0), 1 - own.late, rtol=0.005)
    np.testing.assert_allclose(np.exp(own.log_density(bound)), own.late)
    weights, levels = np.array([0.3, 0.7]), (0.025, 0.5, 0.975)
    late = float(weights @ own.late)
    cumulated = late + cumulative_trapezoid(density @ weights, grid, initial=0)
    for level, value in zip(levels, own.quantiles(weights, levels), strict=True):
        assert (value == -np.inf) == (level <= late)
        if np.isfinite(value):
            assert np.interp(value, grid, cumulated) == pytest.approx(level, abs=0.005)


def timed(sign, late=False):
    """Rows whose reversed (or, with the other sign, printed) noise speeds up as Tables 6 and 8 say, the other does not.

    Noiseless runs pass their last value 10 % of R early. ``late``: what is slower than R was not seen.
    """
    rows, random = fabricate.rows([*protocol.exploration(Sizes())], truth), np.random.default_rng(1)
    speed = np.empty(len(rows))
    for k, line in enumerate(rows.itertuples()):
        right = line.condition in (REVERSED if sign == "reversed-nem" else NEM)
        value = paper(line.cell, line.condition, "speed_up")
        speed[k] = 10 + (
            value if right or line.condition.startswith("blind") else -20 if line.condition != "none" else 0
        )
    rows["reached"], rows["last"] = np.round(100 - speed - random.normal(0, 2, len(rows))), 100.0 if late else 200.0
    rows.loc[rows.condition == "none", "reached"] = 90.0
    rows["reached"] = rows.reached.where(rows.reached <= rows["last"])
    return rows


@pytest.mark.parametrize(("sign", "late"), [("nem", False), ("reversed-nem", False), ("reversed-nem", True)])
def test_speed_ups_are_predicted_from_the_errors_calibration_and_censored_where_training_ended(sign, late):
    rows = timed(sign, late)
    less = calibrate.predictions(rows, what="speed-ups less own")
    joint = less.drop_duplicates(["cell", "mode", "kind"]).groupby("kind").joint.sum()
    right, wrong = (less[less.kind == kind] for kind in (sign, ({"nem", "reversed-nem"} - {sign}).pop()))
    assert joint[sign] > joint[wrong.kind.iloc[0]] + 10
    assert not right.outside.any()
    # With its own passage in, every entry is predicted 10 % of R too fast.
    raw = calibrate.predictions(rows, what="speed-ups")
    gap = raw[raw.kind == sign]["median"] - right["median"]
    np.testing.assert_allclose(gap, 10, atol=3)
    if late:
        # Nothing is known of what was not seen but how often that was.
        assert (wrong["median"] == -np.inf).all()
        assert wrong.outside.sum() == 0
        assert calibrate.speed_ups(rows[rows.cell == "gru"], own=True)[1] == -10
        assert calibrate.speed_ups(rows[rows.cell == "gru"], own=False)[1] == 0
    else:
        assert wrong.outside.all()
    # The weights are those of errors: other speeds change no prediction of an error.
    pd.testing.assert_frame_equal(calibrate.predictions(rows), calibrate.predictions(rows.assign(reached=1.0)))


def test_the_table_of_what_refutes_names_the_entries_and_a_run_that_would():
    rows = timed("reversed-nem")
    found = results.TABLES["falsified"](rows).set_index(["entries", "sign"])
    assert found.loc[("errors", "reversed"), "outside of 95 %"].startswith(("0 of 12", "1 of 12"))
    wrong = found.loc[("errors", "as printed"), "outside of 95 %"]
    assert int(wrong.split()[0]) >= 10
    assert "LSTM additive-both" in wrong
    assert all(" outside of " in text for text in found["a run that would refute it"])
    assert float(found.loc[("errors", "reversed"), "ln joint"]) > float(found.loc[("errors", "as printed"), "ln joint"])


def test_the_finding_is_three_sentences_with_the_tables_numbers():
    confirmed = fabricate.confirmed(FIRST, 12, fabricate.as_the_paper_if_reversed)
    assert page.finding(confirmed[confirmed.repetition == FRESH]) == page.NOTHING
    text = page.finding(confirmed)
    found = results.judged(confirmed)
    for names, words in ((NEM, "as printed is"), (REVERSED, "reversed it is")):
        own = found[found.condition.isin(names)]
        count = [[((own.cell == cell) & (own.verdict == v)).sum() for cell in GATES] for v in ("supported", "opposite")]
        (a, b), (c, d) = count
        assert f"{words} better than none in {a} and {b} of six places (LSTM and GRU) and worse in {c} and {d}" in text
    assert "In 12 paired repetitions" in text
    assert "has not been run" in text
    text = page.finding(pd.concat([confirmed, fabricate.rows([*protocol.exploration(Sizes())], truth)]))
    assert "0 reversed" in text or "1 reversed" in text
    assert text.count(". ") == 2
    assert text.endswith("speaks for the reversed sign.")


def test_the_judge_of_claims_gets_the_confirmation_whole_and_only_from_five_repetitions(tmp_path):
    file = tmp_path / "rows.csv"
    for several in (4, 6):
        rows = fabricate.confirmed(FIRST, several, fabricate.as_the_paper_if_reversed)
        lost = (rows.cell == "gru") & (rows.repetition == FRESH + 5) & (rows.condition == EVERY[-1])
        late = (rows.condition == EVERY[1]) & (rows.repetition == FRESH)
        table.save(rows[~lost].assign(reached=rows.reached.where(~late)), file)
        found = results.sides(file)
        assert len(found) == (2 if several > 5 else 0)
    for context, by_name in found.items():
        errors = results.confirmation(table.load(file), context.cell)["none"][:5]
        np.testing.assert_allclose(by_name["none"]["error"], -np.log(errors))
        assert by_name["none"]["speed"].tolist() == [10.0] * 5
        assert by_name[EVERY[1]]["speed"].tolist() == [-31.0, *[10.0] * 4]


def of_classes(key, condition):
    """The paper's error rates at one strength: with reversed noise if the output error is literal, else as printed."""
    turned = key["delta"] != "loss"
    own, none = CLASSES.value(key["cell"], condition), CLASSES.value(key["cell"], "none")
    wrong = condition in (NEM if turned else REVERSED)
    far = abs(np.log((key["sigma_output"] or 0.3) / 0.3)) + abs(np.log((key["sigma_hidden"] or 0.1) / 0.1))
    return (none**2 / own if wrong else own) * np.exp(0.3 * far)


def test_the_classifiers_regime_strength_and_sign_are_found_for_each_output_error():
    rows, true = fabricate.of_clips(of_classes)
    assert clips.chosen(rows) == true
    assert clips.chosen(rows[rows.repetition >= FRESH]) is None
    for delta, right, wrong in (("loss", "nem", "reversed-nem"), ("literal", "reversed-nem", "nem")):
        found = calibrate.predictions(results.of_delta(rows, delta), CLASSES)
        joint = found.drop_duplicates(["cell", "mode", "kind"]).groupby("kind").joint.sum()
        # Noise in gates alone has no output error, and is as printed for both here.
        own = found[found.condition.str.contains("-output|-both")]
        assert own[own.kind == right].outside.sum() <= 1
        assert own[own.kind == wrong].outside.sum() >= 2
        assert np.isfinite(joint).all()
    for name in results.OF_CLIPS:
        assert len(results.OF_CLIPS[name](rows)), name
    shown = results.OF_CLIPS["clips"](rows).set_index("condition")
    assert shown.loc["`none`", "LSTM, paper"] == "87.21"
    assert "▲" in shown.loc["`nem-additive-both`", "LSTM, loss"]
    assert "▼" in shown.loc["`nem-additive-both`", "LSTM, literal"]


@pytest.mark.slow
def test_the_clips_quick_path_is_whole_and_goes_on_after_a_kill(quick, monkeypatch):
    """With both output errors, which differ where noise is in outputs; what the table has is not trained again."""
    quick = quick.with_name(page.CLIPS)
    assert stage.main(["--only", "clips"]) == 0
    rows = clips.load(quick)
    assert not rows.failed.any()
    keys = [name for name in clips.KEY if name != "delta"]
    loss, literal = (rows[rows.delta == delta].set_index(keys).test_loss for delta in clips.DELTAS)
    assert set(literal.index.get_level_values("condition")) == set(clips.OF_OUTPUT)
    assert (loss != literal.reindex(loss.index)).mean() > 0.9
    for words in ("search | 4 | 4 |", "confirmation | 124 | 124 |", "strengths | 220 | 220 |"):
        assert f"| clips, {words}" in quick.with_name(stage.PAGES[1].name).read_text()
    monkeypatch.setattr(page, "write", lambda *_: None)
    asked, run = [], train.run

    def watched(work, **options):
        asked.extend(name for one in work for name in one.settings.conditions if name != "none")
        return run(work, **options)

    monkeypatch.setattr(train, "run", watched)
    lost = (rows.index % 53 == 0) & (rows.condition != "none")
    rows[~lost].to_csv(quick, index=False)
    assert stage.main(["--only", "clips"]) == 0
    pd.testing.assert_frame_equal(clips.load(quick), rows)
    assert sorted(asked) == sorted(rows.condition[lost])
    asked.clear()
    assert stage.main(["--only", "clips", "--minutes", "0"]) == 0
    assert not asked
    for damage in (pd.concat([rows, rows[:1]]), rows.drop(columns="test_error")):
        damage.to_csv(quick, index=False)
        with pytest.raises(ValueError, match=r"expected .* in .*clips.csv, found .* restore"):
            clips.fill(quick, clips.QUICK)


def test_a_clips_key_holds_what_concerns_a_network_and_nothing_else():
    own = clips.Stack("gru", clips.Regime("groups", 0.01, 0.0, 25), FIRST, "literal", EVERY, (0, 3), 32)
    keys = {tuple(key.values()): key for key in own.networks()}
    assert len(keys) == 2 * len(EVERY)
    for key in keys.values():
        assert tuple(key) == clips.KEY
        assert (key["delta"] == "literal") == (key["condition"] in clips.OF_OUTPUT) == (key["sigma_output"] > 0)
    shared = {tuple(key.values()) for key in replace(own, delta="loss").networks()} & {*keys}
    assert {key[clips.KEY.index("condition")] for key in shared} == set(EVERY) - set(clips.OF_OUTPUT)
