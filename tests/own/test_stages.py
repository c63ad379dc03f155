"""Own sequences through every stage, and the same networks from a notebook."""

import json
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest

from nem.conditions import CONDITIONS
from pipeline import params, serving, tasks
from pipeline.common import paths
from pipeline.common import sequences as sequences_of
from pipeline.compare import compare
from pipeline.evaluation import metrics
from pipeline.own.arrays import OwnError
from pipeline.training import models, results
from stages import acquire, evaluate, sequences, track, train
from tests.conftest import refused

RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(60, 4, 3))
SUM = X.sum((1, 2))
Y = {"labels": np.stack([SUM > 0, X[:, 0, 0] > 0], 1), "values": np.stack([SUM, X[:, -1, 0]], 1), "classes": SUM > 1}
HEADS = {"labels": "logistic", "values": "identity", "classes": "softmax"}
LENGTHS = {kind: np.where(np.arange(60) % 2, 4, 4 - (kind == "values")) for kind in Y}  # values: of several lengths
FEW = ["none", "blind-multiplicative-both", "nem-additive-both"]
SMALL = {"hidden": 3, "epochs": 3, "max_epochs": 4, "batch_size": 16}


def one_by_one(predict, data, change=lambda slices: slices):
    """Return what is predicted of each test sequence, which has its own number of slices."""
    of_each = [change(data.test.pool[rows[rows >= 0]].numpy())[None] for rows in data.test.index]
    return [predict(one) for one in of_each]


def run(kind, *lines, **acquired):
    """Run stages on a file of sequences with these answers."""
    np.savez("mine.npz", x=X, y=Y[kind], lengths=LENGTHS[kind])
    content = params.Params(tasks=["own"], cells=["lstm"]).model_dump()
    content["own"]["acquire"] |= {"path": "mine.npz", **acquired}
    content["training"] |= {"repetitions": 2, "conditions": FEW}
    content["evaluate"]["bootstrap"], content["train"]["own"] = 10_000, content["train"]["own"] | SMALL
    Path("params.yaml").write_text(params.render(params.validate(content)))
    for stage, line in ((acquire, ["own"]), (sequences, None), (train, ["own", "lstm"]), (evaluate, None)):
        assert stage.main(line) == 0
    return json.loads(paths.METRICS.read_text())["own"]["lstm"]


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind != "values")) for kind in Y])
def test_a_file_gives_tables_report_and_the_numbers_of_a_notebook(kind, project, capsys):
    found = run(kind, title="Sums <of slices>", unit="metres")
    task, page = tasks.of("own").of(HEADS[kind]), paths.REPORT.read_text("utf-8")
    measure = task.measure
    table = pd.read_csv(paths.TABLES / f"own_lstm_{measure.quantity}.csv", index_col=0)
    assert table.loc["RBP with NEM noise", "additive_both"] == pytest.approx(
        measure.scale * found["nem-additive-both"][measure.name]["mean"], rel=1e-5
    )
    assert "Sums &lt;of slices&gt;: LSTM" in page
    section = page.split('<section id="own"')[1].split('<section id="baselines')[0]
    assert "paper" not in section.lower()
    assert ("metres" in section) == (kind == "values")
    run_ = results.load("own", "lstm")
    answers = run_.predictions.column(run_.predictions.column_names[-1])
    assert len(answers[0].as_py()) == Y["values"].shape[1], "no output is lost"
    assert set(run_.record["classes"]) == (set() if kind == "values" else {"0", "1"})
    told = capsys.readouterr().out
    assert "With 2 repetitions no difference can be significant" in told
    # A best network answers what its file of predictions says.
    network = models.load(paths.run_folder("own", "lstm") / "models" / "none.safetensors")
    data = sequences_of.load(paths.sequences("own"))
    said = np.concatenate(one_by_one(network.predict, data)) * data.target_scale + data.target_offset
    filed = metrics.predicted(run_, "none")[network.about["repetition"]]
    np.testing.assert_allclose(said, filed, atol=1e-4)
    mine = [x[:count] for x, count in zip(X, LENGTHS[kind], strict=True)]
    same = compare(mine, Y[kind], conditions=FEW, repetitions=2, epochs=3, hidden=3, batch_size=16)
    same = same.set_index("condition")
    for condition, numbers in found.items():
        row = same.loc[condition]
        assert (row["mean"], row["low"], row["high"]) == tuple(
            numbers[measure.name][n] for n in ("mean", "ci_low", "ci_high")
        )
        assert row.metric == measure.name
    assert track.main([]) == 0
    told = capsys.readouterr()
    assert "no model of own lstm was registered" not in told.err
    # What MLflow serves takes raw inputs and answers everything.
    scaling = data.origin["inputs"]
    Path("inputs.json").write_text(json.dumps(scaling))
    served = serving.ServedNetwork()
    weights = str(paths.run_folder("own", "lstm") / "models" / "none.safetensors")
    served.load_context(SimpleNamespace(artifacts={"weights": weights, "inputs": "inputs.json"}))
    raw = lambda slices: slices * np.array(scaling["scale"]) + scaling["offset"]  # noqa: E731
    answer = pd.concat(one_by_one(lambda one: served.predict(None, one), data, raw))
    columns = {"labels": ["0", "1"], "values": ["metres 0", "metres 1"], "classes": ["class", "0", "1"]}[kind]
    assert answer.columns.tolist() == columns
    np.testing.assert_allclose(answer[columns[-2:]], filed, atol=1e-4)
    notes = [run.data.tags.get("mlflow.note.content", "") for run in mlflow.search_runs(
        search_all_experiments=True, output_format="list")]  # fmt: skip
    assert any("**Sums <of slices>, first split, LSTM**" in note for note in notes), "titled by the task"


