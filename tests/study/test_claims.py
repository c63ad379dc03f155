"""The study: what is trained and chosen, its rows, the rules of its verdicts, and whole in its quick form."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nem.conditions import CONDITIONS
from pipeline import params
from pipeline.evaluation import statistics
from pipeline.evaluation.statistics import Bootstrap
from pipeline.study import claims, effects, grid, rows, saturation
from pipeline.study.claims import expand, status, together, verdict
from pipeline.study.effects import Effect
from pipeline.training import train
from stages import study as stage
from tests.conftest import refused
from tests.study.conftest import HEADS, SPLITS, regime_rows, row_of
from tests.training import small
from tools import readme

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
        refused(ValueError, "expected patterns", expand, wrong)
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
    refused(ValueError, "equal repetitions", effects.side, noisy[:2], noiseless)


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
    errors = {name: -np.log(loss(name) * (1 + 0.001 * grid)) for name in CONDITIONS}
    sides = {name: {"error": error, "speed": grid * 1.0, "accuracy": nothing} for name, error in errors.items()}
    where = (effects.Context("the paper's regime", "fx", "days", "identity", cell) for cell in ("lstm", "gru"))
    return dict.fromkeys(where, sides)


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
    alike = judged(lambda *p: better(p[-1]), first=paper_regime(better, 6))
    assert alike.verdict[[beats, both]].tolist() == [claims.SUPPORTED] * 2


def test_a_verdict_says_where_its_number_is_from_and_names_the_weakest_comparison():
    table = judged(lambda *p: 0.3 if p[-1] == WEAK else better(p[-1]))
    assert WEAK in table.condition_of_verdict[BEATS]
    assert "for in 12 of 12" in table.condition_of_verdict[IMPROVES]
    assert "fabricated clips; " not in table.condition_of_verdict[AMOUNT]
    assert table.ours[AMOUNT].startswith("+50")


def test_rows_say_what_was_trained_and_agree_with_the_repetition(prepared, quick):
    entry = next(entry for entry in grid.the_map(quick) if entry.task == "video")
    table = rows.frame(rows.collect([entry, replace(entry, purpose="again", keep=("none",))], "test"))
    assert len(table) == (len(entry.keep) + 1) * 2
    assert table.groupby("purpose").condition.nunique().to_dict() == {"again": 1, "map": 13}
    assert (set(table.cell), set(table["head"])) == ({"lstm"}, {"softmax"})
    assert (table.sigma_hidden == entry.work.settings.noise.of("hidden", "additive").sigma).all()
    for _, repetition in train.run([entry.work], label="test", keep="study"):
        own = table[(table.repetition == repetition.number) & (table.purpose == "map")].set_index("condition")
        for place, condition in enumerate(repetition.conditions):
            row, epochs = own.loc[condition], entry.work.settings.epochs
            losses = repetition.curves[place, :, rows.METRICS.index("test_loss")].numpy()
            np.testing.assert_array_equal(row.curve, losses)
            assert row.test_loss == losses[epochs]
            assert row.validation_loss == float(repetition.validation[place, 0])
            assert not row.failed


def test_what_is_kept_is_not_trained_again_and_a_failed_network_has_no_numbers(prepared, quick, monkeypatch):
    """And a changed rule of evaluation changes the rows of what is kept."""
    place = next(iter(grid.places(quick, every_split=False)))
    work = place.work(("sgd", 1e30, 0.3, 0.0), ["blind-additive-both"], 1)
    table = rows.frame(rows.collect([grid.Entry("map", place.task, work, work.settings.conditions)], "test"))
    assert table.failed.all()
    assert table[list(rows.MEASURES)].isna().all(axis=None)
    entries = [entry for entry in grid.the_map(quick) if entry.task == "video"][:2]
    first = rows.frame(rows.collect(entries, "test"))
    monkeypatch.setattr(train, "_train_stack", lambda stack: pytest.fail("trained again"))
    again = rows.frame(rows.collect(entries, "test"))
    pd.testing.assert_frame_equal(again, first)
    monkeypatch.setattr(rows, "calibration_error", lambda predictions, labels: 7.0)
    assert (rows.frame(rows.collect(entries, "test")).calibration_error[~first.failed] == 7).all()


PLACES = ("fx_days", "video_groups", "video_random")
PICTURES = ("map_fx", "map_video", *(f"against_noiseless_{at}" for at in PLACES), "theory", "groups_video")


@pytest.mark.slow
def test_the_quick_study_is_whole(prepared):
    """Killed and resumed: tests/faults."""
    assert stage.main(["quick"]) == 0
    folder = stage.FOLDER / "quick"
    table = pd.read_csv(folder / "claims.csv", dtype=str, keep_default_na=False)
    assert tuple(table.columns) == claims.COLUMNS
    assert len(table) == len(claims.load()) + 1
    kinds = (claims.SUPPORTED, claims.ONLY_IF, claims.NONE, claims.OPPOSITE, claims.UNDECIDED)
    assert table.verdict.str.startswith(kinds).all()
    assert table.condition_of_verdict[:-1].str.contains("GENERATED").all(), "results must say what their data are"
    pictures = {file.name for file in folder.glob("*.png")}
    assert pictures == {f"study_{n}.png" for n in PICTURES}
    page = (folder / "study.html").read_text("utf-8")
    assert page.count("data:image/png") == len(PICTURES)
    assert "GENERATED" in page
    compared = pd.read_csv(folder / "comparisons.csv")
    references = {"none", "blind", "matched", "expected-nem", grid.SAME_RATE, "base", "rescaled"}
    assert set(compared.reference) == references
    same = compared[(compared.reference == "none") & (compared.purpose == "slow")]
    assert set(same.condition) == set(grid.EVERY[1:])
    assert (same.learning_rate == same.task.map({"fx": 0.01, "video": 0.01})).all()


def test_without_data_the_message_says_what_to_do(project, quick, capsys):
    (project / "params.yaml").write_text(params.render(params.Params()), encoding="utf-8")
    refused(FileNotFoundError, "dvc repro", grid.the_map, quick)
    assert stage.main(["judge"]) == 1
    assert "study: expected" in capsys.readouterr().err


def test_the_page_gets_the_summary_and_its_pictures(project):
    """Where there is no study, the page stays."""
    before = "Rules\n<!-- study:start -->\nold\n<!-- study:end -->\nend\n"
    readme.IMAGES.mkdir(parents=True)
    for file in (readme.README, readme.RESULTS, readme.STUDY):
        file.write_text(before)
    assert readme.main() == 0
    assert readme.STUDY.read_text() == before
    readme.SUMMARY.parent.mkdir(parents=True)
    readme.SUMMARY.write_text("### Numbers\n\n![what is seen](study_map_fx.png)\n")
    readme.SUMMARY.with_name("study_map_fx.png").write_bytes(b"picture")
    assert readme.main() == 0
    shown = "### Numbers\n\n![what is seen](images/study_map_fx.png)"
    assert readme.STUDY.read_text() == before.replace("old", shown)
    assert (readme.IMAGES / "study_map_fx.png").read_bytes() == b"picture"
    assert readme.README.read_text() == before


def test_logistic_regression_sees_the_mean_and_no_order():
    def by_mean(side):
        return replace(side, targets=torch.eye(3)[(side.pool[side.index].mean(1)[:, 0] > 0).long()])

    data = small.dataset("softmax", (30, 15, 15))
    data = replace(data, train=by_mean(data.train), test=by_mean(data.test), validation=by_mean(data.validation))
    probabilities = saturation.logistic(data)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert not probabilities[:, 2].any(), "a class that is not among the training sequences"
    assert (probabilities.argmax(1) == data.test.targets.argmax(1).numpy()).mean() > 0.8
    turned = replace(data, test=replace(data.test, index=data.test.index.flip(1)))
    np.testing.assert_allclose(saturation.logistic(turned), probabilities, rtol=1e-5)
    refused(ValueError, "expected validation", saturation.logistic, replace(data, validation=None))


def test_scores_count_sequences_and_recordings():
    data = small.dataset("softmax", (20, 4, 0))
    test = replace(data.test, targets=torch.eye(3)[[0, 0, 1, 2]])
    probabilities = np.array([[0.9, 0.1, 0.0], [0.4, 0.6, 0.0], [0.0, 0.9, 0.1], [0.3, 0.4, 0.3]])
    names = dict(zip(test.rows.tolist(), ["a", "a", "b", "c"], strict=True))
    told = rows.scores(probabilities, replace(data, test=test), names)
    assert told["recording_accuracy"] == pytest.approx(2 / 3), "the mean of a's two clips is right"
    assert "recording_accuracy" not in rows.scores(probabilities, replace(data, test=test), None)


def test_the_tables_hold_what_was_fabricated():
    def row(purpose, condition, r, accuracy, split="groups", cell="lstm"):
        numbers = {"test_accuracy": accuracy, "test_loss": 1 - accuracy}
        return row_of(purpose, "video", split, cell, condition, r, **numbers)

    pairs = [(c, r) for c in ("none", "nem-additive-both") for r in range(4)]
    told = {"groups 1": 0.5, "order shuffled": 0.6, "tuned": 0.8}
    table = [row(purpose, c, r, value + 0.01 * r) for purpose, value in told.items() for c, r in pairs]
    table += [row("tuned", c, r, 0.99, split="random") for c, r in pairs] + [row("slow", c, r, 0.1) for c, r in pairs]
    table += [row("tuned", "matched-additive-both", r, 0.2) for r in range(4)]
    own = saturation.of(pd.DataFrame(table))
    found = saturation.table(own, BOOTSTRAP).set_index(["training", "condition"])
    assert len(found) == 6
    for training, value in (("groups 1", 0.5), ("order shuffled", 0.6), ("groups all", 0.8)):
        line = found.loc[training, "none"]
        assert line.test_accuracy == pytest.approx(100 * (value + 0.015))
        assert line.test_accuracy_low < line.test_accuracy < line.test_accuracy_high
        assert line.n == 4


def map_rows(settings, seed=0):
    random, table = np.random.default_rng(seed), []
    for entry in grid.the_map(settings):
        work, noise = entry.work, entry.work.settings.noise.of("output", "additive")
        about = {name: getattr(work.settings, name) for name in ("optimiser", "learning_rate")}
        about |= {"sigma_output": noise.sigma, "decay_output": noise.decay}
        for condition, r in itertools.product(entry.keep, work.repetitions):
            about |= {"validation_loss": random.uniform(), "test_loss": 1.0}
            table.append(row_of("map", entry.task, work.split, work.settings.cell, condition, r, **about))
    return pd.DataFrame(table)


@pytest.fixture(params=["quick", "full"])
def settings(request, quick, prepared):
    return quick if request.param == "quick" else params.Params()


def test_the_map_is_the_whole_grid_once_with_seeds_of_its_own(settings):
    entries = grid.the_map(settings)
    assert len({entry.work for entry in entries}) == len(entries)
    for (task, options), cell in itertools.product(settings.study.tasks.items(), settings.cells):
        own = [e.work.settings for e in entries if (e.task, e.work.settings.cell) == (task, cell)]
        noisy = [s for s in own if len(s.conditions) > 1]
        strengths = len(settings.study.sigmas) * len(settings.study.decays)
        assert len(noisy) == strengths * len(grid.rates(options.rates))
        assert {s.conditions for s in noisy} == {CONDITIONS}
        alone = {(s.optimiser, s.learning_rate) for s in own if s.conditions == ("none",)}
        assert alone == set(grid.rates(options.noiseless))
    assert {entry.work.split for entry in entries} == {"days", "groups"}
    assert settings.seed not in {entry.work.seed for entry in entries}
    assert {entry.work.stride for entry in entries if entry.task == "fx"} == {settings.study.tasks["fx"].stride}


def test_the_best_validation_loss_is_chosen_and_test_losses_do_not_matter(settings):
    rows = map_rows(settings)
    own = rows[(rows.task == "fx") & (rows.cell == "gru")]
    slow = settings.study.tasks["fx"].rates["sgd"][0]
    chosen = grid.choose(own, slow)
    for condition in CONDITIONS:
        means = own[own.condition == condition].groupby(grid.CHOSEN).validation_loss.mean()
        noise = (0.0, 0.0) if condition == "none" else means.idxmin()[2:]
        assert chosen["tuned", condition] == (*means.idxmin()[:2], *noise)
        assert chosen["slow", condition][:2] == ("sgd", slow)
    for beside, nem in grid.BESIDE.items():
        assert chosen["tuned", beside] == chosen["tuned", nem]
    assert grid.choose(own.assign(test_loss=np.arange(len(own))), slow) == chosen
    hit = own.condition == "nem-additive-both"
    for column, value in zip(grid.CHOSEN, chosen["tuned", "nem-additive-both"], strict=True):
        hit &= own[column] == value
    failed = own.assign(validation_loss=own.validation_loss.where(own.index != own.index[hit][0]))
    assert grid.choose(failed, slow).get(("tuned", "nem-additive-both")) != chosen["tuned", "nem-additive-both"]


def test_the_finals_train_every_condition_once_per_context(settings):
    entries = grid.finals(settings, map_rows(settings))
    kept = {}
    for e in entries:
        kept.setdefault((e.task, e.work.split, e.work.settings.cell, e.purpose), []).extend(e.keep)
    for task, cell, regime in itertools.product(HEADS, settings.cells, grid.REGIMES):
        for split in SPLITS[task]:
            assert sorted(kept[task, split, cell, regime]) == sorted(grid.EVERY)
    stacks = [entry.work.settings for entry in entries]
    assert all("none" in stack.conditions for stack in stacks)
    assert {stack.granularity for stack in stacks} == {"slice", "time", "neuron"}
    assert {stack.hidden_injection for stack in stacks} == {"forward", "backward"}
    assert {stack.latent for stack in stacks} == {"mean-field", "sampled"}
    assert {entry.work.seed for entry in entries} == {settings.seed}
    assert {entry.task for entry in entries if entry.purpose == "rescaled"} == {"video"}
    for stack in stacks:
        general = [name for name in stack.conditions if name.startswith("expected-nem") and name.endswith("hidden")]
        assert not general or len(stack.conditions) == len(general) + 1, "these would slow the others down"


def test_what_cannot_be_studied_is_named(quick, prepared):
    without = quick.study.model_copy(update={"tasks": {"video": quick.study.tasks["video"]}})
    refused(ValueError, "expected one of", grid.the_map, quick.model_copy(update={"tasks": ["fx"], "study": without}))
