"""What is trained, what is chosen, and that the choice knows nothing of test data."""

import itertools

import numpy as np
import pandas as pd
import pytest

from nem.conditions import CONDITIONS
from pipeline import params
from pipeline.study import grid
from tests.study.conftest import HEADS, SPLITS, row_of


def map_rows(settings, seed=0):
    """Fabricated rows of the map with random losses."""
    random, table = np.random.default_rng(seed), []
    for entry in grid.the_map(settings):
        work = entry.work
        about = {name: getattr(work.settings, name) for name in ("optimiser", "learning_rate")}
        about |= {"sigma_output": work.settings.noise.of("output", "additive").sigma}
        about |= {"decay_output": work.settings.noise.of("output", "additive").decay}
        for condition, r in itertools.product(entry.keep, work.repetitions):
            about |= {"validation_loss": random.uniform(), "test_loss": 1.0}
            table.append(row_of("map", entry.task, work.split, work.settings.cell, condition, r, **about))
    return pd.DataFrame(table)


@pytest.fixture(params=["quick", "full"])
def settings(request, quick, prepared):
    """Parameters of both studies, in a folder with data."""
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
