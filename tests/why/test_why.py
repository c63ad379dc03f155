"""docs/why.md: its path in small, its table, and results whose answers are known."""

import itertools
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nem.cells import GATES
from nem.conditions import MODES, Condition
from pipeline.training import train
from pipeline.why import calibrate, lottery, networks, page, protocol, results, table
from pipeline.why.protocol import FIRST, FRESH, MAIN, QUICK, Sizes
from pipeline.why.table import EVERY, NEM, REVERSED, Stack, Strength
from stages import why as stage
from tests.conftest import ROOT
from tests.why import fabricate

LEVELS = st.sampled_from([0.0, 0.1, 0.3])
STRENGTHS = st.builds(Strength, LEVELS, LEVELS, LEVELS, LEVELS)


@pytest.mark.slow
def test_the_quick_path_is_whole_and_goes_on_after_a_kill(quick, monkeypatch, capsys):
    """A kill that leaves part of the table changes no number; what the table has is not trained again."""
    assert stage.main([]) == 0
    rows, written = table.load(quick), quick.with_name(stage.PAGES[1].name).read_text()
    assert table.keys(rows) == {key for s in protocol.stacks(quick, QUICK) if s for *_, key in s.networks()}
    assert not rows.failed.any()
    np.testing.assert_allclose(rows.level_mse + rows.daily_mse, rows.test_mse, rtol=1e-4)
    assert "| LSTM | `reversed-nem-multiplicative-both` |" in written
    every_reading_is_another_algorithm(rows)
    left = {f.name for f in quick.parent.iterdir()}
    assert left == {"rows.csv", "clips.csv", "why.md", "tables.md", "confirmation.png", "lottery.png"}

    monkeypatch.setattr(page, "write", lambda *_: None)
    asked, run = [], train.run

    def watched(work, **options):
        asked.extend(name for one in work for _ in one.repetitions for name in one.settings.conditions)
        return run(work, **options)

    monkeypatch.setattr(train, "run", watched)
    lost = (rows.index % 97 == 0) | ((rows.repetition == FRESH) & (rows.cell == "gru"))
    table.save(rows[~lost], quick)
    assert stage.main([]) == 0
    pd.testing.assert_frame_equal(table.load(quick), rows)
    assert len([name for name in asked if name != "none"]) <= lost.sum()
    asked.clear()
    assert stage.main([]) == 0
    assert not asked
    table.save(rows.assign(test_mse=rows.test_mse * (1 + 0.01 * (rows.cell == "gru"))), quick)
    assert stage.main(["--check", "1"]) == 1
    told = capsys.readouterr()
    assert "why: expected the errors of" in told.err
    off = [line.split() for line in told.out.splitlines() if "-" in line]
    assert {line[0] for line in off if float(line[-1]) > stage.SAME} == {"gru"}


def every_reading_is_another_algorithm(rows):
    """Each variant trained all networks that it concerns, reversed ones too, and gave other errors than the main one.

    But for clamped gates, if none leaves [0, 1], and for (49) as printed, which refuses all noise of mean 1 here.
    """
    errors = rows.set_index([name for name in table.KEY if name != "variant"]).test_mse
    main = errors[(rows.variant == "").to_numpy()]
    for variant, (_, patterns) in table.VARIANTS.items():
        own = errors[(rows.variant == variant).to_numpy()]
        concerned = {name for name in EVERY if any(fnmatch(name, pattern) for pattern in patterns)}
        assert {*own.index.get_level_values("condition")} == (concerned or {*rows.condition}), variant
        if variant == "printed-49":
            printed = rows[(rows.variant == variant) & (rows.condition == "nem-multiplicative-output")]
            for line in printed.assign(condition="none", sigma_output=0.0, decay_output=0.0).itertuples():
                assert line.test_mse == main[tuple(getattr(line, name) for name in errors.index.names)]
            assert len(printed) == len(GATES) * QUICK.vary
        elif variant and variant != "clamp":
            assert (own != main.reindex(own.index)).all(), variant
    means = rows[rows.condition.str.startswith("expected-blind")]
    assert {*means.condition} == {f"expected-blind-{mode}-hidden" for mode in MODES}
    assert {*zip(means.sigma_hidden, means.decay_hidden, strict=True)} == {
        (own.sigma_hidden, own.decay_hidden) for own in protocol.PENALISED
    }
    assert (rows[rows.variant == "pre-activation"].sigma_hidden == protocol.STEEPER.sigma_hidden).any()


