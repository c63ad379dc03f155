"""The search reads no test sequence's target and chooses what it says it chooses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline import params
from pipeline.common import paths, records, sequences
from pipeline.fx import rates, synthetic
from pipeline.training import settings, tune
from stages import tune as stage
from tests.training import small

GRID = tune.Grid((("sgd", 0.1, 0.0), ("adam", 0.01, 0.0)), (0.1, 0.3), (0.0,), repetitions=2)


@pytest.fixture
def search(project):
    """Write two forms of a task's data; return what searches them."""

    def run(change=lambda table: table, head="identity"):
        table, forms = small.table(head), {"plain": Path("plain"), "large": Path("large")}
        for folder, scale in zip(forms.values(), (1, 30), strict=True):
            sequences.write(folder, change(replace(table, pools={"": table.pools[""] * scale})))
        work = small.work(forms["plain"], networks=False, checkpoint_every=None)
        cells = [small.settings(cell=cell, hidden=3, epochs=2, max_epochs=3) for cell in ("lstm", "gru")]
        return tune.tune(forms, cells, work, GRID)

    return run


def other_test_targets(table):
    test = table.splits["first"] == "test"
    noise = np.random.default_rng(1).uniform(0.1, 10, table.targets.shape).astype(np.float32)
    return replace(table, targets=np.where(test[:, None], noise, table.targets))


def test_test_sequences_change_nothing_and_the_best_is_chosen(search):
    choice, again = search(), search(other_test_targets)
    assert (choice.data, choice.networks) == (again.data, again.networks)
    assert choice.noiseless.equals(again.noiseless)
    assert choice.noisy.equals(again.noisy)
    assert (len(choice.noiseless), len(choice.noisy)) == (2 * 2 * 2, 2 * 2 * len(tune.NOISY))
    sums = choice.noiseless.groupby(["data", "cell"]).validation_loss.min().groupby("data").sum()
    assert choice.data == sums.idxmin()
    for cell, chosen in choice.networks.items():
        rows = choice.noiseless[(choice.noiseless.cell == cell) & (choice.noiseless.data == choice.data)]
        best = rows.loc[rows.validation_loss.idxmin()]
        assert (chosen["optimiser"], chosen["learning_rate"]) == (best.optimiser, best.learning_rate)
        rows = choice.noisy[(choice.noisy.cell == cell) & (choice.noisy.condition == "nem-additive-hidden")]
        assert chosen["noise"]["hidden"]["additive"]["sigma"] == rows.loc[rows.validation_loss.idxmin()].sigma
        assert (rows.lowest <= rows.validation_loss).all()
        # What was chosen is what a task's network takes for one cell.
        network = {name: value for name, value in small.settings().as_dict().items() if name != "cell"}
        assert settings.of({}, {**network, cell: chosen}, cell).learning_rate == best.learning_rate


def test_classes_are_searched_and_data_without_validation_and_networks_that_all_fail_refused(search):
    assert search(head="softmax").noiseless.validation_loss.between(0, 10).all()

    def joined(table):
        return replace(table, splits={"first": np.where(table.splits["first"] == "test", "test", "train")})

    with pytest.raises(ValueError, match="validation sequence"):
        search(joined)
    with pytest.raises(ValueError, match="finite"):
        search(lambda table: replace(table, targets=table.targets * np.float32(1e30)))


def test_the_stage_writes_tables_and_overrides(project, monkeypatch, capsys):
    monkeypatch.setattr(tune.Grid, "__init__", lambda self: self.__dict__.update(GRID.__dict__))
    content = params.Params(tasks=["fx"]).model_dump()
    content["fx"]["windows"]["train_end"] = 90
    content["train"]["fx"] |= {"hidden": 3, "epochs": 2, "max_epochs": 2, "batch_size": 32}
    monkeypatch.setattr(params, "load", lambda: params.validate(content))
    rates.write(synthetic.generate(120, 1), rates.RATES)
    records.write_json(paths.source_record("fx"), {"source": "synthetic"})
    assert stage.main([]) == 0, capsys.readouterr().err
    text = (project / "docs/tuning_fx.md").read_text()
    assert "make tune TASK=fx" in text
    assert text.count("\n| ") == 2 * 2 * 2 + 2 * 2 * 4 + 4
    assert "scaling:" in capsys.readouterr().out
    assert not [place for place in paths.CHECKPOINTS.iterdir() if place.name.startswith("tune")]
