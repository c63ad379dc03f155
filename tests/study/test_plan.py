"""What is trained, what is chosen, and that the choice knows nothing of test data."""

import itertools

import numpy as np
import pandas as pd
import pytest

from pipeline.conditions import CONDITIONS
from pipeline.study import plan, runs, summary
from tests.conftest import ROOT

PARAMS = ROOT / "study" / "params.yaml"


@pytest.fixture(scope="module", params=["quick", "full"])
def study(request):
    return plan.load(request.param, PARAMS)


def map_rows(study, seed=0):
    """Fabricated rows of the map with random losses."""
    random, found = np.random.default_rng(seed), []
    for entry in plan.the_map(study):
        for condition, r in itertools.product(entry.keep, range(study.map_repetitions)):
            row = dict.fromkeys(runs.MEASURES, np.nan) | {"validation_loss": random.uniform(), "test_loss": 1.0}
            found.append({"purpose": "map", **entry.setting.axes(), "condition": condition, "repetition": r, **row})
    return pd.DataFrame(found)


def test_the_map_is_the_whole_grid_once(study):
    entries = plan.the_map(study)
    assert len({entry.setting for entry in entries}) == len(entries)
    for task, cell in itertools.product(plan.TASKS, plan.CELLS):
        grid = study.grid(task)
        mine = [e for e in entries if (e.setting.task, e.setting.cell) == (task, cell) and len(e.keep) > 1]
        assert len(mine) == (len(grid.sgd) + len(grid.adam)) * len(grid.sigmas) * len(grid.decays)
        assert {e.keep for e in mine} == {CONDITIONS}
        alone = {e.setting.rate for e in entries if e.keep == ("none",) and e.setting.task == task}
        assert alone == {*grid.noiseless_sgd, *grid.noiseless_adam}


def test_the_best_validation_loss_is_chosen_and_test_losses_do_not_matter(study):
    rows = map_rows(study)
    mine = rows[(rows.task == "fx") & (rows.cell == "gru")]
    chosen = plan.choose(mine, study, "fx")
    for condition in CONDITIONS:
        part = mine[mine.condition == condition]
        means = part.groupby(["optimiser", "rate", "sigma", "decay"]).validation_loss.mean()
        best = dict(zip(means.index.names, means.idxmin(), strict=True))
        if condition != "none":
            assert chosen["tuned", condition] == best
        assert (chosen["tuned", condition]["optimiser"], chosen["tuned", condition]["rate"]) == means.idxmin()[:2]
        assert chosen["slow", condition]["rate"] == study.fx.sgd[0]
        assert chosen["slow", condition]["optimiser"] == "sgd"
    for beside, nem in plan.BESIDE.items():
        assert chosen["tuned", beside] == chosen["tuned", nem]
    assert plan.choose(mine.assign(test_loss=np.arange(len(mine))), study, "fx") == chosen


def test_a_setting_that_failed_once_is_not_chosen(study):
    rows = map_rows(study)
    mine = rows[(rows.task == "clips") & (rows.cell == "lstm")].copy()
    picked = plan.choose(mine, study, "clips")["tuned", "nem-additive-both"]
    hit = mine.condition == "nem-additive-both"
    for key, value in picked.items():
        hit &= mine[key] == value
    mine.loc[mine.index[hit][0], "validation_loss"] = np.nan
    found = plan.choose(mine, study, "clips")
    assert found.get(("tuned", "nem-additive-both")) != picked


def test_the_finals_train_every_condition_once_per_context(study):
    entries = plan.finals(study, map_rows(study))
    for task, cell, regime in itertools.product(plan.TASKS, plan.CELLS, plan.REGIMES):
        for split in plan.SPLITS[task]:
            kept = [
                name
                for e in entries
                if (e.setting.task, e.setting.cell, e.purpose, e.setting.split) == (task, cell, regime, split)
                for name in e.keep
            ]
            assert sorted(kept) == sorted(plan.EVERY)
    assert all("none" in entry.setting.conditions for entry in entries)
    assert {e.setting.granularity for e in entries} == {"slice", "time", "neuron"}
    assert {e.setting.injection for e in entries} == {"forward", "backward"}
    assert {e.setting.latent for e in entries} == {"mean-field", "sampled"}


def test_the_map_does_not_know_the_repetitions_of_the_finals(study):
    assert runs.map_seed(study) != study.seed


@pytest.mark.parametrize(
    ("curve", "goal", "epoch"),
    [([9, 5, 3, 1], 3, 2), ([1, 5, 5, 5], 3, 4), ([9, 5, 3, 1], 0, 4), ([9, 3, 9, 3], 3, 1)],
)
def test_first_passage_counts_from_epoch_one(curve, goal, epoch):
    assert summary.reached(np.array(curve, float), goal) == epoch


def test_unknown_parameters_and_profiles_are_named(tmp_path):
    source = tmp_path / "params.yaml"
    source.write_text(PARAMS.read_text().replace("map_repetitions", "map_repetition"))
    with pytest.raises(ValueError, match="map_repetition"):
        plan.load("full", source)
    with pytest.raises(ValueError, match="expected profile 'slow'"):
        plan.load("slow", PARAMS)
    with pytest.raises(FileNotFoundError, match="project's root"):
        plan.load("full", tmp_path / "none.yaml")
