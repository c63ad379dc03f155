"""The pipeline under DVC, in a copy of this project with tiny parameters: whole, idle when repeated, and frugal."""

import json
import shutil

import pytest

from pipeline import params
from tests.test_pipeline import command, copied


def tiny():
    content = params.Params(tasks=["fx"]).model_dump()
    content["fx"]["acquire"]["synthetic_days"] = 80
    content["fx"]["windows"]["train_end"] = 60
    content["evaluate"]["bootstrap"] = 100
    content["training"]["repetitions"] = 2
    content["train"]["fx"] |= {"hidden": 3, "epochs": 2, "max_epochs": 3}
    return params.render(params.validate(content))


@pytest.mark.timeout(600)
def test_one_task_alone_runs_rests_and_comes_back_from_the_cache(tmp_path):
    folder = copied(tmp_path)
    (folder / "params.yaml").write_text(tiny())
    first = command(folder, "dvc", "repro")
    assert first.returncode == 0, first.stderr[-3000:]
    results = folder / "data" / "results"
    metrics = json.loads((results / "metrics.json").read_text())
    assert set(metrics) == {"fx", "baselines"}
    assert metrics["fx"]["gru"]["none"]["test_mse"]["n"] == 2
    assert {file.name for file in (results / "tables").glob("table_*.csv")} == {f"table_{n}.csv" for n in (5, 6, 7, 8)}

    assert "Data and pipelines are up to date." in command(folder, "dvc", "repro").stdout
    assert command(folder, "dvc", "status", "-q").returncode == 0

    shutil.rmtree(folder / "data" / "runs")
    restored = command(folder, "dvc", "repro")
    assert restored.returncode == 0, restored.stderr[-3000:]
    assert "Running stage 'train" not in restored.stdout, "runs come back from DVC's cache"
    assert command(folder, "dvc", "metrics", "show").returncode == 0
    assert command(folder, "dvc", "plots", "show").returncode == 0