def test_a_task_without_a_file_says_where_to_name_it(project, capsys):
    Path("params.yaml").write_text(params.render(params.Params(tasks=["own"])))
    Path("none").write_text("what DVC watches where no file is named")
    assert acquire.main(["own"]) == 1
    assert "expected own.acquire.path for the task of own sequences, found none" in capsys.readouterr().err


def test_a_difference_in_a_notebook_is_paired_judged_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"conditions": ["none", "nem-additive-output"], "epochs": 2, "hidden": 2, "optimiser": "sgd"}
    few, enough = (compare(X, SUM, repetitions=n, **options) for n in (5, 6))
    assert few.verdict.tolist() == ["", "too few repetitions"]
    assert enough.verdict[1] != "too few repetitions", "1 comparison takes 6: 2/2**6 < 0.05"
    assert enough.difference[1] == pytest.approx(enough["mean"][1] - enough["mean"][0])
    assert enough.difference_low[1] <= enough.difference[1] <= enough.difference_high[1]
    assert 0 < enough.accepted_outputs[1] < 1
    assert enough.accepted_gates.isna().all()
    assert enough.repetitions.tolist() == [6, 6]
    assert not list(tmp_path.iterdir())
    ragged = [x[k % 2 :] for k, x in enumerate(X)]
    assert list(compare(ragged, SUM, repetitions=2, **options).condition) == options["conditions"]
    words = "first_target of at least 2, as the shortest of the sequences has 3 slices of 4, found 1"
    refused(ValueError, words, compare, ragged, SUM, first_target=1, **options)


def test_what_a_notebook_asks_wrongly_is_named_before_any_training():
    refused(params.ParamsError, r"train.own.hiden: unknown parameter; did you mean 'hidden'", compare, X, SUM, hiden=3)
    refused(params.ParamsError, "expected the condition 'none'", compare, X, SUM, conditions=CONDITIONS[1:])
    refused(params.ParamsError, "own.sequences.split", compare, X, SUM, split="half")
    refused(params.ParamsError, "cells.0: .*found 'rnn'", compare, X, SUM, cell="rnn")
    refused(OwnError, "expected finite numbers in x", compare, X * np.nan, SUM)