def test_the_protocols_last_part_takes_nothing_from_the_parts_before():
    """A table that another machine fills by an older protocol fits: parts, order and keys are as they were."""

    def keys(stacks):
        return {key for stack in stacks for *_, key in stack.networks()}

    older = [stack for stack in protocol.interpretations(Sizes()) if stack.variant]
    assert not {stack.variant for stack in older} & {*table.FURTHER}
    assert {stack.variant for stack in older} | {*table.FURTHER} | {""} == {*table.VARIANTS}
    late, main = keys(protocol.further(Sizes())), keys(protocol.exploration(Sizes()))
    shared = {key[table.KEY.index("condition")] for key in late & (main | keys(protocol.interpretations(Sizes())))}
    assert shared == {"none", "blind-additive-hidden", "blind-multiplicative-hidden"}
    assert [part[0] for part in protocol.parts(Path("nowhere.csv"), QUICK) if part][-1] == "further interpretations"


def test_every_table_of_the_pages_can_be_shown_and_an_unknown_one_is_named(quick, capsys):
    text = "".join(own.read_text(encoding="utf-8") for own in stage.PAGES)
    marks = [match[2] for match in page.MARKS.finditer(text)]
    assert sorted(marks) == sorted(page.NAMES)
    for name in marks:
        assert f"`python -m stages.why --show {name}`" in text
    assert stage.main(["--show", "summary"]) == 0
    assert capsys.readouterr().out.strip() == page.NOTHING
    assert stage.main(["--show", "nothing"]) == 1
    assert "use one of progress, abstract, summary" in capsys.readouterr().err


@pytest.mark.slow
def test_the_committed_pages_are_those_of_the_committed_table(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(page, "strips", lambda rows, place: None)
    monkeypatch.setattr(page, "chances", lambda rows, place: None)
    page.write({own: tmp_path / own.name for own in stage.PAGES}, stage.ROWS, Sizes())
    for own in stage.PAGES:
        assert (tmp_path / own.name).read_bytes() == own.read_bytes(), "run python -m stages.why --minutes 0"


@given(STRENGTHS, st.sampled_from([*GATES]), st.sampled_from([*table.VARIANTS]))
def test_a_key_holds_what_concerns_a_network_and_nothing_else(strength, cell, variant):
    stack = Stack(cell, MAIN, strength, EVERY, (0, 3), variant)
    keys = [key for *_, key in stack.networks()]
    assert len(set(keys)) == len(keys) == 2 * len(EVERY)
    for name in EVERY:
        about, condition = stack.about(name), Condition.parse(name)
        for place, there in (("output", condition.in_output), ("hidden", condition.in_hidden)):
            assert about[f"sigma_{place}"] == (getattr(strength, f"sigma_{place}") if there else 0)
    assert table.lacking(stack, set(keys)) is None
    assert table.lacking(stack, set()) == stack
    part = table.lacking(stack, {key for condition, _, key in stack.networks() if condition in NEM})
    assert part == replace(stack, conditions=tuple(name for name in EVERY if name not in NEM))


def test_a_table_is_read_as_it_was_written_and_grows_by_what_is_new(tmp_path):
    rows = fabricate.confirmed(FIRST, 3, fabricate.as_the_paper_if_reversed)
    file, more = tmp_path / "rows.csv", rows.assign(test_mse=7.0)
    assert not len(table.load(file))
    table.save(table.add(table.load(file), rows), file)
    once = file.read_bytes()
    table.save(table.add(table.load(file), more.sample(frac=1, random_state=0)), file)
    assert file.read_bytes() == once
    assert table.keys(table.load(file)) == table.keys(rows)


@pytest.mark.parametrize("damage", ["twice", "a column less", "no number"])
def test_a_damaged_table_is_an_error_and_stays(tmp_path, damage):
    rows, file = fabricate.confirmed(FIRST, 1, fabricate.as_the_paper_if_reversed), tmp_path / "rows.csv"
    table.save({"twice": pd.concat([rows, rows[:1]])}.get(damage, rows), file)
    text = file.read_text()
    if damage != "twice":
        file.write_text(text.replace("test_mse", "mse") if damage == "a column less" else text.replace(",0.1,", ",x,"))
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"expected .* in .*rows.csv, found .* restore"):
        networks.fill(protocol.stacks(file, QUICK), file, QUICK)
    assert file.read_bytes() == before


def test_fresh_seeds_are_nobody_elses(tmp_path):
    """No choice sees what confirms it: the parts that choose have other repetitions."""
    rows = fabricate.rows([*protocol.exploration(Sizes()), *protocol.search(Sizes())], truth)
    table.save(rows, tmp_path / "rows.csv")
    parts = dict(part for part in protocol.parts(tmp_path / "rows.csv", Sizes()) if part)
    confirming = {"confirmation", "calibrated strengths", "seed lottery"}
    assert confirming < set(parts)
    for name, stacks in parts.items():
        assert all((min(stack.repetitions) >= FRESH) == (name in confirming) for stack in stacks), name


TRUE = Strength(0.3, 0.0, 0.1, 0.0)


