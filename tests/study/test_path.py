"""The study: what is trained and chosen, rows from training, and whole in its quick form; few groups, known answers."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from nem.conditions import CONDITIONS
from pipeline import params
from pipeline.evaluation.statistics import Bootstrap
from pipeline.study import claims, grid, rows, saturation
from pipeline.training import train
from stages import study as stage
from tests.study.conftest import HEADS, SPLITS, row_of
from tests.training import small
from tools import readme


def test_rows_say_what_was_trained_and_agree_with_the_repetition(prepared, quick):
    entry = next(entry for entry in grid.the_map(quick) if entry.task == "video")
    table = rows.frame(rows.collect([entry, replace(entry, purpose="again", keep=("none",))], "test"))
    assert len(table) == (len(entry.keep) + 1) * 2
    assert table.groupby("purpose").condition.nunique().to_dict() == {"again": 1, "map": 13}
    assert (set(table.cell), set(table["head"])) == ({"lstm"}, {"softmax"})
    assert (table.sigma_hidden == entry.work.settings.noise.sigma("hidden", "additive")).all()
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


PICTURES = ("map_fx", "map_video", "against_noiseless", "theory", "groups_video", "classes_video")


def test_the_quick_study_is_whole(prepared):
    """Killed and resumed: tests/faults."""
    assert stage.main(["quick"]) == 0
    folder = stage.FOLDER / "quick"
    table = pd.read_csv(folder / "claims.csv", dtype=str, keep_default_na=False)
    assert tuple(table.columns) == claims.COLUMNS
    assert len(table) == len(claims.load()) + 1
    kinds = (claims.REPRODUCED, claims.ONLY_IF, claims.NOT, claims.CONTRADICTED)
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
    with pytest.raises(FileNotFoundError, match="dvc repro"):
        grid.the_map(quick)
    assert stage.main(["judge"]) == 1
    assert "study: expected" in capsys.readouterr().err


def test_the_page_gets_the_summary_and_its_pictures(project):
    """Where there is no study, the page stays."""
    before = "Rules\n<!-- study:start -->\nold\n<!-- study:end -->\nend\n"
    readme.IMAGES.mkdir(parents=True)
    for file in (readme.README, readme.STUDY):
        file.write_text(before)
    assert readme.main() == 0
    assert readme.STUDY.read_text() == before
    readme.SUMMARY.parent.mkdir(parents=True)
    readme.SUMMARY.write_text("### Numbers\n")
    readme.SUMMARY.with_name("study_map_fx.png").write_bytes(b"picture")
    assert readme.main() == 0
    shown = "### Numbers\n\n![study map fx](images/study_map_fx.png)"
    assert readme.STUDY.read_text() == before.replace("old", shown)
    assert (readme.IMAGES / "study_map_fx.png").read_bytes() == b"picture"
    assert readme.README.read_text() == before


BOOTSTRAP = Bootstrap(0.95, 200, 1)


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
    with pytest.raises(ValueError, match="expected validation"):
        saturation.logistic(replace(data, validation=None))


def test_scores_count_sequences_and_recordings():
    data = small.dataset("softmax", (20, 4, 0))
    test = replace(data.test, targets=torch.eye(3)[[0, 0, 1, 2]])
    probabilities = np.array([[0.9, 0.1, 0.0], [0.4, 0.6, 0.0], [0.0, 0.9, 0.1], [0.3, 0.4, 0.3]])
    names = dict(zip(test.rows.tolist(), ["a", "a", "b", "c"], strict=True))
    told = rows.scores(probabilities, replace(data, test=test), names)
    assert told["confusion"] == [1, 1, 0, 0, 1, 0, 0, 1, 0]
    assert told["recording_accuracy"] == pytest.approx(2 / 3), "the mean of a's two clips is right"
    assert "recording_accuracy" not in rows.scores(probabilities, replace(data, test=test), None)


def test_the_tables_hold_what_was_fabricated():
    def row(purpose, condition, r, accuracy, split="groups", cell="lstm"):
        counts = [3, 1, 0, 4] if condition == "none" else [2, 2, 2, 2]
        numbers = {"test_accuracy": accuracy, "test_loss": 1 - accuracy, "confusion": counts}
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
    right = saturation.classes(own, {"video": ("run", "walk")})
    none = right[right.condition == "none"].set_index(["class", "predicted"])
    assert none.percent.to_dict() == {
        ("run", "run"): 75,
        ("run", "walk"): 25,
        ("walk", "run"): 0,
        ("walk", "walk"): 100,
    }
    assert none["count"].sum() == 4 * 8


def map_rows(settings, seed=0):
    random, table = np.random.default_rng(seed), []
    for entry in grid.the_map(settings):
        work = entry.work
        about = {name: getattr(work.settings, name) for name in ("optimiser", "learning_rate")}
        about |= {"sigma_output": work.settings.noise.sigma("output", "additive")}
        about |= {"decay_output": work.settings.noise.decay("output", "additive")}
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
    with pytest.raises(ValueError, match="expected one of"):
        grid.the_map(quick.model_copy(update={"tasks": ["fx"], "study": without}))