def truth(stack, condition):
    """The paper's entries at the main regime and one strength, with the sign reversed; far from them elsewhere."""
    own = stack.strength.of(Condition.parse(condition))
    far = sum(abs(np.log(a / b)) for a, b in ((own.sigma_output, 0.3), (own.sigma_hidden, 0.1)) if a)
    far += own.decay_output + own.decay_hidden
    return fabricate.as_the_paper_if_reversed(stack, condition) * np.exp(0.5 * far) * (1 if stack.regime == MAIN else 3)


@pytest.mark.parametrize("turned", [False, True])
def test_calibration_finds_regime_strength_and_sign(turned):
    """Made-up networks whose blind and noiseless errors are the paper's at one setting, with either sign true."""
    rows = fabricate.rows([*protocol.exploration(Sizes()), *protocol.search(Sizes())], truth)
    if turned:
        swap = dict([*zip(NEM, REVERSED, strict=True), *zip(REVERSED, NEM, strict=True)])
        rows["condition"] = rows.condition.map(lambda name: swap.get(name, name))
    assert calibrate.matched(rows) == [MAIN]
    for cell, mode in itertools.product(GATES, ("additive", "multiplicative")):
        assert calibrate.most_likely(rows, MAIN, cell, mode) == TRUE
    own = table.of(rows, MAIN)
    found = calibrate.predictions(own)
    right, wrong = ("nem", "reversed-nem") if turned else ("reversed-nem", "nem")
    inside = found[found.kind == right].eval("low <= paper <= high")
    assert len(inside) == 12
    assert inside.sum() >= 11
    joint = found.drop_duplicates(["cell", "mode", "kind"]).groupby("kind").joint.sum()
    assert joint[right] > joint[wrong] + 10
    # A single repetition says nothing of the spread, and so nothing at all.
    assert not len(calibrate.predictions(own[own.repetition == 0]))


def test_verdicts_and_signs_of_known_effects():
    rows = fabricate.confirmed(FIRST, 30, fabricate.as_the_paper_if_reversed)
    found = results.judged(rows).set_index(["cell", "condition"])
    for cell, name in itertools.product(GATES, REVERSED):
        gain, claim = found.gain[cell, name], np.log(calibrate.paper(cell, "none") / calibrate.paper(cell, name))
        assert gain.low - 0.02 <= claim <= gain.high + 0.02
        assert found.verdict[cell, name] == "supported" or claim < 0.08
        assert found.half[cell, name.removeprefix("reversed-")] == "no"
        errors = results.confirmation(rows, cell)
        assert found.better[cell, name] == (errors[name] < errors.none).mean()
    nothing = results.judged(fabricate.confirmed(FIRST, 30, lambda stack, condition: 2.0))
    assert set(nothing.verdict) == {"practically none"}
    few = results.judged(fabricate.confirmed(FIRST, 12, lambda stack, condition: 2.0, spread=0.001))
    assert (few.equivalent < 0.05).all()
    assert set(few.verdict) == {"undecided"}
    assert results.summary(rows)["supported"].sum() >= 12


def test_a_noiseless_repetition_alone_says_nothing_of_noise():
    """As those of the search for regimes, whose seeds the networks with noise do not have."""
    early = [Stack(cell, MAIN, FIRST, EVERY, (0, 1)) for cell in GATES]
    found = fabricate.rows(early, lambda stack, condition: 1.0 if condition == "none" else 1.2)
    alone = fabricate.rows([Stack(cell, MAIN, FIRST, ("none",), (2,)) for cell in GATES], lambda stack, condition: 9.0)
    both = pd.concat([found, alone], ignore_index=True)
    assert results.settings(both).equals(results.settings(found))
    assert set(results.settings(found)["output, as printed"]) == {"0 of 2"}, "nine pairs share them, which count once"
    assert results.overview(both, "strengths").equals(results.overview(found, "strengths"))


def test_the_lottery_by_hand_and_by_chance():
    """Exchangeable entries show all six better once in seven; a certain pattern always; tries raise the former."""
    rows = fabricate.confirmed(FIRST, 200, lambda stack, condition: 2.0, spread=0.3)
    errors = results.confirmation(rows, "lstm")
    assert lottery.by_chance(1) == pytest.approx(1 / 7)
    for tries in (1, 2, 5):
        drawn = np.random.default_rng(0).random((200_000, 1 + 6 * tries))
        best = drawn[:, 1:].reshape(-1, 6, tries).min(2).max(1)
        assert lottery.by_chance(tries) == pytest.approx((best < drawn[:, 0]).mean(), abs=0.005)
    assert lottery.pattern(errors, "lstm", NEM)["all six better"] == pytest.approx(1 / 7, abs=0.06)
    sure = results.confirmation(fabricate.confirmed(FIRST, 5, fabricate.as_the_paper_if_reversed, spread=1e-9), "gru")
    assert lottery.pattern(sure, "gru", REVERSED)["all six better"] == 1
    assert set(lottery.pattern(sure, "gru", NEM, 5, common=True).values()) == {0.0}
